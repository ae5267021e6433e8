"""Deadlines: requests by a time at which something is due."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Iterator

from servicebus.client.request import Request

_SLACK = 1024


class Deadlines:
    """Requests by due time; those that are done leave without being asked. Belongs to the engine's thread.

    Most requests of a program have the same limit, so that each ends after the one before: these stand in line, and
    only the others in a heap.
    """

    def __init__(self) -> None:
        self._line: deque[tuple[float, Request]] = deque()
        self._heap: list[tuple[float, int, Request]] = []
        self._order = itertools.count()

    def __len__(self) -> int:
        return len(self._line) + len(self._heap)

    def add(self, request: Request, due: float) -> None:
        line = self._line
        if not line or line[-1][0] <= due:
            line.append((due, request))
        else:
            heapq.heappush(self._heap, (due, next(self._order), request))

    def expired(self, now: float) -> Iterator[Request]:
        """Take out the unfinished requests whose due time is not after *now*."""
        line, heap = self._line, self._heap
        while line and (line[0][0] <= now or line[0][1].is_done):
            request = line.popleft()[1]
            if not request.is_done:
                yield request
        while heap and (heap[0][0] <= now or heap[0][2].is_done):
            request = heapq.heappop(heap)[2]
            if not request.is_done:
                yield request

    def forget_done(self, unfinished: int) -> None:
        """Drop what is done, now and then: answered requests would else stay in memory until their deadline."""
        # Asked each of them, since a request may be known here only: its thread was interrupted as it moved it.
        if not unfinished or len(self) > 2 * unfinished + _SLACK:
            self._line = deque(entry for entry in self._line if not entry[1].is_done)
            self._heap = [entry for entry in self._heap if not entry[2].is_done]
            heapq.heapify(self._heap)
