"""EchoProgress: whether the watcher's echo is late because the links are slow."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

from servicebus.runtime.control import ControlRequests
from servicebus.transport.interface import BrokerConnection
from servicebus.transport.loop import EventLoop
from servicebus.transport.progress import Progress

_LOOK_S = 0.25


class EchoProgress:
    """Of one pair of connections: the echo leaves by the first and comes back by the second.

    Belongs to the I/O thread; ``moved_at`` may be read by others.
    """

    def __init__(self, loop: EventLoop, control: ControlRequests, connections: Sequence[BrokerConnection]):
        self.moved_at = 0.0
        self._loop = loop
        self._control = control
        self._out, self._back = (Progress(connection, partial(_ask, connection)) for connection in connections)
        self._sent_at: float | None = None

    def begin(self, now: float) -> None:
        """An echo was sent just now."""
        if self._sent_at is None:
            self._loop.call_later(_LOOK_S, self._look)
        self._sent_at = now

    def end(self) -> None:
        """The connections are gone."""
        self._sent_at = None

    def _look(self) -> None:
        if self._sent_at is None or self._control.echoed_at >= self._sent_at:
            self._sent_at = None
            return
        has_moved = self._out.has_moved()
        if self._back.has_moved() or has_moved:
            self.moved_at = time.monotonic()
        # When the echo reaches the broker is not known, so the way back is asked for again until it has come.
        self._out.begin()
        self._back.begin()
        self._loop.call_later(_LOOK_S, self._look)


def _ask(connection: BrokerConnection, on_answer: Callable[[], None]) -> None:
    """Open a channel and close it. A channel that is stuck in the broker delays no other's answers, but its own."""
    connection.open_channel(lambda channel: channel.close(), lambda _error: on_answer())
