"""Snapshot: the state that the rows of the shared log add up to, in the file that the configuration names.

Each one is written to a new file, which is renamed when it is on the disk, so there is always one complete state; a
checksum at its end covers all of it. It also identifies the journal: files beside it with another identity belong to
another one. All numbers are little-endian. A chunk that is full takes no bits; most are in the end.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from servicebus.runtime.journal.interface import Damaged, JournalUnavailable
from servicebus.runtime.journal.segments import flush
from servicebus.runtime.journal.state import CHUNK_IDS, State

__all__ = ["MAGICS", "Header", "read", "read_header", "write"]

_MAGIC = b"sbussnap"
_FORMER_MAGIC = b"SQLite f"
MAGICS = (_MAGIC, _FORMER_MAGIC)
"""Of a journal, and of one of a former format, which ``read_header`` explains."""
_FORMAT = 4
_HEAD = struct.Struct("<8sI16sQQI")
_STATE = struct.Struct("<QQQIIQQQ")
_COUNT = struct.Struct("<I")
_CHUNK = struct.Struct("<QQQH")
_ENTRY = struct.Struct("<QQQQIII")
_END = struct.Struct("<8sI")
_END_MAGIC = b"sbus-end"
_LOW_BITS = _TIMES_BITS = 64
_LOW_MASK = (1 << _LOW_BITS) - 1
_FULL = (1 << CHUNK_IDS) - 1
_FULL_SIZE = 0xFFFF
"""In the place of the size of the bits, of a chunk that is full."""
_AT_ONCE = 256
"""So many chunks or entries are encoded, which takes a few tenths of a millisecond, before other threads run."""


class Header(NamedTuple):
    """What a snapshot begins with."""

    identity: bytes
    seq: int
    """The snapshot contains this row and those before it."""
    first: int
    """The segment where the next row stands, or would."""
    at: int
    """Its offset there."""


def write(
    path: Path, header: Header, state: State, is_still_ours: Callable[[], bool], pause: Callable[[], object]
) -> None:
    """Replace the snapshot. Raises OSError, and then nothing has changed.

    Args:
        is_still_ours: asked last; if it returns False, nothing is changed.
        pause: lets other threads run.
    """
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            checksum = 0
            for part in _parts(header, state):
                checksum = zlib.crc32(part, checksum)
                file.write(part)
                pause()
            file.write(_END.pack(_END_MAGIC, checksum))
            file.flush()
            os.fsync(fd)
        if is_still_ours():
            new.rename(path)
            flush(path.parent)
    finally:
        with suppress(OSError):
            new.unlink()


def read_header(path: Path) -> Header:
    """Raises FileNotFoundError or another OSError; Damaged; JournalUnavailable: it has another format."""
    with path.open("rb") as file:
        return _unpack_header(path, file.read(_HEAD.size))


def read(path: Path) -> tuple[Header, State]:
    """All of it. Raises as ``read_header`` does."""
    data = path.read_bytes()
    header = _unpack_header(path, data)
    start, end = _HEAD.size + _STATE.size, len(data) - _END.size
    if end < start or _END.unpack_from(data, end) != (_END_MAGIC, zlib.crc32(memoryview(data)[:end])):
        raise Damaged(str(path), "is not whole")
    *values, chunk_count, entry_count = _STATE.unpack_from(data, _HEAD.size)
    state = State(*values)
    at, state.chunks = _unpack_chunks(data, start, chunk_count)
    rows = _ENTRY.iter_unpack(memoryview(data)[at : at + entry_count * _ENTRY.size])
    state.entries = {high << _LOW_BITS | low: (*entry,) for low, high, *entry in rows}
    return header, state


def _unpack_header(path: Path, data: bytes) -> Header:
    if data.startswith(_FORMER_MAGIC):
        raise JournalUnavailable(
            str(path),
            "is a journal of a former format (SQLite): stop the agent, remove it and all files whose names begin with"
            " its name, and start the agent again; or name a new path. Ids that it knew may be run again",
        )
    if len(data) < _HEAD.size or not data.startswith(_MAGIC):
        raise Damaged(str(path), "is no journal")
    _, format, identity, seq, first, at = _HEAD.unpack_from(data)
    if format != _FORMAT:
        raise JournalUnavailable(str(path), f"has format {format}, this servicebus knows {_FORMAT}")
    return Header(identity, seq, first, at)


def _parts(header: Header, state: State) -> Iterator[bytes]:
    values = state.owner, state.forgotten, state.forgotten_answers, state.forgotten_until, state.compacted_at
    sizes = state.keep_from, len(state.chunks), len(state.entries)
    yield _HEAD.pack(_MAGIC, _FORMAT, *header) + _STATE.pack(*values, *sizes)
    chunks, entries = iter(state.chunks.items()), iter(state.entries.items())
    while some := list(islice(chunks, _AT_ONCE)):
        yield _pack_chunks(some)
    while few := list(islice(entries, _AT_ONCE)):
        yield b"".join([_ENTRY.pack(number & _LOW_MASK, number >> _LOW_BITS, *entry) for number, entry in few])


def _pack_chunks(chunks: list[tuple[int, int]]) -> bytes:
    """Their number, then of each its key, times and the size of its bits, then the bits."""
    heads, blobs = [_COUNT.pack(len(chunks))], []
    for key, value in chunks:
        bits = value >> _TIMES_BITS
        size = _FULL_SIZE if bits == _FULL else bits.bit_length() + 7 >> 3
        if size != _FULL_SIZE:
            blobs.append(bits.to_bytes(size, "little"))
        heads.append(_CHUNK.pack(key & _LOW_MASK, key >> _LOW_BITS, value & _LOW_MASK, size))
    return b"".join(heads + blobs)


def _unpack_chunks(data: bytes, at: int, count: int) -> tuple[int, dict[int, int]]:
    """Where they end, and what they are."""
    chunks: dict[int, int] = {}
    while len(chunks) < count:
        start = at + _COUNT.size
        at = start + _COUNT.unpack_from(data, at)[0] * _CHUNK.size
        for low, high, times, size in _CHUNK.iter_unpack(memoryview(data)[start:at]):
            bits = _FULL
            if size != _FULL_SIZE:
                bits = int.from_bytes(data[at : at + size], "little")
                at += size
            chunks[high << _LOW_BITS | low] = bits << _TIMES_BITS | times
    return at, chunks
