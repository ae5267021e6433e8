"""PingWatcher: finds a network, broker or consumer that died silently, and forces the reconnect.

It sends a signed ping through the broker and expects it back on the connection that consumes, so that one echo proves
both connections and the broker between them. Now and then it has the topology looked at: a consumer whose queue cannot
be reached any more hears its echo all the same. While the broker says that it does not read what we publish, no echo
can come; then only the heartbeat watches.

It sleeps until something is due. What happens meanwhile it finds in its own time: a connection that is new has a time
from which it consumes.
"""

from __future__ import annotations

import threading
import time

from servicebus.configuration import Configuration
from servicebus.policy.connection import ConnectionState
from servicebus.policy.liveness import PingAction, PingClock
from servicebus.runtime.consumer import NodeConsumer
from servicebus.runtime.control import ControlRequests
from servicebus.transport.loggers import get_logger
from servicebus.transport.loop import EventLoop

LOG = get_logger(__name__)

_STEP_S = 0.25
"""While there is nothing to watch; soon enough to find a new connection before its first echo is due."""
_LOOK_S = 5.0
"""How often the topology is looked at; it costs the broker some answers."""
_ECHO_TAKES = 1 / 8
"""Of the interval: after a ping one sleeps so much longer, to find its echo heard and the next one due at once."""


class PingWatcher:
    """A thread that only reads, and posts to the I/O thread."""

    def __init__(self, loop: EventLoop, consumer: NodeConsumer, control: ControlRequests, config: Configuration):
        self._loop = loop
        self._consumer = consumer
        self._control = control
        self._config = config
        self._epoch = -1
        self._idle_at = self._look_at = time.monotonic()
        self._clock = self._new_clock(self._idle_at)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ping-watcher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        pause_s = _STEP_S
        while not self._stopped.wait(pause_s):
            pause_s = self.step(time.monotonic())

    def step(self, now: float) -> float:
        """Do what is due; returns the seconds until the next step."""
        consumer = self._consumer
        since = consumer.consuming_since
        if since is None or consumer.state not in (ConnectionState.UP, ConnectionState.DRAINING) or consumer.blocked:
            self._epoch, self._idle_at = -1, now
            return _STEP_S
        if consumer.epoch != self._epoch:
            self._epoch, self._clock = consumer.epoch, self._new_clock(max(since, self._idle_at))
            self._look_at = self._clock.heard_at + _LOOK_S
        wake_at = self._check(self._clock, now)
        if now >= self._look_at:
            self._look_at = now + _LOOK_S
            self._loop.post(consumer.look_after_topology)
        return min(wake_at, self._look_at) - now

    def _check(self, clock: PingClock, now: float) -> float:
        """Do what is due; returns the time when to check again."""
        if self._control.echoed_at > clock.heard_at:
            clock.heard(self._control.echoed_at)
        moved_at = self._consumer.echo_moved_at
        if clock.pinged_at is not None and moved_at > clock.pinged_at:
            clock.moved(moved_at)
        action = clock.action(now, clock.heard_at)
        if action is PingAction.PING:
            clock.pinged(now)
            self._loop.post(self._consumer.send_echo)
            return min(clock.due_at, now + clock.ping_after_s * (1 + _ECHO_TAKES))
        if action is PingAction.DEAD:
            LOG.warning("%s: no echo through the broker; reconnecting", self._consumer.host.name)
            self._consumer.reconnect(f"no echo through the broker within {clock.ping_timeout_s:g} s")
            clock.heard(now)
        return clock.due_at

    def _new_clock(self, now: float) -> PingClock:
        return PingClock(self._config.watcher_interval, self._config.watcher_timeout, now)
