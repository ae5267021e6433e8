"""OverflowBuffer: holds messages for services whose inbox is full, and defers some to make room for other services.

Theory of operation. What waits here is unacknowledged, so it takes up the worker's window at the broker, which all
message services of a node share: a slow service would soon have all of it, and the others nothing. So what waits behind
such a service is deferred into a delay queue. That costs a copy and a confirm each, and again every time that it
comes round; with a million messages behind one service, worker and broker would do nothing else, and calls
would wait behind it. Hence a budget: a burst that lets others past at once, and then a trickle.

What waits is let in first, as soon as there is room. Behind a service that is merely busy no message waits for
long, and none is deferred.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from servicebus.runtime.job import Inbox, Job

__all__ = ["OverflowBuffer"]

_LONG_S = 0.25
"""Where a message has waited for so long, those behind would, too."""
_BURST = 10_000
_PER_S = 40.0
"""About 2 % of a core, worker and broker together."""


class OverflowBuffer:
    """Belongs to the I/O thread.

    Args:
        window: how many messages the broker hands out unacknowledged.
        has_priorities: what has a priority is let past; its service takes it before what waits.
    """

    def __init__(self, window: int, *, has_priorities: bool = False):
        self._has_priorities = has_priorities
        self._most = window // 4
        self.waiting: dict[Inbox, deque[tuple[float, Job]]] = {}
        """Since when, and which job."""
        self._budget = float(_BURST)
        self._filled_at = 0.0

    def __repr__(self) -> str:
        return f"<OverflowBuffer {len(self)} waiting, {self._budget:.0f} may be deferred>"

    def __len__(self) -> int:
        return sum(map(len, self.waiting.values()))

    def clear(self) -> None:
        """The broker delivers them again."""
        self.waiting.clear()

    def admit(self, jobs: Iterable[Job], now: float) -> list[Job]:
        """What may go in now: those that have waited, then of *jobs* those that find room; the others wait here."""
        admitted = []
        rooms: dict[Inbox, int] = {}
        for full, waiting in list(self.waiting.items()):
            rooms[full] = full.room
            while waiting and rooms[full] > 0:
                admitted.append(waiting.popleft()[1])
                rooms[full] -= 1
            if not waiting:
                del self.waiting[full]
        for job in jobs:
            service = job.waits_for
            if service is not None and not (self._has_priorities and job.priority):
                if service not in rooms:
                    rooms[service] = service.room
                rooms[service] -= 1
                if rooms[service] < 0:
                    self.waiting.setdefault(service, deque()).append((now, job))
                    continue
            admitted.append(job)
        return admitted

    def take_excess(self, now: float) -> list[Job]:
        """What has to be deferred now, so that messages to other services come through."""
        excessive: list[Job] = []
        if not self.waiting:
            return excessive
        self._budget = min(float(_BURST), self._budget + _PER_S * (now - self._filled_at))
        self._filled_at = now
        excess = min(len(self) - self._most, int(self._budget))
        for service, waiting in list(self.waiting.items()):
            if now - waiting[0][0] < _LONG_S:
                continue
            # The last first: those that came before them keep their places.
            while waiting and len(excessive) < excess:
                excessive.append(waiting.pop()[1])
            if not waiting:
                del self.waiting[service]
        self._budget -= len(excessive)
        return excessive
