"""OverflowBuffer: where messages wait whose service is full, and who of them has to make room for messages to others.

Theory of operation. What waits here is unacknowledged, so it takes up the worker's window at the broker, which all
message services of a node share: a slow service would soon have all of it, and the others nothing. So what waits behind
such a service steps aside into a delay queue. That costs a copy and a confirm each, and again every time
that it comes round; with a million messages behind one service, worker and broker would do nothing else, and calls
would wait behind it. Hence a budget: a burst that lets others past at once, and then a trickle.

What waits is let in first, as soon as there is room. Behind a service that is merely busy nobody waits for long, and
nobody steps aside.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from servicebus.runtime.reception import Arrival
    from servicebus.runtime.service_thread import ServiceThread

__all__ = ["OverflowBuffer"]

_LONG_S = 0.25
"""Where somebody has waited for so long, those behind would, too."""
_BURST = 10_000
_PER_S = 40.0
"""About 2 % of a core, worker and broker together."""


class OverflowBuffer:
    """Belongs to the thread that turns the loop.

    Args:
        window: how many messages the broker hands out unacknowledged.
    """

    def __init__(self, window: int):
        self._most = window // 4
        self.waiting: dict[ServiceThread, deque[tuple[float, Arrival]]] = {}
        """Since when, and who."""
        self._budget = float(_BURST)
        self._filled_at = 0.0

    def __repr__(self) -> str:
        return f"<OverflowBuffer {len(self)} waiting, {self._budget:.0f} may step aside>"

    def __len__(self) -> int:
        return sum(map(len, self.waiting.values()))

    def clear(self) -> None:
        """The broker gives them out again."""
        self.waiting.clear()

    def admit(self, arrivals: Iterable[Arrival], now: float) -> list[Arrival]:
        """Who may go in now: those who have waited, then of *arrivals* those who find room; the others wait here."""
        admitted = []
        rooms: dict[ServiceThread, int] = {}
        for full, waiting in list(self.waiting.items()):
            rooms[full] = full.room
            while waiting and rooms[full] > 0:
                admitted.append(waiting.popleft()[1])
                rooms[full] -= 1
            if not waiting:
                del self.waiting[full]
        for arrival in arrivals:
            service = arrival.waits_for
            if service is not None:
                if service not in rooms:
                    rooms[service] = service.room
                rooms[service] -= 1
                if rooms[service] < 0:
                    self.waiting.setdefault(service, deque()).append((now, arrival))
                    continue
            admitted.append(arrival)
        return admitted

    def turn_away(self, now: float) -> list[Arrival]:
        """Who has to step aside now, so that messages to other services come through."""
        turned_away: list[Arrival] = []
        if not self.waiting:
            return turned_away
        self._budget = min(float(_BURST), self._budget + _PER_S * (now - self._filled_at))
        self._filled_at = now
        excess = min(len(self) - self._most, int(self._budget))
        for service, waiting in list(self.waiting.items()):
            if now - waiting[0][0] < _LONG_S:
                continue
            # The last first: those who came before them keep their places.
            while waiting and len(turned_away) < excess:
                turned_away.append(waiting.pop()[1])
            if not waiting:
                del self.waiting[service]
        self._budget -= len(turned_away)
        return turned_away
