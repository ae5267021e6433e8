"""ServiceLoop: the asyncio loop of a worker, in a thread of its own, and the watch that finds what blocks it.

It runs while it has users: the worker's ``async def`` services. asyncio is imported when the first one comes.
"""

from __future__ import annotations

import asyncio
import math
import os
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from functools import partial
from types import FrameType
from typing import Any

from servicebus.runtime.job import Job, Outcome
from servicebus.runtime.thread_times import ThreadTimes, has_blocked, times_of
from servicebus.transport.loggers import get_logger
from servicebus.transport.loop import nothing
from servicebus.transport.ratelimitedlog import RateLimitedLog
from servicebus.transport.stacks import frame_of

LOG = get_logger(__name__)

__all__ = ["ServiceLoop"]

BLOCKED_S = 0.1
"""A callback that runs for longer is named in the log."""
_IDLE_LOOKS = 20
_LEAST_S = 0.05
"""With less time to its next timer the thread waits for that and does nothing else. Twice what a leader waits."""
RUNS_JOBS = "run_bound"
"""The name of the function that runs a job: its frame tells which service blocks."""

HandOver = Callable[[Outcome, Callable[[], object], int | None], None]
"""Takes what a job has ended with. Until the function says so, or the descriptor can be read, the thread has nothing
else to do."""


