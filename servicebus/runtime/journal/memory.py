"""MemoryJournal: one worker's own memory. It refuses replays and answers redeliveries within one worker process.

A call that is re-sent over another broker reaches another worker, which knows nothing of it; and nothing outlives the
process. For that there is SharedJournal.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from servicebus.runtime.journal.interface import REFUSED, Known, OneByOne, Release, Standing, Start

__all__ = ["MemoryJournal"]


@dataclass(slots=True)
class _Entry:
    standing: Standing | None
    """RUNNING or FINISHED; None for one that waits for its next attempt."""
    expires_at: float
    attempts: int = 1
    answer: bytes | None = None
    answered_at: float = 0.0


class MemoryJournal(OneByOne):
    """A Journal in memory, bounded in ids and in bytes of stored answers; counts what it had to forget early.

    A message's id is remembered for a day, a call's for its deadline, so finished ids leave in the order of their
    expiry. Those that are still running are never forgotten: there are no more of them than the inboxes hold.

    Args:
        reply_keep_s: how long an answer is given again.
    """

    def __init__(
        self, max_ids: int = 200_000, max_answer_bytes: int = 32 * 1024 * 1024, *, reply_keep_s: float = 3600.0
    ):
        self._max_ids = max_ids
        self._max_answer_bytes = max_answer_bytes
        self._reply_keep_s = reply_keep_s
        self._entries: dict[str, _Entry] = {}
        self._ended: list[tuple[float, str]] = []
        """By expiry, what may be forgotten; an id that ran again since then is passed over."""
        self._answered: OrderedDict[str, int] = OrderedDict()
        self._answer_bytes = 0
        self.forgotten_early = 0
        self.answers_forgotten_early = 0

    def __repr__(self) -> str:
        return f"<MemoryJournal ids={len(self._entries)} answer_bytes={self._answer_bytes}>"

    def __len__(self) -> int:
        return len(self._entries)

    def begin_many(self, starts: Sequence[Start], now: float) -> list[Known]:
        self.tick(now)
        return [self._begin(start) for start in starts]

    def finish_many(self, ends: Sequence[tuple[str, bytes | None]], now: float) -> None:
        self._now = now
        for id, answer in ends:
            self._finish(id, answer)
        self._drop_answers()

    def release_many(self, ids: Sequence[str], why: Release) -> None:
        for id in ids:
            self._release(id, why)

    def tick(self, now: float) -> None:
        self._now = now
        self._make_room()
        self._drop_answers()

    def snapshot(self) -> dict[str, Any]:
        return {
            "ids": len(self._entries),
            "answer_bytes": self._answer_bytes,
            "forgotten_early": self.forgotten_early,
            "answers_forgotten_early": self.answers_forgotten_early,
        }

    def close(self) -> None:
        """Nothing to let go of."""

    def _begin(self, start: Start) -> Known:
        entry = self._entries.get(start.id)
        if entry is None:
            self._entries[start.id] = _Entry(Standing.RUNNING, start.expires_at)
            return Known(Standing.NEW, None, 1)
        entry.expires_at = max(entry.expires_at, start.expires_at)
        if entry.standing is None:
            entry.standing = Standing.RUNNING
            entry.attempts += 1
            return Known(Standing.NEW, None, entry.attempts)
        is_running = entry.standing is Standing.RUNNING
        return Known(entry.standing, entry.answer, entry.attempts if is_running else 0)

    def _finish(self, id: str, answer: bytes | None) -> None:
        entry = self._running(id)
        if entry is None:
            return
        entry.standing = Standing.FINISHED
        heapq.heappush(self._ended, (entry.expires_at, id))
        if answer is not None:
            entry.answer = answer
            entry.answered_at = self._now
            self._answered[id] = len(answer)
            self._answer_bytes += len(answer)

    def _release(self, id: str, why: Release) -> None:
        entry = self._running(id)
        if entry is None:
            return
        if why is Release.REFUSED:
            entry.attempts += REFUSED
            return
        entry.attempts -= why is Release.NOT_RUN
        if why is Release.BURIED or not entry.attempts:
            del self._entries[id]
        else:
            entry.standing = None
            heapq.heappush(self._ended, (entry.expires_at, id))

    def _running(self, id: str) -> _Entry | None:
        entry = self._entries.get(id)
        return entry if entry is not None and entry.standing is Standing.RUNNING else None

    def _make_room(self) -> None:
        while self._ended:
            expires_at, id = self._ended[0]
            is_over = expires_at < self._now
            if not is_over and len(self._entries) < self._max_ids:
                return
            heapq.heappop(self._ended)
            entry = self._entries.get(id)
            if entry is None or entry.standing is Standing.RUNNING:
                continue
            if entry.expires_at > expires_at:
                heapq.heappush(self._ended, (entry.expires_at, id))
                continue
            self.forgotten_early += not is_over
            self._drop_answer(id)
            del self._entries[id]

    def _drop_answers(self) -> None:
        while self._answered:
            id = next(iter(self._answered))
            is_over = self._entries[id].answered_at + self._reply_keep_s <= self._now
            if not is_over and self._answer_bytes <= self._max_answer_bytes:
                return
            self.answers_forgotten_early += not is_over
            self._drop_answer(id)

    def _drop_answer(self, id: str) -> None:
        self._answer_bytes -= self._answered.pop(id, 0)
        self._entries[id].answer = None
