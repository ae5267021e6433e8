"""Journal: which ids this node has started and finished, so that none is run twice.

For now it is a worker's own memory: it refuses replays and gives redeliveries their stored answer within one worker
process. A call that is re-sent over another broker reaches another worker, and may run twice. The interface is
narrow on purpose: a store that the workers of a machine, or of several, share takes its place without other changes.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum
from typing import Protocol


class Standing(Enum):
    """What is known of an id."""

    NEW = "not seen before: run it"
    RUNNING = "started, not finished"
    FINISHED = "finished; its answer is stored if there was one"


class Journal(Protocol):
    """Belongs to one worker's I/O thread."""

    def begin(self, id: str, now: float, expires_at: float) -> tuple[Standing, bytes | None]:
        """What is known of *id*, with the stored answer if any; a NEW one is RUNNING from here on.

        Args:
            now: Unix time, seconds.
            expires_at: until then a token for this id could be accepted, so until then it is remembered.
        """

    def finish(self, id: str, answer: bytes | None) -> None:
        """*id* was run; *answer* is given again to whoever asks with the same id."""

    def forget(self, id: str) -> None:
        """*id* was not run after all (busy, stopping), and may come again."""


@dataclass(slots=True)
class _Entry:
    standing: Standing
    expires_at: float
    answer: bytes | None = None


class MemoryJournal:
    """A Journal in memory, bounded in ids and in bytes of stored answers; counts what it had to forget early.

    A message's id is remembered for a day, a call's for its deadline, so finished ids leave in the order of their
    expiry. Those that are still running are never forgotten: there are no more of them than the inboxes hold.
    """

    def __init__(self, max_ids: int = 200_000, max_answer_bytes: int = 32 * 1024 * 1024):
        self._max_ids = max_ids
        self._max_answer_bytes = max_answer_bytes
        self._entries: dict[str, _Entry] = {}
        self._finished: list[tuple[float, str]] = []
        self._answered: OrderedDict[str, int] = OrderedDict()
        self._answer_bytes = 0
        self.forgotten_early = 0

    def __repr__(self) -> str:
        return f"<MemoryJournal ids={len(self._entries)} answer_bytes={self._answer_bytes}>"

    def __len__(self) -> int:
        return len(self._entries)

    def begin(self, id: str, now: float, expires_at: float) -> tuple[Standing, bytes | None]:
        self._make_room(now)
        entry = self._entries.get(id)
        if entry is not None:
            return entry.standing, entry.answer
        self._entries[id] = _Entry(Standing.RUNNING, expires_at)
        return Standing.NEW, None

    def finish(self, id: str, answer: bytes | None) -> None:
        entry = self._entries.get(id)
        if entry is None or entry.standing is Standing.FINISHED:
            return
        entry.standing = Standing.FINISHED
        heapq.heappush(self._finished, (entry.expires_at, id))
        if answer is not None:
            entry.answer = answer
            self._answered[id] = len(answer)
            self._answer_bytes += len(answer)
            self._drop_answers()

    def forget(self, id: str) -> None:
        entry = self._entries.get(id)
        if entry is not None and entry.standing is Standing.RUNNING:
            del self._entries[id]

    def _make_room(self, now: float) -> None:
        while self._finished:
            expires_at, id = self._finished[0]
            is_over = expires_at <= now
            if not is_over and len(self._entries) < self._max_ids:
                return
            heapq.heappop(self._finished)
            self.forgotten_early += not is_over
            self._drop_answer(id)
            del self._entries[id]

    def _drop_answers(self) -> None:
        while self._answer_bytes > self._max_answer_bytes:
            self._drop_answer(next(iter(self._answered)))

    def _drop_answer(self, id: str) -> None:
        self._answer_bytes -= self._answered.pop(id, 0)
        self._entries[id].answer = None
