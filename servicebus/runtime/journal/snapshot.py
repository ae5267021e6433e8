"""Snapshot: the state that the rows of the shared log add up to, in the file that the configuration names.

The file is written anew each time and put into its place when it is on the disk, so what stands there is always one
whole state; a checksum at its end covers all of it. Rows up to the one that it names are in it. It says which journal
this is, too: the files beside it say that as well, or they are none of its.

All numbers are little-endian. A chunk that is full takes no bits; most are in the end.
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
from servicebus.runtime.journal.ledger import CHUNK_IDS, Entry, State

__all__ = ["Header", "Place", "flush_folder", "read", "read_header", "write"]

_MAGIC = b"sbussnap"
_FORMER_MAGIC = b"SQLite f"
_FORMAT = 4
_HEAD = struct.Struct("<8sI16sQQI")
_STATE = struct.Struct("<QQQIIQQQ")
_COUNT = struct.Struct("<I")
_CHUNK = struct.Struct("<QQQH")
_ENTRY = struct.Struct("<QQQQIII")
_END = struct.Struct("<8sI")
_END_MAGIC = b"sbus-end"
_LOW_BITS = 64
_LOW_MASK = (1 << _LOW_BITS) - 1
_TIMES_BITS = 64
_FULL = (1 << CHUNK_IDS) - 1
_FULL_SIZE = 0xFFFF
"""In the place of the size of the bits, of a chunk that is full."""
_AT_ONCE = 256
"""So many chunks or entries are made bytes, which takes a few tenths of a millisecond, before others have a turn."""


class Place(NamedTuple):
    """Where a row stands, or would."""

    first: int
    """The segment."""
    at: int


class Header(NamedTuple):
    """What a snapshot begins with."""

    identity: bytes
    seq: int
    """All that this row and those before it told is in the snapshot."""
    place: Place
    """Where the next one stands."""


def write(
    path: Path, header: Header, state: State, is_still_ours: Callable[[], bool], pause: Callable[[], object]
) -> None:
    """Put this state into the place of the one that is there. Raises OSError, and then nothing has changed.

    Args:
        is_still_ours: asked last; if it is not, nothing is changed, and this returns.
        pause: called when others should have a turn.
    """
    new = path.with_name(path.name + ".new")
    with suppress(FileNotFoundError):
        new.unlink()
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
            flush_folder(path.parent)
    finally:
        with suppress(OSError):
            new.unlink()


def read_header(path: Path) -> Header:
    """Raises FileNotFoundError or another OSError; Damaged; JournalUnavailable: it is of a format of another day."""
    with path.open("rb") as file:
        return _unpack_header(path, file.read(_HEAD.size))


def read(path: Path) -> tuple[Header, State]:
    """As ``read_header``; all of it."""
    data = path.read_bytes()
    header = _unpack_header(path, data)
    end = len(data) - _END.size
    if end < _HEAD.size + _STATE.size or _END.unpack_from(data, end) != (
        _END_MAGIC,
        zlib.crc32(memoryview(data)[:end]),
    ):
        raise Damaged(str(path), "is not whole")
    owner, forgotten, answers, until, compacted_at, keep_from, chunk_count, entry_count = _STATE.unpack_from(
        data, _HEAD.size
    )
    at, chunks = _unpack_chunks(data, _HEAD.size + _STATE.size, chunk_count)
    rows = _ENTRY.iter_unpack(memoryview(data)[at : at + entry_count * _ENTRY.size])
    entries: dict[int, Entry] = {high << _LOW_BITS | low: (*entry,) for low, high, *entry in rows}
    return header, State(owner, forgotten, answers, until, compacted_at, keep_from, chunks, entries)


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
    return Header(identity, seq, Place(first, at))


def _parts(header: Header, state: State) -> Iterator[bytes]:
    identity, seq, place = header
    *values, chunks, entries = state
    yield _HEAD.pack(_MAGIC, _FORMAT, identity, seq, *place) + _STATE.pack(*values, len(chunks), len(entries))
    items = iter(chunks.items())
    while some := list(islice(items, _AT_ONCE)):
        yield _pack_chunks(some)
    held = iter(entries.items())
    while few := list(islice(held, _AT_ONCE)):
        yield b"".join(_ENTRY.pack(number & _LOW_MASK, number >> _LOW_BITS, *entry) for number, entry in few)


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
    from_bytes, full = int.from_bytes, _FULL << _TIMES_BITS
    while len(chunks) < count:
        start = at + _COUNT.size
        at = start + _COUNT.unpack_from(data, at)[0] * _CHUNK.size
        for low, high, times, size in _CHUNK.iter_unpack(memoryview(data)[start:at]):
            if size == _FULL_SIZE:
                chunks[high << _LOW_BITS | low] = full | times
            else:
                chunks[high << _LOW_BITS | low] = from_bytes(data[at : at + size], "little") << _TIMES_BITS | times
                at += size
    return at, chunks


def flush_folder(folder: Path) -> None:
    """So that files which were made or removed there are, or are not, after the machine went down."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
