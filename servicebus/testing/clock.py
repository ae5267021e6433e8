"""VirtualTime: a clock that a test turns, and event loops that live by it."""

from __future__ import annotations

import heapq
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from threading import get_ident
from typing import Any, Protocol, TypeVar

from servicebus.errors import LifecycleError
from servicebus.transport import iothread
from servicebus.transport.loop import Timer, nothing
from servicebus.transport.sharedloop import SharedLoop

__all__ = ["VirtualLoop", "VirtualTime"]

T = TypeVar("T")

_MOST_ITERATIONS = 100_000


class VirtualTime:
    """A clock, and the loops that live by it.

    Args:
        now: seconds of the steady clock.
        wall_offset_s: what the wall clock is ahead of the steady one.
    """

    def __init__(self, now: float, wall_offset_s: float) -> None:
        self.now = now
        self.wall_offset_s = wall_offset_s
        self.loops: list[VirtualLoop] = []
        self.others: list[Alarm] = []
        """What lives by this clock in other threads."""
        self.on_post: Callable[[], None] = nothing
        """Called when a thread hands work to one of the loops."""
        self.periodic: frozenset[Callable[..., None]] = frozenset()
        """Methods that their objects call again and again to look after something; see ``due_within()``."""
        self.thread = 0
        """The one that turns the loops, if there is one."""

    def loop(self, name: str = "virtual") -> VirtualLoop:
        """A loop that is turned by the methods here."""
        loop = VirtualLoop(name, self)
        self.loops.append(loop)
        return loop

    @property
    def is_busy(self) -> bool:
        """A loop has something to do before time passes."""
        return any(loop.is_busy for loop in self.loops)

    @property
    def due_at(self) -> float:
        """When the next timer is due; infinite without one."""
        return min((each.due_at for each in [*self.loops, *self.others]), default=math.inf)

    def due_within(self, pause_s: float) -> float:
        """When something is due that does not recur; what recurs waits until *pause_s* from now."""
        once = min((loop.due_once_at for loop in self.loops), default=math.inf)
        once = min([once, *[other.due_at for other in self.others]])
        return min(once, max(self.due_at, self.now + pause_s))

    def settle(self) -> None:
        """Turn the loops until there is nothing to do before time passes."""
        for _ in range(_MOST_ITERATIONS):
            busy = [loop for loop in self.loops if loop.is_busy]
            if not busy:
                return
            for loop in busy:
                loop.iterate()
        raise AssertionError(f"{busy} find no rest")

    def advance(self, seconds: float) -> None:
        """Let *seconds* pass; what is due meanwhile is done at its own time."""
        until = self.now + seconds
        self.settle()
        while (due_at := self.due_at) < until:
            self.now = max(self.now, due_at)
            self.settle()
        self.now = until
        self.settle()

    def until(self, condition: Callable[[], T], limit_s: float = 600.0) -> T:
        """Let time pass, from one timer to the next, until *condition*; gives its value."""
        give_up_at = self.now + limit_s
        self.settle()
        while not (value := condition()):
            if (due_at := min(self.due_at, give_up_at + 1)) > give_up_at:
                raise AssertionError(f"not within {limit_s:g} s: {condition}")
            self.now = max(self.now, due_at)
            self.settle()
        return value


class Alarm(Protocol):
    """What waits for a time."""

    @property
    def due_at(self) -> float: ...


