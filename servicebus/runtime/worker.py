"""Worker: one forked process that serves one broker: starts its threads, beats, and drains.

The main thread does nothing but wait for signals, beat to the master, and order the stop; it never waits for a broker
or a service without a deadline.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from servicebus.configuration import BrokerHost, Configuration
from servicebus.policy.connection import State
from servicebus.runtime.consumer import NodeConsumer
from servicebus.runtime.control import ControlLane
from servicebus.runtime.dialect import Version2
from servicebus.runtime.dispatcher import Dispatcher
from servicebus.runtime.drain import Drain
from servicebus.runtime.journal import MemoryJournal
from servicebus.runtime.ping_watcher import PingWatcher
from servicebus.runtime.service_thread import Service, ServiceThread
from servicebus.runtime.signals import EXIT_ASKED, EXIT_FAILED, SignalPipe
from servicebus.transport.loop import EventLoop
from servicebus.wire.signing import Keyring

LOG = logging.getLogger(__name__)

BEAT_S = 1.0
_ORPHAN_DRAIN_S = 1.0
"""Without a master there is nobody to restart or stop us: leave within two seconds."""

Hook = Callable[[], Any]


class Worker:
    """Serves one host until told to stop; ``run()`` is its main thread and gives the exit code."""

    def __init__(
        self,
        config: Configuration,
        host: BrokerHost,
        services: Sequence[Service],
        make_sender: Callable[[], Any],
        *,
        queue_len: int | None,
        after_fork: Hook | None = None,
        on_exit: Hook | None = None,
    ):
        self._config = config
        self._host = host
        self._after_fork = after_fork
        self._on_exit = on_exit
        keyring = Keyring(config.secrets)
        self._loop = EventLoop(f"io-{host.name}")
        inbox_size = queue_len or max(1, config.prefetch // 2)
        self._services = [
            ServiceThread(service, inbox_size, self._post, make_sender, with_traces=config.fault_traces)
            for service in services
        ]
        by_key = {(thread.service.kind, thread.service.key): thread for thread in self._services}
        self._dispatcher = Dispatcher(by_key, MemoryJournal(), host.name)
        dialect = Version2(config, keyring)
        control = ControlLane(config, keyring, dialect, self._dispatcher)
        self._consumer = NodeConsumer(self._loop, host, config, self._dispatcher, control)
        self._watcher = PingWatcher(self._loop, self._consumer, control, config)
        if config.compat:
            from servicebus.runtime.compat_lane import add_compat_lane

            add_compat_lane(self._consumer, config)

    def run(self, beat_fd: int | None = None, life_fd: int | None = None) -> int:
        """Serve until a signal says stop, or the master is gone (end of file on *life_fd*)."""
        faulthandler.enable()
        signals = SignalPipe()
        self._call_hook(self._after_fork, "after-fork hook")
        for service in self._services:
            service.start()
        threading.Thread(target=self._loop.run, name=self._loop.name, daemon=True).start()
        self._consumer.start()
        self._watcher.start()
        try:
            stop_within_s = self._wait_for_stop(signals, beat_fd, life_fd)
            is_clean = Drain(self._loop, self._consumer, self._dispatcher, self._services, stop_within_s).run()
            self._watcher.stop()
        finally:
            self._call_hook(self._on_exit, "exit hook")
        return EXIT_ASKED if is_clean else EXIT_FAILED

    def _post(self, outcome: Any) -> None:
        self._consumer.post(outcome)

    def _wait_for_stop(self, signals: SignalPipe, beat_fd: int | None, life_fd: int | None) -> float:
        """Beat until a reason to stop appears; gives the seconds that the drain may take."""
        watched: list[Any] = [signals, *([life_fd] if life_fd is not None else [])]
        beaten_turns = -1
        next_beat = 0.0
        while True:
            ready, _, _ = select.select(watched, [], [], max(0.0, next_beat - time.monotonic()))
            if life_fd in ready:
                LOG.warning("%s: the master is gone; stopping", self._host.name)
                return _ORPHAN_DRAIN_S
            for signum in signals.take():
                if signum == signal.SIGTERM:
                    return self._config.drain_timeout
                if signum in (signal.SIGINT, signal.SIGQUIT):
                    return 0.0
            if time.monotonic() >= next_beat:
                next_beat = time.monotonic() + BEAT_S
                if self._loop.turns != beaten_turns and beat_fd is not None:
                    self._beat(beat_fd)
                beaten_turns = self._loop.turns
                self._loop.post(_nothing)  # an idle loop must turn too, or it could not be told from a stuck one

    def _beat(self, fd: int) -> None:
        try:
            os.write(fd, json.dumps(self.snapshot()).encode() + b"\n")
        except BlockingIOError:
            pass  # the master is slow to read; the next beat says the same and more
        except BrokenPipeError:
            pass  # the master is gone: the life pipe says so too

    def snapshot(self) -> dict[str, Any]:
        consumer = self._consumer
        return {
            "host": self._host.name,
            **consumer.snapshot(),
            "healthy": consumer.state is State.CONSUMING,
            "backlog": sum(service.backlog for service in self._services),
            "counters": dict(self._dispatcher.counters),
        }

    def _call_hook(self, hook: Hook | None, name: str) -> None:
        if hook is None:
            return
        try:
            hook()
        except Exception:  # the user's code; as in 2.x it is reported and does not keep the agent from serving
            LOG.exception("%s: %s failed", self._host.name, name)


def _nothing() -> None:
    return None
