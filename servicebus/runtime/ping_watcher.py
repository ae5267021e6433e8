"""PingWatcher: finds a network, broker or consumer that died without a word, and forces the reconnect.

It sends a signed ping through the broker and expects it back on the connection that consumes, so that one echo proves
both connections and the broker between them. Now and then it has the topology looked at: a consumer whose queue nobody
can reach any more hears its echo all the same. While the broker says that it does not read what we publish, no echo can
come; then only the heartbeat watches.
"""

from __future__ import annotations

import logging
import threading
import time

from servicebus.configuration import Configuration
from servicebus.policy.connection import State
from servicebus.policy.liveness import PingClock, Verdict
from servicebus.runtime.consumer import NodeConsumer
from servicebus.runtime.control import ControlLane
from servicebus.transport.loop import EventLoop

LOG = logging.getLogger(__name__)

_STEP_S = 0.25
_LOOK_S = 5.0
"""How often the topology is looked at; it costs the broker a dozen answers."""


class PingWatcher:
    """A thread that only reads, and posts to the I/O thread."""

    def __init__(self, loop: EventLoop, consumer: NodeConsumer, control: ControlLane, config: Configuration):
        self._loop = loop
        self._consumer = consumer
        self._control = control
        self._config = config
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ping-watcher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        generation = -1
        clock = self._new_clock()
        look_at = 0.0
        while not self._stopped.wait(_STEP_S):
            consumer = self._consumer
            if consumer.state not in (State.CONSUMING, State.DRAINING) or consumer.blocked:
                generation = -1
                continue
            if consumer.generation != generation:
                generation, clock = consumer.generation, self._new_clock()
                look_at = time.monotonic() + _LOOK_S
            self._check(clock)
            if time.monotonic() >= look_at:
                look_at = time.monotonic() + _LOOK_S
                self._loop.post(consumer.look_after_topology)

    def _check(self, clock: PingClock) -> None:
        now = time.monotonic()
        if self._control.echoed_at > clock.heard_at:
            clock.heard(self._control.echoed_at)
        verdict = clock.verdict(now, clock.heard_at)
        if verdict is Verdict.PING:
            clock.pinged(now)
            self._loop.post(self._consumer.send_echo)
        elif verdict is Verdict.DEAD:
            LOG.warning("%s: no echo through the broker; reconnecting", self._consumer.host.name)
            self._consumer.reconnect(f"no echo through the broker within {clock.ping_timeout_s:g} s")
            clock.heard(now)

    def _new_clock(self) -> PingClock:
        return PingClock(self._config.watcher_interval, self._config.watcher_timeout, time.monotonic())
