"""Pulse: the waiting of a worker's main thread: it beats to the master and hears what asks the worker to stop."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from servicebus.runtime.inherited import readable
from servicebus.runtime.signals import SignalPipe
from servicebus.transport.loggers import get_logger
from servicebus.transport.loop import EventLoop

LOG = get_logger(__name__)

BEAT_S = 1.0
_UNSETTLED_BEAT_S = 0.2
"""While it does not consume, so that the master soon knows when it does: a rolling replacement waits for that."""
_AFTER_ERROR_S = 0.05
_ORPHAN_DRAIN_S = 1.0
"""Without a master there is nobody to restart or stop us: leave within two seconds."""


class Pulse:
    """For the main thread alone; goes on while the worker drains, which is no reason to be taken for dead.

    Args:
        beat_fd: the pipe to the master; None without one.
        life_fd: its end of file says that the master is gone.
        snapshot: the worker's state, sent with each beat.
    """

    def __init__(
        self,
        loop: EventLoop,
        signals: SignalPipe,
        beat_fd: int | None,
        life_fd: int | None,
        snapshot: Callable[[], dict[str, Any]],
        *,
        drain_s: float,
    ):
        self._loop = loop
        self._signals = signals
        self._beat_fd = beat_fd
        self._life_fd = life_fd
        self._snapshot = snapshot
        self._drain_s = drain_s
        self._next_beat = 0.0
        self._beaten_turns = -1

    def wait_for_stop(self) -> float:
        """Beat until something asks to stop; gives the seconds that the drain may take."""
        while True:
            limit_s = self.wait(max(0.0, self._next_beat - time.monotonic()))
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
        watched = [self._signals.fileno(), *([self._life_fd] if self._life_fd is not None else [])]
        ready = readable(watched, timeout_s)
        now = time.monotonic()
        if now >= self._next_beat:
            self._beat(now)
        limits_s = [self._limit_s(signum) for signum in self._signals.take()]
        if self._life_fd in ready:
            LOG.warning("the master is gone; stopping")
            self._life_fd = None
            limits_s.append(min(_ORPHAN_DRAIN_S, self._drain_s))
        return min((limit_s for limit_s in limits_s if limit_s is not None), default=None)

    def _limit_s(self, signum: int) -> float | None:
        if signum == signal.SIGTERM:
            return self._drain_s
        return 0.0 if signum in (signal.SIGINT, signal.SIGQUIT) else None  # HUP is the master's

    def _beat(self, now: float) -> None:
        state = self._snapshot()
        self._next_beat = now + (BEAT_S if state["healthy"] else _UNSETTLED_BEAT_S)
        if self._loop.turns != self._beaten_turns and self._beat_fd is not None:
            self._write(self._beat_fd, state)
        self._beaten_turns = self._loop.turns
        self._loop.post(_nothing)  # an idle loop must turn too, or it could not be told from a stuck one

    @staticmethod
    def _write(fd: int, state: dict[str, Any]) -> None:
        try:
            os.write(fd, json.dumps(state).encode() + b"\n")
        except BlockingIOError:
            pass  # the master is slow to read; the next beat says the same and more
        except BrokenPipeError:
            pass  # the master is gone: the life pipe says so too


def _nothing() -> None:
    return None
