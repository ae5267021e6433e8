"""AsyncioClock: lets the asyncio loop of ``async def`` services live by the clock of a bus in memory."""

from __future__ import annotations

import math
import selectors
from typing import Any

from servicebus.runtime.service_loop import ServiceLoop
from servicebus.testing.clock import VirtualTime

__all__ = ["AsyncioClock"]

_SELECTS = {
    kind.select.__code__
    for name in ("EpollSelector", "PollSelector", "SelectSelector")
    if (kind := getattr(selectors, name, None)) is not None
}


class AsyncioClock:
    """For the driver's thread; the loop runs in its own. It needs asyncio's own loops, which show what they have to do.

    What their tasks wait for is due by the clock of the bus.
    """

    def __init__(self, service_loop: ServiceLoop, clock: VirtualTime):
        self._services = service_loop
        self._loop: Any = service_loop.loop
        self._clock = clock
        vars(self._loop).update(time=lambda: clock.now)

    @property
    def due_at(self) -> float:
        """When the next of its timers is due."""
        timers = list(self._loop._scheduled)
        return min((timer.when() for timer in timers if not timer.cancelled()), default=math.inf)

    @property
    def stands_still(self) -> bool:
        """Whether its tasks all wait."""
        if self._services._posted or self._loop._ready or self.due_at <= self._clock.now:
            return False
        frame = self._services.frame
        return frame is not None and frame.f_code in _SELECTS and not self._loop._ready

    def wake(self) -> None:
        """Time has passed."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(lambda: None)
