"""Segments: append-only files of rows, mapped into memory; a stream is a row of such files. Knows nothing of journals.

A row carries its number, its kind and a checksum over all of it, so a row that is only half there is told from a whole
one. A segment does not know where its rows end: whoever shares it says so (``head.py``), after they were written. What
stands behind the end is of a writer that died, and is written over.

A segment is named after the first row in it. So whoever has read the last row of one knows the name of the next one.
A writer that dies when it has made a segment, and has not said so, may leave one that nobody ever reads.

The room of a segment is made when the file is: a page of a mapped file that finds no room on the disk when it is
written to would end the process.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from contextlib import suppress
from pathlib import Path

__all__ = ["FIRST_AT", "ROW_UNIT", "BadSegment", "Found", "Segment", "Stream", "row_bytes"]

_MAGIC = b"sbusrow2"
_HEAD = struct.Struct("<8s16sQ32x")
FIRST_AT = _HEAD.size
"""Where the first row stands."""
_ROW = struct.Struct("<IIQ")
"""Length of the data, checksum, and in one number the row's own (above) and its kind (the lowest 8 bits)."""
_ROW_BYTES = _ROW.size
_KIND_BITS = 8
_KIND_MASK = (1 << _KIND_BITS) - 1
_CRC_MASK = 0xFFFFFFFF
ROW_UNIT = 8
"""Rows begin at multiples of this."""
_PAGE = mmap.PAGESIZE


class BadSegment(Exception):
    """Raised when a file is no segment, or none of this stream."""


Found = tuple[int, int, int, int, int]
"""A row that is whole: its number, its kind, where its data begins and ends, and where the next row begins. A plain
tuple: one with names takes longer to make than the row to be found."""


class Segment:
    """One file. Rows are put and found by their place in it."""

    __slots__ = ("_memory", "_view", "first", "size")

    def __init__(self, first: int, memory: mmap.mmap):
        self.first = first
        """The number of the first row that may be in it."""
        self.size = len(memory)
        self._memory = memory
        self._view = memoryview(memory)

    def __repr__(self) -> str:
        return f"<Segment from {self.first}>"

    def put(self, at: int, seq: int, kind: int, data: bytes) -> int:
        """Write a row to *at*; gives where the next one goes. 0: it has no room there."""
        length = len(data)
        tag = seq << _KIND_BITS | kind
        end = at + _ROW_BYTES + length
        if end > self.size:
            return 0
        self._memory[at:end] = _ROW.pack(length, zlib.crc32(data, (tag ^ tag >> 32 ^ length) & _CRC_MASK), tag) + data
        return (end + 7) & -8

    def put_end(self, at: int) -> None:
        """No row stands at *at*, whatever a writer that died has left there."""
        if at + _ROW_BYTES <= self.size:
            self._memory[at : at + _ROW_BYTES] = bytes(_ROW_BYTES)

    def find(self, at: int) -> Found | None:
        """The row at *at*; None if there is none that is whole."""
        if at + _ROW_BYTES > self.size:
            return None
        length, checksum, tag = _ROW.unpack_from(self._memory, at)
        start = at + _ROW_BYTES
        stop = start + length
        # The number of a row is never 0, what was never written is.
        if not tag or stop > self.size:
            return None
        if zlib.crc32(self._view[start:stop], (tag ^ tag >> 32 ^ length) & _CRC_MASK) != checksum:
            return None
        return tag >> _KIND_BITS, tag & _KIND_MASK, start, stop, (stop + 7) & -8

    def data(self, start: int, stop: int) -> bytes:
        return self._memory[start:stop]

    def view(self, start: int, stop: int) -> memoryview:
        """``data`` without a copy, to be looked into and let go of."""
        return self._view[start:stop]

    def end_after(self, last: int) -> None:
        """Rows that come after row *last* are none."""
        at = FIRST_AT
        while (found := self.find(at)) is not None and found[0] <= last:
            at = found[4]
        self.put_end(at)

    def flush(self) -> None:
        """To the disk, and wait for it."""
        self._memory.flush()


class Stream:
    """Segments whose names are *prefix* and the number of the first row that may be in them.

    Args:
        identity: 16 bytes; a segment that was made with others is none of ours.
        size: of a segment, in bytes; one that is made for a larger row is larger.
    """

    def __init__(self, prefix: Path, identity: bytes, size: int):
        self._prefix = prefix
        self._identity = identity
        self._size = size

    def __repr__(self) -> str:
        return f"<Stream {self._prefix}>"

    def firsts(self) -> list[int]:
        """Of all segments, in order."""
        start = self._prefix.name
        names = [name for name in os.listdir(self._prefix.parent) if name.startswith(start)]  # noqa: PTH208
        return sorted(int(name[len(start) :]) for name in names if name[len(start) :].isdecimal())

    def path(self, first: int) -> Path:
        return self._prefix.with_name(f"{self._prefix.name}{first}")

    def create(self, first: int, room: int = 0) -> Segment:
        """A new one, with room for at least a row of *room* bytes, or one of that name with as much. Raises OSError."""
        size = -(-max(self._size, FIRST_AT + row_bytes(room)) // _PAGE) * _PAGE
        path = self.path(first)
        with suppress(FileNotFoundError, BadSegment):
            # Of a writer that died, or without a row yet and too small. Not to be replaced: others may have mapped it.
            return self.open(first, size)
        new = path.with_name(f"{self._prefix.name}new")
        with suppress(FileNotFoundError):
            new.unlink()
        fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.posix_fallocate(fd, 0, size)
            memory = mmap.mmap(fd, size)
            _HEAD.pack_into(memory, 0, _MAGIC, self._identity, first)
            new.rename(path)
        except OSError:
            with suppress(OSError):
                new.unlink()
            raise
        finally:
            os.close(fd)
        return Segment(first, memory)

    def open(self, first: int, at_least: int = 0) -> Segment:
        """That of this name, made larger if need be. Raises FileNotFoundError, BadSegment, or another OSError."""
        path = self.path(first)
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            if os.fstat(fd).st_size < FIRST_AT:
                raise BadSegment(f"{path} is too short")
            memory = mmap.mmap(fd, 0)
            if _HEAD.unpack_from(memory) != (_MAGIC, self._identity, first):
                raise BadSegment(f"{path} is no segment of this journal")
            if len(memory) < at_least:
                os.posix_fallocate(fd, 0, at_least)
                memory = mmap.mmap(fd, at_least)
        finally:
            os.close(fd)
        return Segment(first, memory)

    def remove(self, first: int) -> None:
        self.path(first).unlink(missing_ok=True)


def row_bytes(length: int) -> int:
    """What a row with so much data takes."""
    return (_ROW_BYTES + length + 7) & -8
