"""AnswerIndex: in which row of the shared log the answer to an id stands. Pure; the answers themselves stay there.

Answers are dropped in the order in which they came, so they are kept in blocks that go as a whole: dropping costs
nothing per answer, and a look-up, which only a repeated id needs, asks a few dozen blocks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

__all__ = ["AnswerIndex"]

_BLOCK_ANSWERS = 1024
_BLOCKS = 32


@dataclass(slots=True)
class _Block:
    seqs: dict[int, int] = field(default_factory=dict)
    size: int = 0
    last_seq: int = 0
    answered_at: int = 0
    until: int = 0


class AnswerIndex:
    """Bounded by age and bytes. Times are Unix seconds."""

    def __init__(self, max_bytes: int, keep_s: float):
        self.size = 0
        """Bytes of all answers that are still in the log, as far as the index knows."""
        self.count = 0
        self._max_bytes = max_bytes
        self._keep_s = keep_s
        self._blocks: deque[_Block] = deque()

    def __repr__(self) -> str:
        return f"<AnswerIndex count={self.count} size={self.size}>"

    def add(self, seq: int, now: int, until: int, ends: Iterable[tuple[int, int]]) -> None:
        """The row *seq* was written at *now* and holds answers to *ends* (number, size); asked for until *until*."""
        block = self._open_block()
        size = count = 0
        for number, length in ends:
            if length >= 0:
                block.seqs[number] = seq
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

    def seq_of(self, number: int) -> int | None:
        for block in reversed(self._blocks):
            seq = block.seqs.get(number)
            if seq is not None:
                return seq
        return None

    def overdue(self, now: int) -> tuple[int, int]:
        """The first row to keep, if answers that are too old or too many are to go; and how many would go early."""
        keep_from = 0
        early = 0
        size = self.size
        for block in self._blocks:
            is_over = min(block.answered_at + self._keep_s, block.until) < now
            if not is_over and size <= self._max_bytes:
                break
            size -= block.size
            keep_from = block.last_seq + 1
            early += 0 if is_over else len(block.seqs)
        return keep_from, early

    def drop_before(self, seq: int) -> None:
        while self._blocks and self._blocks[0].last_seq < seq:
            block = self._blocks.popleft()
            self.size -= block.size
            self.count -= len(block.seqs)

    def _open_block(self) -> _Block:
        last = self._blocks[-1] if self._blocks else None
        if last is None or len(last.seqs) >= _BLOCK_ANSWERS or last.size * _BLOCKS >= self._max_bytes:
            last = _Block()
            self._blocks.append(last)
        return last
