"""The rows of the shared log, as bytes.

All numbers are little-endian. An id is 16 bytes: the Sender's incarnation and its count, 8 bytes each.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

from servicebus.runtime.journal.interface import NEVER, Release, seconds

COUNT_BITS = 64
_COUNT_MASK = (1 << COUNT_BITS) - 1

Numbered = tuple[int, int, int]
"""A number (``number_of``), the Unix second until which its token is valid, and that of its signature (0: unknown)."""

OrphanedId = tuple[int, int, int, int]
"""A number, the dead worker that it is taken over from, its expiry, and when it was signed."""


class RowKind(IntEnum):
    """What a row says. Its values are the arguments of the ledger's method for it."""

    BEGIN = 1
    """Owner, list of Numbered."""
    FINISH = 2
    """Without answers: owner, now, when the last of the ids expires, each number with the size of its answer or -1."""
    ANSWERS = 3
    """A FINISH with answers. All of it is in the stream of answers; the row has its place there instead of them."""
    RELEASE = 4
    """Owner, Release, list of numbers."""
    TAKE_OVER = 5
    """Owner, list of OrphanedId."""
    COMPACT = 6
    """A Compaction."""
    OWNER = 7
    """A number that a worker has got."""


class Compaction(NamedTuple):
    """What may be forgotten. Times are Unix seconds."""

    at: int
    expired_before: int
    forget_before: int
    """Chunks before this place in the order of leaving go early: there are too many. 0: none do."""
    forgotten_until: int
    """Whatever had to go was signed until then."""
    keep_from: int
    """Answers in rows before this one go."""
    forgotten_answers: int
    """How many of these go early."""


_OWNER = struct.Struct("<Q")
_ID = struct.Struct("<QQ")
_BEGIN = struct.Struct("<QQII")
_ONE_BEGIN = struct.Struct("<QQQII")
_FINISH_HEAD = struct.Struct("<QIII")
_FINISH = struct.Struct("<QQi")
_ONE_FINISH = struct.Struct("<QIIIQQi")
_RELEASE_HEAD = struct.Struct("<QB")
_TAKE_OVER = struct.Struct("<QQQII")
_COMPACT = struct.Struct("<IIQIQI")
PLACE_BYTES = 12
"""Of a row of ANSWERS in the stream of rows the last ones: where all of it stands."""
AT_BITS = 32
_AT_MASK = (1 << AT_BITS) - 1

_WHYS = list(Release)


def number_of(id: str) -> int:
    """The id as one number: the incarnation above, the count below. Raises ValueError if it is none."""
    return int(id[:16], 16) << COUNT_BITS | int(id[17:])


def numbered(id: str, until: float, sent: float) -> Numbered:
    """An id with its two times, as they are stored. Raises ValueError if it is none."""
    # For every request: the calls that are spared in the usual case cost as much as the rest.
    return (
        int(id[:16], 16) << COUNT_BITS | int(id[17:]),
        int(until) if 0 <= until <= NEVER else seconds(until),
        int(sent) if 0 <= sent <= NEVER else seconds(sent),
    )


def unpack(kind: int, data: bytes | memoryview) -> tuple[Any, ...]:
    """The values of a row. Raises KeyError for an unknown kind; struct.error or IndexError: it makes no sense."""
    return _UNPACK[kind](data)


def pack_finish(owner: int, now: int, until: int, ends: Sequence[tuple[int, bytes | None]]) -> tuple[bytes, bytes]:
    """The row up to its answers, and these. *until*: when the last of these ids expires."""
    if len(ends) == 1:
        number, answer = ends[0]
        size = -1 if answer is None else len(answer)
        row = _ONE_FINISH.pack(owner, now, until, 1, number >> COUNT_BITS, number & _COUNT_MASK, size)
        return row, answer or b""
    pack = _FINISH.pack
    rows = [
        pack(number >> COUNT_BITS, number & _COUNT_MASK, -1 if answer is None else len(answer))
        for number, answer in ends
    ]
    head = _FINISH_HEAD.pack(owner, now, until, len(ends))
    return b"".join((head, *rows)), b"".join([answer for _, answer in ends if answer])


