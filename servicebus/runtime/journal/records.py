"""The rows of the shared log, as bytes: what was begun, finished, released, taken over, and forgotten.

All numbers are little-endian. An id is 16 bytes: the Sender's incarnation and its count, 8 bytes each.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from servicebus.runtime.journal.interface import Release

__all__ = [
    "AT_BITS",
    "COUNT_BITS",
    "Compaction",
    "Estate",
    "Kind",
    "Numbered",
    "answer_in",
    "finish_head_bytes",
    "located",
    "number_of",
    "pack_begin",
    "pack_compact",
    "pack_finish",
    "pack_owner",
    "pack_release",
    "pack_take_over",
    "place_of",
    "segment_and_at",
    "unpack_begin",
    "unpack_compact",
    "unpack_finish",
    "unpack_owner",
    "unpack_place",
    "unpack_release",
    "unpack_take_over",
]

COUNT_BITS = 64
_COUNT_MASK = (1 << COUNT_BITS) - 1

Numbered = tuple[int, int, int]
"""A number (see ``number_of``), the Unix second until which its token could be accepted, and the one at which it was
signed (0: it does not say)."""


Estate = tuple[int, int, int, int]
"""A number, the dead worker that it is taken over from, its expiry, and when it was signed."""


class Kind(IntEnum):
    """What a row tells."""

    BEGIN = 1
    FINISH = 2
    """Without any answer."""
    ANSWERS = 3
    """A FINISH with at least one answer. All of it is among the answers, which are kept for longer; in the place of the
    answers the row has the place where that is."""
    RELEASE = 4
    TAKE_OVER = 5
    COMPACT = 6
    OWNER = 7
    """A worker has got a number."""


class Compaction(NamedTuple):
    """What may be forgotten. Times are Unix seconds."""

    at: int
    expired_before: int
    """What expired before is over."""
    forget_before: int
    """Chunks that come before in the order of leaving must go, even if they are not over: there are too many."""
    forgotten_until: int
    """What ever had to go was signed until then."""
    keep_from: int
    """Answers in rows before this one are not kept."""
    forgotten_answers: int
    """Answers that go early."""


_OWNER = struct.Struct("<Q")
_ID = struct.Struct("<QQ")
_BEGIN = struct.Struct("<QQII")
_ONE_BEGIN = struct.Struct("<QQQII")
_FINISH_HEAD = struct.Struct("<QIII")
_FINISH_COUNT = struct.Struct("<I")
_FINISH_COUNT_AT = 16
_FINISH = struct.Struct("<QQi")
_ONE_FINISH = struct.Struct("<QIIIQQi")
_RELEASE_HEAD = struct.Struct("<QB")
_TAKE_OVER = struct.Struct("<QQQII")
_COMPACT = struct.Struct("<IIQIQI")
_PLACE = struct.Struct("<QI")
AT_BITS = 32
_AT_MASK = (1 << AT_BITS) - 1

_WHYS = list(Release)


def number_of(id: str) -> int:
    """The id as one number: the incarnation above, the count below. Raises ValueError if it is none."""
    return int(id[:16], 16) << COUNT_BITS | int(id[17:])


def pack_begin(owner: int, starts: Sequence[Numbered]) -> bytes:
    if len(starts) == 1:
        number, expires, sent = starts[0]
        return _ONE_BEGIN.pack(owner, number >> COUNT_BITS, number & _COUNT_MASK, expires, sent)
    pack = _BEGIN.pack
    rows = [pack(number >> COUNT_BITS, number & _COUNT_MASK, expires, sent) for number, expires, sent in starts]
    return _OWNER.pack(owner) + b"".join(rows)


def unpack_begin(data: bytes) -> tuple[int, list[Numbered]]:
    rows = _BEGIN.iter_unpack(memoryview(data)[_OWNER.size :])
    starts = [(high << COUNT_BITS | low, expires, sent) for high, low, expires, sent in rows]
    return _OWNER.unpack_from(data)[0], starts


def pack_finish(owner: int, now: int, until: int, ends: Sequence[tuple[int, bytes | None]]) -> bytes:
    """*until*: when the last of these ids expires."""
    if len(ends) == 1:
        number, answer = ends[0]
        size = -1 if answer is None else len(answer)
        row = _ONE_FINISH.pack(owner, now, until, 1, number >> COUNT_BITS, number & _COUNT_MASK, size)
        return row + answer if answer else row
    pack = _FINISH.pack
    head = _FINISH_HEAD.pack(owner, now, until, len(ends))
    rows = [
        pack(number >> COUNT_BITS, number & _COUNT_MASK, -1 if answer is None else len(answer))
        for number, answer in ends
    ]
    return b"".join((head, *rows, *(answer for _, answer in ends if answer)))


def unpack_finish(data: bytes | memoryview) -> tuple[int, int, int, list[tuple[int, int]]]:
    """Owner, now, until; and each number with the size of its answer, -1 without one."""
    owner, now, until, count = _FINISH_HEAD.unpack_from(data)
    start = _FINISH_HEAD.size
    rows = _FINISH.iter_unpack(memoryview(data)[start : start + count * _FINISH.size])
    return owner, now, until, [(high << COUNT_BITS | low, size) for high, low, size in rows]


def finish_head_bytes(data: bytes | memoryview) -> int:
    """How much of a FINISH is not answers: all that ``unpack_finish`` reads."""
    count: int = _FINISH_COUNT.unpack_from(data, _FINISH_COUNT_AT)[0]
    return _FINISH_HEAD.size + count * _FINISH.size


def place_of(first: int, at: int) -> int:
    """Where a row stands, as one number: the segment, and where in it."""
    return first << AT_BITS | at


def segment_and_at(place: int) -> tuple[int, int]:
    return place >> AT_BITS, place & _AT_MASK


def located(data: bytes, place: int) -> bytes:
    """A FINISH without its answers: it stands as a whole at that place among them."""
    return data[: finish_head_bytes(data)] + _PLACE.pack(place & _COUNT_MASK, place >> COUNT_BITS)


def unpack_place(data: bytes) -> int:
    """Where all of a ``located`` FINISH stands."""
    low, high = _PLACE.unpack_from(data, len(data) - _PLACE.size)
    return int(high) << COUNT_BITS | int(low)


def answer_in(data: bytes, wanted: int) -> bytes | None:
    """The answer to one id in the row where it was finished."""
    *_, ends = unpack_finish(data)
    at = _FINISH_HEAD.size + len(ends) * _FINISH.size
    for number, size in ends:
        if number == wanted:
            return None if size < 0 else data[at : at + size]
        at += max(size, 0)
    return None


def pack_release(owner: int, why: Release, numbers: Sequence[int]) -> bytes:
    rows = [_ID.pack(number >> COUNT_BITS, number & _COUNT_MASK) for number in numbers]
    return _RELEASE_HEAD.pack(owner, _WHYS.index(why)) + b"".join(rows)


def unpack_release(data: bytes) -> tuple[int, Release, list[int]]:
    owner, why = _RELEASE_HEAD.unpack_from(data)
    rows = _ID.iter_unpack(memoryview(data)[_RELEASE_HEAD.size :])
    return owner, _WHYS[why], [high << COUNT_BITS | low for high, low in rows]


def pack_take_over(owner: int, starts: Sequence[Estate]) -> bytes:
    pack = _TAKE_OVER.pack
    rows = [pack(number >> COUNT_BITS, number & _COUNT_MASK, *rest) for number, *rest in starts]
    return _OWNER.pack(owner) + b"".join(rows)


def unpack_take_over(data: bytes) -> tuple[int, list[Estate]]:
    rows = _TAKE_OVER.iter_unpack(memoryview(data)[_OWNER.size :])
    return _OWNER.unpack_from(data)[0], [(high << COUNT_BITS | low, *rest) for high, low, *rest in rows]


def pack_compact(compaction: Compaction) -> bytes:
    return _COMPACT.pack(*compaction)


def unpack_compact(data: bytes) -> Compaction:
    return Compaction(*_COMPACT.unpack(data))


def pack_owner(number: int) -> bytes:
    return _OWNER.pack(number)


def unpack_owner(data: bytes) -> int:
    number: int = _OWNER.unpack(data)[0]
    return number
