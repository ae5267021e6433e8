"""State: what the rows of the shared log add up to, as a snapshot stores it; and its Chunks. Pure.

Chunks say which ids are finished, as bits. A Sender counts from 1, and 4,096 consecutive ids share one chunk, a number
of 512 bytes. A chunk lives as long as the longest-lived of its ids. Chunks expire, and if there are too many those go
whose ids were signed first.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field, replace

__all__ = [
    "BIT_MASK",
    "CHUNK_BITS",
    "CHUNK_IDS",
    "IDS_AT",
    "TIME_BITS",
    "TIME_MASK",
    "UNOWNED",
    "Chunks",
    "Entry",
    "State",
    "signed_before",
]

CHUNK_BITS = 12
CHUNK_IDS = 1 << CHUNK_BITS
BIT_MASK = CHUNK_IDS - 1

# A chunk is one number: when it expires in the lowest 32 bits, above them when the last of its ids was signed, above
# them one bit for each id.
TIME_BITS = 32
TIME_MASK = (1 << TIME_BITS) - 1
IDS_AT = 2 * TIME_BITS
# The order in which chunks leave when there are too many: when signed, then when expired, but for its lowest bit.
_ORDER_MASK = (1 << 63) - 1
_SIGNED_AT = 31

_BUCKET_BITS = 4
"""Chunks are looked at by expiry, 16 seconds at once."""

UNOWNED = 0

Entry = tuple[int, int, int, int, int]
"""Of an id that is begun and not finished: owner (UNOWNED while it waits for its next attempt), attempts, how many of
them ended with a death, expiry, when it was signed. A plain tuple: one with names takes a third of a microsecond."""


@dataclass(slots=True)
class State:
    """What a snapshot stores."""

    owner: int = 0
    """The highest number that a worker ever got."""
    forgotten: int = 0
    """Ids that had to be forgotten before they expired."""
    forgotten_answers: int = 0
    forgotten_until: int = 0
    """The forgotten ids were signed until then: an unknown id that was too may be one of them."""
    compacted_at: int = 0
    keep_from: int = 1
    """Answers in rows before this one are not kept."""
    chunks: dict[int, int] = field(default_factory=dict)
    entries: dict[int, Entry] = field(default_factory=dict)

    def copy(self) -> State:
        """For another thread. Takes milliseconds: values are never changed in place."""
        return replace(self, chunks=dict(self.chunks), entries=dict(self.entries))


class Chunks:
    """Takes *values* over: chunks by the highest bits of their ids. Bits are set there, times by ``prolong()``."""

    def __init__(self, values: dict[int, int]):
        self.values = values
        self._due: dict[int, list[int]] = {}
        self._due_order: list[int] = []
        for key, value in values.items():
            self._note_due(key, value & TIME_MASK)

    def __repr__(self) -> str:
        return f"<Chunks {len(self.values)}>"

    def expires(self, number: int) -> int:
        """Until when that of this id is remembered; 0 if there is none."""
        return self.values.get(number >> CHUNK_BITS, 0) & TIME_MASK

    def outlives(self, number: int, expires: int, sent: int) -> bool:
        """Is that of this id remembered until *expires*, and known to have one that was signed at *sent* or later?"""
        value = self.values.get(number >> CHUNK_BITS, 0)
        return value & TIME_MASK >= expires and value >> TIME_BITS & TIME_MASK >= sent

    def prolong(self, key: int, expires: int, sent: int) -> int:
        """Have the chunk remembered until *expires*, and know that one of its ids was signed at *sent*."""
        value = self.values.get(key)
        if value is None:
            self._note_due(key, expires)
            value = 0
        later = max(expires - (value & TIME_MASK), 0)
        newer = max(sent - (value >> TIME_BITS & TIME_MASK), 0)
        value = self.values[key] = value + (newer << TIME_BITS) + later
        return value

    def forget(self, expired: int, before: int) -> int:
        """Drop what expired before *expired*, and what is before that place in their order; how many ids the latter."""
        while self._due_order and self._due_order[0] < expired >> _BUCKET_BITS:
            self._forget_bucket(heapq.heappop(self._due_order))
        if not before:
            return 0
        early = [key for key, value in self.values.items() if value >> 1 & _ORDER_MASK < before]
        return sum((self.values.pop(key) >> IDS_AT).bit_count() for key in early)

    def place_after(self, count: int) -> int:
        """The place in their order before which *count* of them are, or all if there are fewer."""
        order = sorted(value >> 1 & _ORDER_MASK for value in self.values.values())
        return order[min(count, len(order)) - 1] + 1

    def _note_due(self, key: int, expires: int) -> None:
        bucket = expires >> _BUCKET_BITS
        keys = self._due.get(bucket)
        if keys is None:
            keys = self._due[bucket] = []
            heapq.heappush(self._due_order, bucket)
        keys.append(key)

    def _forget_bucket(self, bucket: int) -> None:
        """Those that expire in *bucket*; the others in it have been prolonged since, or were forgotten early."""
        for key in self._due.pop(bucket):
            expires = self.values.get(key, 0) & TIME_MASK
            if expires >> _BUCKET_BITS == bucket:
                self.values.pop(key, None)
            elif expires:
                self._note_due(key, expires)


def signed_before(place: int) -> int:
    """When the last id of the chunks before that *place* in their order was signed."""
    return place >> _SIGNED_AT