def _unpack_finish(data: bytes | memoryview) -> tuple[int, int, int, list[tuple[int, int]]]:
    owner, now, until, count = _FINISH_HEAD.unpack_from(data)
    rows = _FINISH.iter_unpack(memoryview(data)[_FINISH_HEAD.size : _answers_at(count)])
    return owner, now, until, [(high << COUNT_BITS | low, size) for high, low, size in rows]


def _answers_at(count: int) -> int:
    return _FINISH_HEAD.size + count * _FINISH.size


def answer_in(data: bytes, wanted: int) -> bytes | None:
    """The answer to one id in the whole row of ANSWERS."""
    *_, ends = _unpack_finish(data)
    at = _answers_at(len(ends))
    for number, size in ends:
        if number == wanted:
            return None if size < 0 else data[at : at + size]
        at += max(size, 0)
    return None


def place_of(first: int, at: int) -> int:
    """Where a row is stored, as one number: its segment, and the offset in it."""
    return first << AT_BITS | at


def segment_and_at(place: int) -> tuple[int, int]:
    return place >> AT_BITS, place & _AT_MASK


def unpack_place(data: bytes) -> int:
    """Where the answers of a row stand that has their place instead."""
    return int.from_bytes(data[-PLACE_BYTES:], "little")


def pack_begin(owner: int, starts: Sequence[Numbered]) -> bytes:
    if len(starts) == 1:
        number, expires, sent = starts[0]
        return _ONE_BEGIN.pack(owner, number >> COUNT_BITS, number & _COUNT_MASK, expires, sent)
    pack = _BEGIN.pack
    rows = [pack(number >> COUNT_BITS, number & _COUNT_MASK, expires, sent) for number, expires, sent in starts]
    return _OWNER.pack(owner) + b"".join(rows)


def _unpack_begin(data: bytes | memoryview) -> tuple[int, list[Numbered]]:
    rows = _BEGIN.iter_unpack(memoryview(data)[_OWNER.size :])
    starts = [(high << COUNT_BITS | low, expires, sent) for high, low, expires, sent in rows]
    return _OWNER.unpack_from(data)[0], starts


def _unpack_release(data: bytes | memoryview) -> tuple[int, Release, list[int]]:
    owner, why = _RELEASE_HEAD.unpack_from(data)
    return owner, _WHYS[why], [number for (number,) in _unpack_ids(_ID, data, _RELEASE_HEAD.size)]


def _pack_ids(row: struct.Struct, ids: Sequence[tuple[int, ...]]) -> bytes:
    return b"".join([row.pack(number >> COUNT_BITS, number & _COUNT_MASK, *rest) for number, *rest in ids])


def _unpack_ids(row: struct.Struct, data: bytes | memoryview, at: int) -> list[tuple[int, ...]]:
    return [(high << COUNT_BITS | low, *rest) for high, low, *rest in row.iter_unpack(memoryview(data)[at:])]


PACK: dict[RowKind, Callable[..., bytes]] = {
    RowKind.BEGIN: pack_begin,
    RowKind.RELEASE: lambda owner, why, numbers: (
        _RELEASE_HEAD.pack(owner, _WHYS.index(why)) + _pack_ids(_ID, [(number,) for number in numbers])
    ),
    RowKind.TAKE_OVER: lambda owner, starts: _OWNER.pack(owner) + _pack_ids(_TAKE_OVER, starts),
    RowKind.COMPACT: lambda compaction: _COMPACT.pack(*compaction),
    RowKind.OWNER: _OWNER.pack,
}
"""Makes a row of any kind but FINISH and ANSWERS of its values."""
_UNPACK: dict[int, Callable[[bytes | memoryview], tuple[Any, ...]]] = {
    RowKind.BEGIN: _unpack_begin,
    RowKind.FINISH: _unpack_finish,
    RowKind.ANSWERS: _unpack_finish,
    RowKind.RELEASE: _unpack_release,
    RowKind.TAKE_OVER: lambda data: (*_OWNER.unpack_from(data), _unpack_ids(_TAKE_OVER, data, _OWNER.size)),
    RowKind.COMPACT: lambda data: (Compaction(*_COMPACT.unpack(data)),),
    RowKind.OWNER: _OWNER.unpack,
}