class ServiceLoop:
    """``call()`` is for any thread; all that is called runs in the loop's thread."""

    def __init__(self, name: str, hand_over: HandOver):
        self.name = name
        self._hand_over = hand_over
        self._selector = _Selector(self._before_it_waits)
        self.loop = _Loop(self._selector)
        self._last: Outcome | None = None
        """What the last of the tasks has ended with; handed over when nothing else is to be done."""
        self._leads = False
        """Its thread runs the worker's loop now."""
        self._posted: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()
        # In place of call_soon_threadsafe(), whose socket pair takes twice the time.
        self._wakes = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._waking = threading.Lock()
        """Held while ``_wakes`` is written to or closed, so that no other file of its number is written to."""
        self._is_woken = False
        self.loop.add_reader(self._wakes, self._take)
        self._users = 0
        self.tasks = 0
        """How many jobs are under way."""
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread_id = 0
        """Of the thread, from when it runs: asking a thread for it takes longer."""
        self._watch = _Watch(self)

    def __repr__(self) -> str:
        return f"<ServiceLoop {self.name} users={self._users}>"

    @property
    def frame(self) -> FrameType | None:
        """What its thread runs now."""
        return frame_of(self.thread.ident)

    @property
    def iterations(self) -> int | None:
        """How often it has waited; None while it waits."""
        iterations = self._selector.iterations
        return None if self._selector.is_waiting else iterations

    @property
    def times(self) -> ThreadTimes:
        """What its thread has done with its time."""
        return times_of(self.thread.native_id)

    def add_user(self) -> None:
        """Start, if this is the first one; not after the last has left. For any thread, as ``remove_user()`` is for the
        loop's."""
        with self._waking:
            self._users += 1
            is_first = self._users == 1
        if is_first:
            self.thread.start()
            self._watch.thread.start()

    def remove_user(self) -> None:
        with self._waking:
            self._users -= 1
            is_last = self._users == 0
        if is_last:
            self._watch.stop()
            self.loop.stop()

    def call(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Have *function* called in the loop's thread; one wake-up serves a whole batch."""
        self._posted.append((function, arguments))
        if not (self._is_woken or (self._leads and threading.get_ident() == self._thread_id)):
            self._is_woken = True
            with self._waking:
                if not self.loop.is_closed():  # else the worker ends
                    os.eventfd_write(self._wakes, 1)

    def task_begins(self) -> None:
        self.tasks += 1
        self._watch.notice()

    def task_ends(self) -> None:
        self.tasks -= 1

    def end(self, outcome: Outcome) -> None:
        """Hand over what a job has ended with. For the loop's thread."""
        ended: Outcome | None = outcome
        if not self.tasks:
            ended, self._last = self._last, outcome
        if ended is not None:
            self._hand_over(ended, _busy, None)

    def _before_it_waits(self, timeout_s: float) -> bool:
        """Whether the worker's loop was run in place of waiting: a request that comes alone wakes no other thread.

        The next one is begun here, too. If it ends without having waited, asyncio's loop has had nothing to do with it.
        """
        if self._last is None:
            return False
        posted, give_up_at = self._posted, time.monotonic() + timeout_s - _LEAST_S / 2

        def is_over() -> object:
            return posted or time.monotonic() > give_up_at

        self.loop.is_due = is_short = timeout_s < _LEAST_S
        while (outcome := self._last) is not None:
            self._last = None
            if self.loop.is_due:
                self._hand_over(outcome, _busy, None)
                break
            self._lead(outcome, is_over)
            if self._is_woken:  # asyncio calls _take()
                break
            self._take_posted()
        return not is_short

    def _lead(self, outcome: Outcome, is_over: Callable[[], object]) -> None:
        selector = self._selector
        self._leads = selector.is_waiting = True
        try:
            self._hand_over(outcome, is_over, selector.fileno())
        except BaseException:
            self.loop.call_soon(self._take_posted)  # nothing else has it called
            raise
        finally:
            self._leads = selector.is_waiting = False
            selector.iterations += 1

    def _take(self) -> None:
        os.eventfd_read(self._wakes)  # first: a wake-up that it took with it would never come again
        self._is_woken = False
        self._take_posted()

    def _take_posted(self) -> None:
        while self._posted:
            function, arguments = self._posted.popleft()
            try:
                function(*arguments)
            except Exception:  # a defect: it ends nothing that was posted with it
                LOG.exception("%s: %r failed", self.name, function)

    def _run(self) -> None:
        self._thread_id = threading.get_ident()
        asyncio.set_event_loop(self.loop)
        while True:
            try:
                self.loop.run_forever()
                break
            except BaseException:  # SystemExit in a task that a service has made ends run_forever()
                LOG.exception("%s: raised in the loop; it goes on", self.name)
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        with self._waking:
            self.loop.remove_reader(self._wakes)
            self.loop.close()
            os.close(self._wakes)


class _Loop(asyncio.SelectorEventLoop):
    """asyncio's own, which begins tasks at once, under every version of Python."""

    def __init__(self, selector: selectors.BaseSelector):
        self.is_due = False
        """Something was scheduled since this was set to False."""
        self._is_beginning = False
        self._first_step: Callable[[], object] = nothing
        super().__init__(selector)

    def begin(self, coroutine: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """A task of *coroutine* that has done its first step; it has ended if it has nothing to wait for.

        For callbacks, not for tasks: they cannot be nested. The task has no contextvars of others.
        """
        self._is_beginning = True
        # With a name of its own: asyncio takes longer to make one up.
        task = Context().run(asyncio.Task, coroutine, loop=self, name=name)
        step, self._first_step = self._first_step, nothing  # it refers to all that the task has
        step()
        return task

    # Without the type variable that mypy wants here: it needs Python 3.11, or another library.

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Any:
        if self._is_beginning:  # by the new task, which asks for its first step and for nothing else
            self._is_beginning = False
            self._first_step = partial(callback, *args) if context is None else partial(context.run, callback, *args)
            return None
        self.is_due = True
        return super().call_soon(callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        self.is_due = True
        return super().call_at(when, callback, *args, context=context)


class _Selector(selectors.EpollSelector):
    """Says that it is about to wait, which asyncio says nowhere else."""

    def __init__(self, before_it_waits: Callable[[float], bool]):
        super().__init__()
        self._before_it_waits = before_it_waits
        self.iterations = 0
        """How often it has returned."""
        self.is_waiting = False

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        is_over = self._before_it_waits(math.inf if timeout is None else timeout)
        self.is_waiting = True
        try:
            return super().select(0 if is_over else timeout)
        finally:
            self.iterations += 1
            self.is_waiting = False


def _busy() -> bool:
    return True


class _Watch:
    """A thread that looks whether the loop goes on, while a task runs; it sleeps when none has for a while."""

    def __init__(self, owner: ServiceLoop):
        self._owner = owner
        self._refused = RateLimitedLog(LOG, owner.name)
        self._wakes = threading.Event()
        self._pauses = threading.Event()
        self._is_asleep = True
        self.thread = threading.Thread(target=self._run, name=f"{owner.name}-watch", daemon=True)

    def notice(self) -> None:
        """A task begins."""
        if self._is_asleep:
            self._is_asleep = False
            self._wakes.set()

    def stop(self) -> None:
        self._pauses.set()
        self._wakes.set()

    def _run(self) -> None:
        while not self._pauses.is_set():
            self._wakes.wait()
            idle = 0
            while idle < _IDLE_LOOKS and not self._pauses.wait(BLOCKED_S / 2):
                idle = 0 if self._owner.tasks else idle + 1
                self._look()
            self._wakes.clear()
            self._is_asleep = True
            if self._owner.tasks:  # one began in between
                self.notice()

    def _look(self) -> None:
        """If the loop runs something, see whether it comes to an end; name it if that takes long."""
        iterations = self._owner.iterations
        if iterations is None:
            return
        is_named, before = False, self._owner.times
        while not self._pauses.wait(BLOCKED_S) and self._owner.iterations == iterations:
            after = self._owner.times
            if not is_named and has_blocked(before, after, BLOCKED_S):
                is_named = True
                self._name_what_blocks()
            before = after

    def _name_what_blocks(self) -> None:
        frame = self._owner.frame
        if frame is None:
            return
        self._refused.warning(
            f"blocked for over {BLOCKED_S:g} s by {described(frame)}; all async def services of the worker stand still;"
            " give what blocks to asyncio.to_thread()"
        )


def described(frame: FrameType) -> str:
    """The service and the line that a thread is at."""
    at = f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}()"
    outer: FrameType | None = frame
    while outer is not None:
        job = outer.f_locals.get("job") if outer.f_code.co_name == RUNS_JOBS else None
        if isinstance(job, Job):
            return f"service {job.incoming.key}, {at}"
        outer = outer.f_back
    return at
