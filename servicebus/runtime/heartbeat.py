"""Heartbeat: a worker's main thread reports to the master that the worker lives, and waits for what asks it to stop."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from servicebus.runtime.inherited import readable
from servicebus.runtime.signals import SignalPipe
from servicebus.transport.loggers import get_logger
from servicebus.transport.loop import EventLoop, nothing

LOG = get_logger(__name__)

HEARTBEAT_S = 1.0
_UNSETTLED_HEARTBEAT_S = 0.2
"""While it does not consume, so that the master soon knows when it does: a rolling replacement waits for that."""
_AFTER_ERROR_S = 0.05
_MOST_UNREAD_BYTES = 65536
_ORPHAN_DRAIN_S = 1.0
"""Without a master a worker is neither restarted nor stopped: it leaves within two seconds."""


class Relay(Protocol):
    """Of log records, between the master and the worker."""

    def send(self, write: Callable[[dict[str, Any]], bool]) -> None: ...
    def heard(self, told: Any) -> None: ...


class Heartbeat:
    """For the main thread alone; goes on while the worker drains, which is no reason to be taken for dead.

    Args:
        heartbeat_fd: the pipe to the master; None without one.
        parent_death_fd: its end of file says that the master is gone.
        snapshot: the worker's state, sent with each heartbeat.
        report: further values, each of which is sent in a line of its own. One that was not asked for, because the pipe
            was full, comes with a later heartbeat.
        relay: what else is written beside the heartbeats, and hears what the master writes.
    """

    def __init__(
        self,
        loop: EventLoop,
        signals: SignalPipe,
        heartbeat_fd: int | None,
        parent_death_fd: int | None,
        snapshot: Callable[[], dict[str, Any]],
        *,
        drain_s: float,
        report: Callable[[], Iterable[Any]] = tuple,
        relay: Relay | None = None,
    ):
        self._loop = loop
        self._signals = signals
        self._heartbeat_fd = heartbeat_fd
        self._parent_death_fd = parent_death_fd
        self._snapshot = snapshot
        self._drain_s = drain_s
        self._report = report
        self._relay = relay
        self._unread = b""
        self._next_heartbeat = 0.0
        self._iterations_at_heartbeat = -1

    def wait_for_stop(self) -> float:
        """Send heartbeats until something asks to stop; returns the seconds that the drain may take."""
        while True:
            limit_s = self.wait(max(0.0, self._next_heartbeat - time.monotonic()))
            if limit_s is not None:
                return limit_s

    def wait(self, timeout_s: float) -> float | None:
        """Wait that long or shorter; the seconds that the drain may take from now, if something asked to stop."""
        try:
            return self._wait(timeout_s)
        except BaseException:  # of a signal handler that the program has set: they run in this thread
            LOG.exception("the main thread was interrupted; it goes on")
            time.sleep(_AFTER_ERROR_S)
            return None

    def _wait(self, timeout_s: float) -> float | None:
        watched = [self._signals.fileno(), *([self._parent_death_fd] if self._parent_death_fd is not None else [])]
        ready = readable(watched, timeout_s)
        now = time.monotonic()
        if now >= self._next_heartbeat:
            self._send(now)
        limits_s = [self._limit_s(signum) for signum in self._signals.take()]
        if self._parent_death_fd in ready and not self._hear():
            LOG.warning("the master is gone; stopping")
            self._parent_death_fd = None
            limits_s.append(min(_ORPHAN_DRAIN_S, self._drain_s))
        return min((limit_s for limit_s in limits_s if limit_s is not None), default=None)

    def _hear(self) -> bool:
        """Read what the master says; False at the end of the file."""
        assert self._parent_death_fd is not None
        data = os.read(self._parent_death_fd, 65536)
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            with suppress(ValueError, RecursionError):  # a service has written to it
                told = json.loads(line)
                if self._relay is not None:
                    self._relay.heard(told)
        self._unread = self._unread[-_MOST_UNREAD_BYTES:]
        return bool(data)

    def _limit_s(self, signum: int) -> float | None:
        if signum == signal.SIGTERM:
            return self._drain_s
        return 0.0 if signum in (signal.SIGINT, signal.SIGQUIT) else None  # HUP is the master's

    def _send(self, now: float) -> None:
        state = self._snapshot()
        self._next_heartbeat = now + (HEARTBEAT_S if state["healthy"] else _UNSETTLED_HEARTBEAT_S)
        has_iterated = self._loop.iterations != self._iterations_at_heartbeat
        if has_iterated and self._heartbeat_fd is not None and self._write(self._heartbeat_fd, state):
            self._send_report(self._heartbeat_fd)
            if self._relay is not None:
                self._relay.send(partial(self._write, self._heartbeat_fd))
        self._iterations_at_heartbeat = self._loop.iterations
        self._loop.post(nothing)  # an idle loop must turn too, or it could not be told from a stuck one

    def _send_report(self, fd: int) -> None:
        for entry in self._report():
            if not self._write(fd, {"report": entry}):
                return

    @staticmethod
    def _write(fd: int, told: dict[str, Any]) -> bool:
        try:
            os.write(fd, json.dumps(told).encode() + b"\n")
        except BlockingIOError:
            return False  # the master is slow to read; the next heartbeat says the same and more
        except BrokenPipeError:
            return False  # the master is gone: the parent-death pipe says so too
        return True
