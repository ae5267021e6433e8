"""Driver: the one thread that turns all loops of a bus in memory, and lets its time pass.

Theory of operation. What the test orders (a fault, time) is done while the bus is *quiet*: no loop has anything to do,
and each service has finished, or stands still because it waits. An order is over when the bus is quiet again. So what
a test does takes effect at a known point, however busy the machine is.

Time stands still but for two cases: the test orders that it passes; or the thread that opened the bus waits, for an
answer say, and the bus is quiet. Then the clock goes from one timer to the next.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any

from servicebus.testing.clock import VirtualTime
from servicebus.transport.loop import nothing
from servicebus.transport.stacks import frame_of

__all__ = ["Driver"]

_WAIT_LIMIT_S = 5.0
"""For so much real time the bus waits for a service that is at work, before a fault takes effect beside it."""
_LOOK_S, _LONGEST_LOOK_S = 0.0005, 0.02
"""How often it looks whether a thread stands still, which nothing reports."""
_LIMIT_S = 3600.0
"""Time passes for so long for a thread that waits for something else than an answer."""
_STEPS = 200
"""Of the time that a test lets pass: while nothing is under way, what recurs is done so often at most."""
_HOPS = 3
"""So many iterations in which an asyncio loop does nothing for the program show that it is idle."""

_real_monotonic = time.monotonic
_WAITS = threading.Condition.wait.__code__
_JOINS = {
    method.__code__
    for name in ("join", "_wait_for_tstate_lock")
    if (method := getattr(threading.Thread, name, None)) is not None
}


class Driver:
    """Made and closed by the thread of the test; the other methods are for any thread."""

    def __init__(self, clock: VirtualTime):
        self._clock = clock
        self.is_serving: Callable[[], bool] = lambda: False
        """Whether a service is at work."""
        self.is_under_way: Callable[[], bool] = lambda: True
        """Whether a request is under way, or a service has something to do."""
        self.on_time: Callable[[], None] = nothing
        """Called when time has passed."""
        self.is_asked: Callable[[], bool] = lambda: False
        """Whether a request of the test is under way."""
        self.asyncio_loop: asyncio.AbstractEventLoop | None = None
        """Of the test, if that is a coroutine."""
        self.calling: set[int] = set()
        """Threads in a call: their time must not pass between its begin and its wait, however late they are run."""
        self._changed = threading.Condition()
        self._orders: deque[_Order] = deque()
        self._done: list[_Order] = []
        """They are over as soon as the bus is quiet."""
        self._waiting: dict[int, tuple[Callable[[], object], bool]] = {}
        """By thread: whether it goes on, and whether time passes for it."""
        self._interrupted: set[int] = set()
        """Threads that are to leave what they wait for."""
        self._defect: BaseException | None = None
        """What has ended the thread."""
        self._opener = get_ident()
        self._flows_until = 0.0
        self._is_probing = self._is_idle = self._is_ending = self._is_stopping = False
        clock.on_post = self._wake
        self._thread = threading.Thread(target=self._run, name="servicebus-memory-bus", daemon=True)

    def start(self) -> None:
        self._thread.start()
        self._clock.thread = self._thread.ident or 0

    def close(self) -> None:
        """End the thread; what is unfinished stays so."""
        self._is_stopping = True
        self._wake()
        self._thread.join()

    def order(self, do: Callable[[], Any]) -> Any:
        """Have *do* done while the bus is quiet; returns its result when the bus is quiet again."""
        if get_ident() == self._thread.ident:
            return do()
        order = _Order(do)
        with self._changed:
            self._orders.append(order)
        self._wait(lambda: order.is_over or self._is_stopping, flows=False)
        if order.error is not None:
            raise order.error
        return order.result

    def settle(self) -> None:
        """Return when the bus is quiet."""
        self.order(lambda: None)

    def advance(self, seconds: float) -> None:
        self.order(lambda: self.pass_time(seconds))

    def wait(self, has_ended: Callable[[], object]) -> None:
        """Wait until *has_ended*, which the bus brings about; time passes meanwhile."""
        self._wait(has_ended, flows=True)

    def sleep(self, seconds: float) -> None:
        """Wait until so much of the bus's time has passed, or the bus ends."""
        loop, ended = self._clock.loops[0], threading.Event()
        loop.post(lambda: nothing(loop.call_later(seconds, ended.set)))
        self.wait(lambda: ended.is_set() or self._is_ending)

    def end_sleep(self) -> None:
        """The bus ends: no thread sleeps any more."""
        self._is_ending = True
        self._wake()

    def interrupt(self, thread: int | None) -> bool:
        """Raise SystemExit in *thread* if it waits for the bus; False: it does not."""
        with self._changed:
            if thread is None or thread not in self._waiting:
                return False
            self._interrupted.add(thread)
            self._changed.notify_all()
            return True

    @contextmanager
    def time_stands_still(self) -> Iterator[None]:
        """However the calling thread waits, no time passes for it."""
        me = get_ident()
        with self._changed:
            self._waiting[me] = (lambda: False), False
        try:
            yield
        finally:
            with self._changed:
                del self._waiting[me]

    # -- the thread ------------------------------------------------------------------------------------------------

    def pass_time(self, seconds: float) -> None:
        """In an order: let *seconds* pass; what is due meanwhile is done at its own time."""
        until = self._clock.now + seconds
        self._become_quiet()
        # What each part looks after once a second or so would take minutes for a day.
        while (due_at := self._clock.due_within(0.0 if self.is_under_way() else seconds / _STEPS)) < until:
            self._move(due_at)
            self._become_quiet()
        self._move(until)

    def _run(self) -> None:
        try:
            self._iterate()
        except BaseException as error:  # a defect of ours: raised where the bus is waited for
            self._defect = error
        finally:
            self._is_stopping = True
            with self._changed:
                self._changed.notify_all()

    def _iterate(self) -> None:
        pause_s = _LOOK_S
        while not self._is_stopping:
            self._become_quiet()
            with self._changed:
                self._end_orders()
                order = self._orders.popleft() if self._orders else None
            if order is not None:
                self._flows_until = self._clock.now + _LIMIT_S
                order.run()
                self._done.append(order)
            elif self._flows() and (due_at := self._clock.due_at) < math.inf:
                self._move(due_at)
            else:
                with self._changed:
                    if not (self._orders or self._is_stopping or self._clock.is_busy):
                        woken = self._changed.wait(pause_s)
                        pause_s = _LOOK_S if woken else min(2 * pause_s, _LONGEST_LOOK_S)
                continue
            pause_s = _LOOK_S

    def _become_quiet(self) -> None:
        give_up_at: float | None = None
        while not self._is_stopping:
            if self._clock.is_busy:
                self._clock.settle()
                self._notify()
                give_up_at = None
            if not self.is_serving():
                if self._clock.is_busy:
                    continue
                return
            now = _real_monotonic()
            give_up_at = give_up_at or now + _WAIT_LIMIT_S
            if now > give_up_at:
                return
            with self._changed:
                if not self._clock.is_busy:
                    self._changed.wait(_LOOK_S)

    def _move(self, until: float) -> None:
        self._clock.now = max(self._clock.now, until)
        self.on_time()

    def _end_orders(self) -> None:
        for order in self._done:
            order.is_over = True
        if self._done:
            self._done.clear()
            self._changed.notify_all()

    def _notify(self) -> None:
        with self._changed:
            if any(has_ended() for has_ended, _ in self._waiting.values()):
                self._changed.notify_all()

    def _wake(self) -> None:
        if get_ident() != self._thread.ident:
            with self._changed:
                self._changed.notify_all()

    # -- who waits -------------------------------------------------------------------------------------------------

    def _wait(self, has_ended: Callable[[], object], *, flows: bool) -> None:
        me = get_ident()
        with self._changed:
            before = self._waiting.get(me)
            self._waiting[me] = has_ended, flows
            self._changed.notify_all()
            try:
                while not (has_ended() or self._is_stopping or me in self._interrupted):
                    self._changed.wait(1.0)
                if me in self._interrupted:
                    self._interrupted.remove(me)
                    raise SystemExit("its node was killed")
                if self._defect is not None:
                    raise AssertionError("the bus in memory has failed, a defect of servicebus") from self._defect
            finally:
                if before is None:
                    del self._waiting[me]
                else:  # a signal handler waits, too
                    self._waiting[me] = before

    def _flows(self) -> bool:
        """Whether time passes by itself: the test waits."""
        if not all(map(self.stands_still, self.calling.copy())):
            return False
        with self._changed:
            waiting = self._waiting.get(self._opener)
            if waiting is not None:
                return waiting[1] and not waiting[0]()
        if self.asyncio_loop is not None:
            return self._asyncio_is_idle()
        return self._clock.now < self._flows_until and self.stands_still(self._opener)

    def is_stuck(self, thread: int | None) -> bool:
        """Whether *thread* waits for another thread, and not for the bus."""
        with self._changed:
            return thread not in self._waiting and self.stands_still(thread)

    def stands_still(self, thread: int | None) -> bool:
        """Whether *thread* waits for the bus or for another thread."""
        with self._changed:
            waiting = self._waiting.get(thread or 0)
            if waiting is not None:
                return not waiting[0]()
        frame = frame_of(thread)
        if frame is None or frame.f_code in _JOINS:
            return frame is not None
        if frame.f_code is not _WAITS:
            return False
        names = frame.f_locals
        waiter = names.get("waiter")
        # notify() frees the waiter, a lock, and takes it off the list. The thread locks it once more as it wakes up.
        return waiter is not None and waiter in names["self"]._waiters and bool(waiter.locked())

    def _asyncio_is_idle(self) -> bool:
        """Whether the test, a coroutine, awaits an answer, and its loop has nothing to do."""
        loop = self.asyncio_loop
        if self._is_idle:
            self._is_idle = False
            return True
        if loop is not None and not self._is_probing and self.is_asked() and not loop.is_closed():
            self._is_probing = True
            loop.call_soon_threadsafe(self._hop, loop, _HOPS, self._clock.loops[0].iterations)
        return False

    def _hop(self, loop: asyncio.AbstractEventLoop, left: int, iterations: int) -> None:
        if left:
            loop.call_soon(self._hop, loop, left - 1, iterations)
            return
        with self._changed:
            self._is_probing = False
            self._is_idle = self._clock.loops[0].iterations == iterations
            self._changed.notify_all()


class _Order:
    """What is to be done while the bus is quiet."""

    def __init__(self, do: Callable[[], Any]):
        self._do = do
        self.result: Any = None
        self.error: BaseException | None = None
        self.is_over = False

    def run(self) -> None:
        try:
            self.result = self._do()
        except BaseException as error:  # raised again in the thread that gave the order
            self.error = error
