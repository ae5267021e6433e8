"""Deadlines: which requests have run out of time."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator

from servicebus.client.request import Request

_SLACK = 1024


class Deadlines:
    """Requests by deadline; those that are done leave without being asked. Belongs to the engine's thread."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Request]] = []
        self._order = itertools.count()

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, request: Request) -> None:
        heapq.heappush(self._heap, (request.deadline, next(self._order), request))

    def expired(self, now: float) -> Iterator[Request]:
        """Take out the unfinished requests whose deadline is not after *now*."""
        while self._heap and (self._heap[0][0] <= now or self._heap[0][2].is_done):
            request = heapq.heappop(self._heap)[2]
            if not request.is_done:
                yield request

    def forget_done(self, unfinished: int) -> None:
        """Drop what is done, now and then: answered requests would else stay in memory until their deadline."""
        # Asked each of them, since a request may be known here only: its thread was interrupted as it moved it.
        if not unfinished or len(self._heap) > 2 * unfinished + _SLACK:
            self._heap = [entry for entry in self._heap if not entry[2].is_done]
            heapq.heapify(self._heap)
