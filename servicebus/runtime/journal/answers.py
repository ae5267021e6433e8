"""AnswerIndex: where the answer to an id is. Pure.

Answers are dropped oldest first, in blocks: that costs nothing per answer, and a look-up, which only a repeated id
needs, asks a few dozen blocks, or a few hundred.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

__all__ = ["AnswerIndex"]

_BLOCK_ANSWERS = 1024
_BLOCK_S = 10
_BLOCKS = 32


@dataclass(slots=True)
class _Block:
    first_place: Any
    began_at: int
    places: dict[int, Any] = field(default_factory=dict)
    size: int = 0
    last_seq: int = 0
    answered_at: int = 0
    until: int = 0


class AnswerIndex:
    """Bounded by age and bytes. Times are Unix seconds."""

    def __init__(self, max_bytes: int, keep_s: float):
        self.size = 0
        """Bytes of all answers."""
        self.count = 0
        self._max_bytes = max_bytes
        self._keep_s = keep_s
        self._blocks: deque[_Block] = deque()

    @property
    def first_place(self) -> Any:
        """Of the oldest; None if there are none."""
        return self._blocks[0].first_place if self._blocks else None

    def add(self, seq: int, place: Any, now: int, until: int, ends: Iterable[tuple[int, int]]) -> None:
        """The answers to *ends* (number, size or -1) of row *seq*, of *now*, are at *place*; needed up to *until*."""
        block = self._blocks[-1] if self._blocks else None
        if (
            block is None
            or len(block.places) >= _BLOCK_ANSWERS
            or block.size * _BLOCKS >= self._max_bytes
            or now - block.began_at >= _BLOCK_S
        ):
            block = _Block(place, now)
            self._blocks.append(block)
        size = count = 0
        for number, length in ends:
            if length >= 0:
                block.places[number] = place
                size += length
                count += 1
        block.size += size
        self.size += size
        self.count += count
        block.last_seq = seq
        if now > block.answered_at:
            block.answered_at = now
        if until > block.until:
            block.until = until

    def place_of(self, number: int) -> Any:
        """None if there is no answer any more."""
        for block in reversed(self._blocks):
            place = block.places.get(number)
            if place is not None:
                return place
        return None

    def overdue(self, now: int) -> tuple[int, int]:
        """The first row to keep when answers that are too old or too many go; and how many would go early."""
        keep_from = early = 0
        size = self.size
        for block in self._blocks:
            is_over = min(block.answered_at + self._keep_s, block.until) < now
            if not is_over and size <= self._max_bytes:
                break
            size -= block.size
            keep_from = block.last_seq + 1
            early += 0 if is_over else len(block.places)
        return keep_from, early

    def drop_before(self, seq: int) -> None:
        while self._blocks and self._blocks[0].last_seq < seq:
            block = self._blocks.popleft()
            self.size -= block.size
            self.count -= len(block.places)
