"""TaskWaker: wakes the tasks of one asyncio loop whose requests have ended, many with one wake-up.

Theory of operation. A task waits on a future of its own loop; the thread that ends its request may not touch that. So
ended requests are collected, and asyncio's loop is woken once for all that have ended in one iteration of the I/O loop.
A wake-up costs a system call, and hands the interpreter's lock to another thread.

The future says only that the request has ended. The task asks the request for its answer. So asyncio never complains
of an exception that was not retrieved because its loop was stopped.

This module does not load asyncio; the program that has a loop has done so.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from servicebus.client.future import LOOK_S, Awaited
from servicebus.transport import forks

if TYPE_CHECKING:
    import asyncio

    from servicebus.client.session import SenderSession

_of_thread = threading.local()
"""``waker``: that of the loop which this thread runs, or ran last. It does not keep the loop alive."""


def task_waker(loop: asyncio.AbstractEventLoop) -> TaskWaker:
    """The waker of *loop*, which runs in this thread."""
    waker: TaskWaker | None = getattr(_of_thread, "waker", None)
    if waker is None or not waker.is_for(loop):
        waker = _of_thread.waker = TaskWaker(loop)
    return waker


class TaskWaker:
    """``collect()`` and ``flush()`` are for the thread that ends requests, the rest is for the loop's."""

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self._loop = weakref.ref(loop)
        self._forks = forks.count
        self._waiting: dict[Awaited, asyncio.Future[None]] = {}
        self._ended: deque[Awaited] = deque()
        self._is_called = False
        """The loop will look at what has ended; set by the thread that ends requests, unset by the loop's."""
        self._is_looking = False

    def __repr__(self) -> str:
        return f"<TaskWaker waiting={len(self._waiting)} loop={self._loop()!r}>"

    def is_for(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether it wakes the tasks of *loop*, in this process: the copy in a forked child may be half done."""
        return self._loop() is loop and self._forks == forks.count

    def expect(self, request: Awaited, session: SenderSession, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        """A future that ends when *request* has ended; only before it is given to the session's engine."""
        self._flush_later = session.flush_later
        request.on_end(self.collect)
        future = self._waiting[request] = loop.create_future()
        if not self._is_looking:
            self._is_looking = True
            loop.call_later(LOOK_S, self._look)
        return future

    def forget(self, request: Awaited) -> None:
        """Its task does not wait any more."""
        self._waiting.pop(request, None)

    def collect(self, request: Awaited) -> None:
        """*request* has ended: wake its task at the end of this iteration of the I/O loop."""
        self._ended.append(request)
        if not self._is_called:
            self._is_called = True
            self._flush_later(self)

    def flush(self) -> None:
        """Wake the loop."""
        loop = self._loop()
        with suppress(RuntimeError):  # it is closed: none of its tasks will go on
            if loop is not None:
                loop.call_soon_threadsafe(self._deliver)
                return
        self._is_called = False
        self._ended.clear()

    def _deliver(self) -> None:
        self._is_called = False  # what ends from now on calls again
        ended, waiting = self._ended, self._waiting
        while ended:
            future = waiting.pop(ended.popleft(), None)
            if future is not None and not future.done():
                future.set_result(None)

    def _look(self) -> None:
        """Now and then, while tasks wait: make sure that something will still end their waiting."""
        self._is_called = True  # what is ended here needs no wake-up
        for request in list(self._waiting):
            request.is_overdue()
        self._deliver()
        loop = self._loop()
        self._is_looking = bool(self._waiting) and loop is not None
        if self._is_looking and loop is not None:
            loop.call_later(LOOK_S, self._look)
