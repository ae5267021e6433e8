"""PriorityInbox: the inbox of a service whose node has priorities; and the same order for other lines.

Theory of operation. The jobs stand in a heap, and for each of them one token in a SimpleQueue, which threads wait for.
The token is the heap itself: so a thread that gets one takes the first job out of the heap without a step of the
interpreter in between, where an exception that is late for another request could lose the job.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from itertools import count
from operator import itemgetter
from queue import SimpleQueue
from typing import TypeVar

from servicebus.runtime.job import Job

__all__ = ["PriorityInbox", "line_up"]

T = TypeVar("T")

_Entry = tuple[int, int, "Job | None"]
_LAST = 1
"""In the order of an entry that ends a thread: behind all jobs."""
_NEVER = object()
_job_of: Callable[[_Entry], Job | None] = itemgetter(2)


class PriorityInbox:
    """The jobs of the highest priority first, those of one priority in the order in which they came. ``put()`` is for
    one thread at a time, the rest for any; ``get_nowait()`` and ``qsize()`` are those of a SimpleQueue."""

    def __init__(self) -> None:
        self._heap: list[_Entry] = []
        self._tokens: SimpleQueue[list[_Entry]] = SimpleQueue()
        self._count = count()
        self.qsize = self._tokens.qsize

    def __repr__(self) -> str:
        return f"<PriorityInbox {self.qsize()} waiting>"

    def put(self, job: Job | None) -> None:
        """None ends a thread when no job is left."""
        heappush(self._heap, (_LAST if job is None else -job.priority, next(self._count), job))
        self._tokens.put(self._heap)

    def get_nowait(self) -> Job | None:
        """Raises queue.Empty."""
        return _job_of(heappop(self._tokens.get_nowait()))

    def jobs(self) -> Iterator[Job | None]:
        """Waits for each."""
        return map(_job_of, map(heappop, iter(self._tokens.get, _NEVER)))


def line_up(line: deque[T], entry: T, priority_of: Callable[[T], int]) -> None:
    """Put *entry* into *line*, behind all that have its priority or a higher one."""
    own, at = priority_of(entry), len(line)
    while at and priority_of(line[at - 1]) < own:
        at -= 1
    line.insert(at, entry)
