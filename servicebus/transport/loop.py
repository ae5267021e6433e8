"""EventLoop: one thread's selector, timers, and the queue through which other threads hand it work.

Theory of operation. Exactly one thread runs the loop and touches what belongs to it; every other thread uses
``post()``, which appends to a deque and wakes the loop at most once per batch: a loop that is awake looks at the deque
before it sleeps again, so only a sleeping one needs the byte through the pipe. What callbacks write to a stream during
one iteration is joined and sent with one system call at its end; pika by itself would send frame by frame.

It waits by ``poll``: a loop has a handful of sockets, for which that costs less than epoll, and nothing of it is shared
with a forked child.
"""

from __future__ import annotations

import heapq
import itertools
import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Protocol

from servicebus.transport.failurelog import FailureLog
from servicebus.transport.green import refuse_green_threads
from servicebus.transport.interrupts import came_from_a_signal

READ = select.POLLIN
WRITE = select.POLLOUT
_BOTH = READ | WRITE

_IDLE_S = 3600.0


def nothing(*_args: object) -> None:
    """For a callback that has nothing to do."""


class Timer:
    """A pending ``call_later``; ``cancel()`` may be called any number of times, in the loop's thread."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]):
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class Flushable(Protocol):
    """What asks to be flushed at the end of an iteration."""

    def flush(self) -> None: ...


class Cuttable(Protocol):
    """What reads from a socket of its own, and whose connection can be given up."""

    def cut(self, reason: str) -> None: ...


class EventLoop:
    """A selector loop. Everything but ``post()`` and ``stop()`` belongs to the thread that calls ``run()``.

    Raises:
        ConfigurationError: the program runs under green threads that cannot run one.
    """

    def __init__(self, name: str = "io"):
        refuse_green_threads()
        self.name = name
        self.iterations = 0
        """Completed iterations; a supervisor that sees it stand still knows that the loop hangs."""
        self.failures = FailureLog(name)
        """What callbacks have raised."""
        self.streams: dict[int, Cuttable] = {}
        """Connections in full use, by file descriptor; each adds and removes itself."""
        self._poll = select.poll()
        self._watched: dict[int, tuple[socket.socket | None, int, Callable[[int], None]]] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._timer_ids = itertools.count()
        self._posted: deque[Callable[[], None]] = deque()
        self._dirty: list[Flushable] = []
        self._unsent: list[Flushable] = []
        # Called for every call and reply: as methods of ours these two would cost four times as much.
        self.flush_later: Callable[[Flushable], None] = self._dirty.append
        """Flush something at the end of this iteration, before what has to be sent: it may add to that."""
        self.send_later: Callable[[Flushable], None] = self._unsent.append
        """Flush a stream at the end of this iteration."""
        self._sleeping = False
        self._stopping = False
        self._wake_in, self._wake_out = os.pipe()
        os.set_blocking(self._wake_in, False)
        os.set_blocking(self._wake_out, False)
        self._poll.register(self._wake_in, READ)
        self._watched[self._wake_in] = (None, READ, self._drain_wakeups)

    def __repr__(self) -> str:
        state = "stopping" if self._stopping else "running"
        return f"<EventLoop {self.name} {state} iterations={self.iterations} watched={len(self._watched)}>"

    @property
    def files(self) -> list[int]:
        """The descriptors of what it waits for, and of its own pipe."""
        return [*self._watched, self._wake_out]

    # -- for any thread ------------------------------------------------------------------------------------------

    def post(self, callback: Callable[[], None]) -> None:
        """Run *callback* in the loop's thread, soon. Callable from any thread; never blocks."""
        self._posted.append(callback)
        if self._sleeping:
            self._sleeping = False
            self._wake()

    def stop(self) -> None:
        """Let ``run()`` return after the current iteration. Callable from any thread."""
        self._stopping = True
        self._wake()

    # -- for the loop's thread -----------------------------------------------------------------------------------

    def run(self) -> None:
        """Iterate until ``stop()``."""
        while not self._stopping:
            self._run_once()

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        timer = Timer(callback)
        heapq.heappush(self._timers, (time.monotonic() + delay_s, next(self._timer_ids), timer))
        return timer

    def watch(self, sock: socket.socket, events: int, callback: Callable[[int], None]) -> None:
        """Call ``callback(events)`` whenever *sock* is ready for some of *events* (READ, WRITE), or is broken."""
        self._watched[sock.fileno()] = (sock, events, callback)
        self._poll.register(sock, events)

    rewatch = watch

    def unwatch(self, sock: socket.socket) -> None:
        """Fine if it was never watched, or is closed already."""
        fds = [fd for fd, (watched, *_) in self._watched.items() if watched is sock]
        for fd in fds:
            del self._watched[fd]
            self._poll.unregister(fd)

    def failed(self, callback: Callable[..., object], error: Exception) -> None:
        """Report what *callback* raised: it must not end the thread that serves all the others.

        Raises *error* again if a signal handler of the program raised it.
        """
        if came_from_a_signal(error):
            raise error
        self.failures.report(_name(callback), error)

    def close(self) -> None:
        """Release the pipe; only after ``run()`` has returned."""
        os.close(self._wake_in)
        os.close(self._wake_out)

    # -- inside --------------------------------------------------------------------------------------------------

    def _run_once(self) -> None:
        timeout_s = self._time_to_next_timer()
        self._sleeping = True
        # A post between the last look at the deque and the line above did not see us sleeping: look again.
        ready = self._poll.poll(0 if self._has_work() else timeout_s * 1000)
        self._sleeping = False
        self._dispatch(ready)
        self._run_posted()
        self._run_timers()
        self._flush()
        self.iterations += 1

    # A try costs nothing where nothing is raised, a function around it does: some of these run for every call.

    def _dispatch(self, ready: list[tuple[int, int]]) -> None:
        for fd, events in ready:
            watched = self._watched.get(fd)  # None: one of those before it in the list has closed it
            if watched is not None:
                try:
                    watched[2](events if not events & ~_BOTH else events | _BOTH)
                except Exception as error:
                    self.failed(watched[2], error)

    def _has_work(self) -> bool:
        return bool(self._posted)

    def _time_to_next_timer(self) -> float:
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        if not self._timers:
            return _IDLE_S
        return max(0.0, self._timers[0][0] - time.monotonic())

    def _run_posted(self) -> None:
        # Only what was there at the start of the iteration: callbacks that post again must not starve the sockets.
        for _ in range(len(self._posted)):
            self.guarded(self._posted.popleft())

    def _run_timers(self) -> None:
        if not self._timers:
            return
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            callback = heapq.heappop(self._timers)[2].callback
            if callback is not None:
                self.guarded(callback)

    def _flush(self) -> None:
        while self._dirty or self._unsent:
            registered = self._dirty or self._unsent
            flushed = registered.copy()
            registered.clear()
            for each in flushed:
                try:
                    each.flush()
                except Exception as error:
                    self.failed(each.flush, error)

    def guarded(self, callback: Callable[[], None]) -> None:
        """Call it; what it raises is reported, and ends nothing else."""
        try:
            callback()
        except Exception as error:
            self.failed(callback, error)

    def _wake(self) -> None:
        with suppress(BlockingIOError):  # the pipe is full of wake-ups already
            os.write(self._wake_out, b"\0")

    def _drain_wakeups(self, _mask: int) -> None:
        with suppress(BlockingIOError):
            os.read(self._wake_in, 4096)


def _name(callback: Callable[..., object]) -> str:
    """What *callback* is, without the values that it holds."""
    while isinstance(callback, partial):
        callback = callback.func
    return f"callback {getattr(callback, '__qualname__', type(callback).__name__)}"