class VirtualLoop(SharedLoop):
    """A loop without sockets: nothing is polled, so it never waits, and no thread that waits leads it."""

    def __init__(self, name: str, clock: VirtualTime):
        super().__init__(name)
        self._clock = clock
        self._once: list[tuple[float, int, Timer]] = []
        self.wait: Callable[[Callable[[], object]], None] | None = None
        """How a thread waits for an answer; None: it has to turn the loop itself."""

    def can_wait_here(self) -> bool:
        return get_ident() != self._clock.thread

    @property
    def is_busy(self) -> bool:
        if self._posted or self._submitted or self._dirty or self._unsent:
            return True
        return bool(self._timers) and self.due_at <= self._clock.now

    @property
    def due_at(self) -> float:
        """When its next timer is due; to the last bit, or the clock would stop a hair before it."""
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else math.inf

    @property
    def due_once_at(self) -> float:
        """The same of the timers whose callbacks are not periodic."""
        while self._once and (self._once[0][2].callback is None or self._once[0][0] <= self._clock.now):
            heapq.heappop(self._once)
        return self._once[0][0] if self._once else math.inf

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        timer = super().call_later(delay_s, callback)
        method = callback.func if isinstance(callback, partial) else getattr(callback, "__wrapped__", callback)
        if getattr(method, "__func__", None) not in self._clock.periodic:
            heapq.heappush(self._once, (self._clock.now + delay_s, next(self._timer_ids), timer))
        return timer

    def iterate(self) -> None:
        self._run_posted()
        self._run_timers()
        self._flush()
        self.iterations += 1

    def post(self, callback: Callable[[], None]) -> None:
        super().post(callback)
        self._clock.on_post()

    def submit(self, callback: Callable[[], None]) -> None:
        super().submit(callback)
        self._clock.on_post()

    def lead(self, *_arguments: object) -> bool:
        return False

    def follow(self, submit: Callable[[], None], is_over: Callable[[], object], own_fd: int | None = None) -> None:
        submit()
        if self.wait is not None and own_fd is None:
            self.wait(is_over)


class _Time:
    """What stands for the module ``time`` in the modules of servicebus."""

    def __init__(self, clock: VirtualTime, is_foreign: Callable[[], bool], sleep: Callable[[float], None]):
        monotonic, wall, sleep_really = time.monotonic, time.time, time.sleep

        def steady() -> float:
            # The thread that turns the loops asks a thousand times in a test.
            return clock.now if get_ident() == clock.thread or not is_foreign() else monotonic()

        def by_the_wall() -> float:
            return wall() if is_foreign() else clock.now + clock.wall_offset_s

        self.monotonic, self.time = steady, by_the_wall
        self.sleep: Callable[[float], None] = lambda seconds: (sleep_really if is_foreign() else sleep)(seconds)

    def clock_gettime(self, _clock: int) -> float:
        return self.monotonic()  # the machine is not suspended

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


_is_installed = threading.Lock()


@contextmanager
def installed(
    clock: VirtualTime, is_served: Callable[[], bool], sleep: Callable[[float], None] = time.sleep
) -> Iterator[None]:
    """Have servicebus live by *clock*; other code, the program's and asyncio's, goes by the real one.

    Two kinds of threads are exceptions: those that run already, other than this one, keep the real clock altogether;
    and in the threads of services the program's code goes by *clock*, too.

    Args:
        is_served: whether the calling thread runs a service of the bus.
        sleep: what ``time.sleep()`` does in the threads that go by *clock*.

    Raises:
        LifecycleError: another clock is installed.
    """
    if not _is_installed.acquire(blocking=False):
        raise LifecycleError("another one is open in this process", "open a bus in memory")
    foreign = set(threading.enumerate()) - {threading.current_thread()}

    def refusal(runs: bool) -> str:
        """The time limits of such a Sender would stand still with the clock, and its calls never end."""
        if runs and threading.current_thread() in foreign:
            return ""
        return "a bus in memory is open in this process; use its sender, or its make_sender()"

    ours = _Time(clock, lambda: threading.current_thread() in foreign, sleep)
    program = _Time(clock, lambda: not is_served(), sleep)
    originals = {name: getattr(time, name) for name in ("monotonic", "time", "sleep")}
    modules = [module for name, module in list(sys.modules.items()) if name.startswith("servicebus.")]
    replaced = [module for module in modules if vars(module).get("time") is time and module.__name__ != __name__]
    free, iothread.refusal = iothread.refusal, refusal
    try:
        for module in replaced:
            vars(module)["time"] = ours
        for name in originals:
            setattr(time, name, getattr(program, name))
        yield
    finally:
        for name, original in originals.items():
            setattr(time, name, original)
        for module in replaced:
            vars(module)["time"] = time
        iothread.refusal = free
        _is_installed.release()
