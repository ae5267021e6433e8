"""Segments: append-only files of rows, mapped into memory; a stream is a sequence of them. Knows nothing of journals.

A row carries its number, its kind and a checksum over all of it, so a torn row is told from a whole one. A segment is
named after its first row. It does not know where its rows end: the commit pointer does. What follows that end was left
by a writer that died, and is overwritten. A writer that dies after making a segment may leave one that is never read.

The commit pointer is one page that all workers have mapped. It names the segments that are written to, and the *end
offsets* in them, both in one number. A writer puts its rows behind those and then moves them by one store of eight
bytes, so a row is there completely or not at all, wherever its writer is killed. A full segment changes the names too:
so there are two *copies* of them, and a *selector* that names one; the other is written first. Writing needs the lock,
reading does not. The page names its boot of the machine: after another boot its content is not trusted.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from contextlib import suppress
from pathlib import Path

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

_POINTER_BYTES = 4096
_POINTER_HEAD = struct.Struct("<8s16s40s")
_POINTER_MAGIC = b"sbushea2"
# Of the page as numbers of eight bytes.
SELECTOR = 16
_COPIES = 24
_COPY = 4
END_BITS = 32
_END_MASK = (1 << END_BITS) - 1
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class BadSegment(Exception):
    """Raised when a file is no segment of this stream, or lacks a row that must be in it."""


Found = tuple[int, int, int, int, int]
"""A whole row: its number, its kind, where its data begins and ends, and where the next row begins."""


class Segment:
    """One file. Rows are put and found by their offset."""

    __slots__ = ("_memory", "_view", "first", "size")

    def __init__(self, first: int, memory: mmap.mmap):
        self.first = first
        """The number of the first row that may be in it."""
        self.size = len(memory)
        self._memory = memory
        self._view = memoryview(memory)

    def put(self, at: int, seq: int, kind: int, data: bytes) -> int:
        """Write a row to *at*; returns where the next one goes, or 0 if it has no room there."""
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
        """The row at *at*; None if there is no whole one."""
        if at + _ROW_BYTES > self.size:
            return None
        length, checksum, tag = _ROW.unpack_from(self._memory, at)
        start = at + _ROW_BYTES
        stop = start + length
        # The number of a row is never 0, unwritten space is.
        if not tag or stop > self.size:
            return None
        if zlib.crc32(self._view[start:stop], (tag ^ tag >> 32 ^ length) & _CRC_MASK) != checksum:
            return None
        return tag >> _KIND_BITS, tag & _KIND_MASK, start, stop, (stop + 7) & -8

    def data(self, start: int, stop: int) -> bytes:
        return self._memory[start:stop]

    def end_after(self, last: int) -> None:
        """Remove the rows that come after row *last*."""
        at = FIRST_AT
        while (found := self.find(at)) is not None and found[0] <= last:
            at = found[4]
        self.put_end(at)


class Stream:
    """Segments whose names are *prefix* and the number of the first row that may be in them.

    Args:
        identity: 16 bytes; a segment that was made with others belongs to another journal.
        size: of a segment, in bytes; one that is made for a larger row is larger.
    """

    def __init__(self, prefix: Path, identity: bytes, size: int):
        self._prefix, self._identity, self._size = prefix, identity, size

    def firsts(self) -> list[int]:
        """Of all segments, in order."""
        return numbered_files(self._prefix)

    def path(self, first: int) -> Path:
        return self._prefix.with_name(f"{self._prefix.name}{first}")

    def create(self, first: int, room: int = 0) -> Segment:
        """A segment with room for at least a row of *room* bytes, new or of that name. Raises OSError."""
        size = -(-max(self._size, FIRST_AT + row_bytes(room)) // mmap.PAGESIZE) * mmap.PAGESIZE
        with suppress(FileNotFoundError, BadSegment):
            # Of a writer that died, or without a row yet and too small. Not to be replaced: others may have mapped it.
            return self.open(first, size)
        return Segment(first, create_mapped(self.path(first), size, _HEAD.pack(_MAGIC, self._identity, first)))

    def open(self, first: int, at_least: int = 0) -> Segment:
        """That of this name, made larger if need be. Raises FileNotFoundError, BadSegment, or another OSError."""
        path = self.path(first)
        memory = map_file(path, FIRST_AT, at_least)
        if _HEAD.unpack_from(memory) != (_MAGIC, self._identity, first):
            raise BadSegment(f"{path} is no segment of this journal")
        return Segment(first, memory)

    def remove(self, first: int) -> None:
        self.path(first).unlink(missing_ok=True)


def row_bytes(length: int) -> int:
    """The space for a row with so much data."""
    return (_ROW_BYTES + length + 7) & -8


Position = tuple[int, int, int, int]
"""Where the rows end: selector, the segments of the last row and of the last answers (0: none), and ``pack_ends``."""


class CommitPointer:
    """``words`` is the page as numbers of eight bytes, each of which is read and stored at once."""

    def __init__(self, memory: mmap.mmap | bytearray):
        # Not struct: that stores byte by byte, and some of them twice.
        self.words = memoryview(memory).cast("Q")

    def position(self) -> Position:
        words = self.words
        while True:
            selector = words[SELECTOR]
            copy = _COPIES + _COPY * (selector & 1)
            found = selector, words[copy], words[copy + 1], words[copy + 2]
            if words[SELECTOR] == selector:
                return found

    def ends_index(self, selector: int) -> int:
        """Where in ``words`` the end offsets of that copy stand."""
        return _COPIES + _COPY * (selector & 1) + 2

    def publish(self, rows_first: int, answers_first: int, ends: int) -> None:
        copy = _COPIES + _COPY * (self.words[SELECTOR] + 1 & 1)
        self.words[copy], self.words[copy + 1], self.words[copy + 2] = rows_first, answers_first, ends
        self.words[SELECTOR] += 1

    @classmethod
    def create(cls, path: Path, head: tuple[bytes, bytes], first: tuple[int, int, int]) -> CommitPointer:
        """A new one, instead of an unused one. *head*: identity and boot; *first*: to publish. Raises OSError."""
        page = bytearray(_POINTER_BYTES)
        _POINTER_HEAD.pack_into(page, 0, _POINTER_MAGIC, *head)
        cls(page).publish(*first)
        return cls(create_mapped(path, _POINTER_BYTES, bytes(page)))

    @classmethod
    def open(cls, path: Path, head: tuple[bytes, bytes]) -> CommitPointer | None:
        """That of this journal and this boot of the machine; None if there is none. Raises OSError."""
        try:
            memory = map_file(path, _POINTER_BYTES)
        except (FileNotFoundError, BadSegment):
            return None
        is_ours = memory[: _POINTER_HEAD.size] == _POINTER_HEAD.pack(_POINTER_MAGIC, *head)
        return cls(memory) if is_ours else None


def pack_ends(last_at: int, answers_end: int) -> int:
    """Where the last row begins (0: there is none in its segment), and where the answers end, in one number."""
    return last_at // ROW_UNIT | answers_end // ROW_UNIT << END_BITS


def unpack_ends(ends: int) -> tuple[int, int]:
    return (ends & _END_MASK) * ROW_UNIT, (ends >> END_BITS) * ROW_UNIT


def this_boot() -> bytes:
    """Differs after each start of the machine; empty if the machine does not tell."""
    try:
        return _BOOT.read_bytes().strip()
    except OSError:
        return b""


def create_mapped(path: Path, size: int, head: bytes) -> mmap.mmap:
    """A new file that begins with *head*. It has its name when it is complete. Raises OSError."""
    new = path.with_name(path.name.rstrip("0123456789") + ".new")
    new.unlink(missing_ok=True)
    fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        # A page that finds no room on the disk when it is written to would end the process.
        os.posix_fallocate(fd, 0, size)
        memory = mmap.mmap(fd, size)
        memory[: len(head)] = head
        new.rename(path)
    except OSError:
        with suppress(OSError):
            new.unlink()
        raise
    finally:
        os.close(fd)
    return memory


def map_file(path: Path, least: int, size: int = 0) -> mmap.mmap:
    """The file, made larger if it has not *size* bytes. Raises BadSegment: it has not *least*. OSError."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        found = os.fstat(fd).st_size
        if found < least:
            raise BadSegment(f"{path} is too short")
        if found < size:
            os.posix_fallocate(fd, 0, size)
        return mmap.mmap(fd, 0)
    finally:
        os.close(fd)


def numbered_files(prefix: Path) -> list[int]:
    """The numbers that follow *prefix* in the names of files, in order."""
    start = prefix.name
    names = [name for name in os.listdir(prefix.parent) if name.startswith(start)]  # noqa: PTH208
    return sorted(int(name[len(start) :]) for name in names if name[len(start) :].isdecimal())


def flush(path: Path) -> None:
    """Bring a file to the disk, or a folder: which files are in it."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
