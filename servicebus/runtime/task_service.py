"""TaskService: runs one ``async def`` service on the worker's asyncio loop, many requests at a time.

It stands where a ServiceThread stands for other services. A caller that gives up, and a deadline, cancel the task.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from servicebus.runtime.async_execution import AsyncExecution, AsyncStreamExecution
from servicebus.runtime.job import Job, Outcome
from servicebus.runtime.keyed_lock_queue import Task
from servicebus.runtime.priority_inbox import line_up
from servicebus.runtime.registration import Service
from servicebus.runtime.service_loop import ServiceLoop
from servicebus.runtime.service_thread import ServiceThread
from servicebus.services import TextService
from servicebus.transport.loggers import get_logger

LOG = get_logger(__name__)

__all__ = ["TaskService"]

_CANCELLED_WITHIN_S = 1.0
"""So long a task that is cancelled because the worker ends may take to put things in order."""


def _priority(waiting: tuple[Job, Task | None]) -> int:
    return waiting[0].priority


class _Running:
    """A job that has begun."""

    __slots__ = ("held", "is_dropped", "job", "task", "why")

    def __init__(self, job: Job, held: Task | None):
        self.job = job
        self.held = held
        """What has its lock, if it needs one."""
        self.why: list[str] = []
        self.task: asyncio.Task[None] | None = None
        self.is_dropped = False
        """The worker ends, and does not wait for it."""


class TaskService(ServiceThread):
    """``put()`` and the like are for the threads that a ServiceThread names; all else runs in the loop's thread.

    Args:
        loop: the worker's; it runs while one of these services does.
    """

    _execution: AsyncExecution

    def __init__(self, loop: ServiceLoop, service: Service, *arguments: Any, **how: Any):
        super().__init__(service, *arguments, **how)
        self._loop = loop
        self._typed: TextService = service.instance
        self._waiting: deque[tuple[Job, Task | None]] = deque()
        self._running: dict[Job, _Running] = {}
        self._sweeping: asyncio.TimerHandle | None = None
        self._sweep_at = math.inf
        """The earliest deadline of what runs, if there is one."""
        self._goes_on = False
        """``_go_on()`` will be called."""
        self._is_open = False
        self._is_stopping = False
        self._has_ended = False
        if self._lock_queue is None:
            self._runners = []  # else one, which waits for the locks
            self._enqueue = partial(self._loop.call, self._arrived)

    def __repr__(self) -> str:
        return (
            f"<TaskService {self.service.key} running={len(self._running)} waiting={self.backlog}/{self._inbox_size}>"
        )

    @property
    def is_running(self) -> bool:
        return not self._has_ended

    def start(self) -> None:
        self._loop.add_user()
        self._loop.call(self._begin)
        super().start()

    def put(self, job: Job) -> bool:
        job.on_cancel = self._on_cancel
        return super().put(job)

    def begin_no_more(self) -> None:
        super().begin_no_more()
        self._loop.call(self._give_back)

    def stop(self) -> None:
        super().stop()
        self._loop.call(self._stop)

    def _make_execution(self, make_sender: Callable[[], Any], **how: Any) -> AsyncExecution:
        form = AsyncStreamExecution if self.service.stream_method else AsyncExecution
        return form(self.service, make_sender, **how)

    def _on_cancel(self, job: Job) -> None:
        self._loop.call(self._cancel, job, "its caller gave up")

    # -- in the thread that waits for locks ----------------------------------------------------------------------------

    def _run(self, runner: Any) -> None:
        assert self._lock_queue is not None
        while (task := self._lock_queue.get()) is not None:
            self._loop.call(self._arrived, task.job, task)
        runner.is_over = True

    # -- in the loop's thread ------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._opening = self._loop.loop.create_task(self._open())

    async def _open(self) -> None:
        pauses, typed = self._setup.pauses(), cast(Any, self._typed)
        while not self._is_open:
            try:
                await typed.setup_async()
            except BaseException as error:  # whatever the user's raises
                if self._is_stopping:
                    return
                self._setup.failed(error)
                self._refuse_waiting()
                await asyncio.sleep(pauses.next_s())
            else:
                self._setup.succeeded()
                self._is_open = True
        self._go_on_soon()

    def _refuse_waiting(self) -> None:
        """What came before ``setup()`` failed is not kept waiting for it."""
        while self._waiting:
            job, held = self._waiting.popleft()
            if not self._is_taken(job, held):
                self._end(job, held, self._execution.not_ready(job, self._setup.problem))

    def _is_taken(self, job: Job, held: Task | None) -> bool:
        """Whether *job* has come before (``put_again()``); from now on it has."""
        is_taken, job.is_taken = job.is_taken, True
        if is_taken and held is not None and self._lock_queue is not None:
            self._lock_queue.done(held)
        return is_taken

    def _arrived(self, job: Job, held: Task | None = None) -> None:
        if self._is_open and not self._waiting and len(self._running) < self._typed.tasks:
            self._start(job, held)
            return
        if self._window:
            line_up(self._waiting, (job, held), _priority)
        else:
            self._waiting.append((job, held))
        if self._is_open:
            self._go_on()
        elif self._setup.problem:
            self._refuse_waiting()

    def _go_on_soon(self) -> None:
        """For tasks, which can begin no others while they run."""
        if self._waiting and not self._goes_on:
            self._goes_on = True
            self._loop.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._goes_on = False
        while self._waiting and len(self._running) < self._typed.tasks:
            self._start(*self._waiting.popleft())

    def _give_back(self) -> None:
        while self._waiting:
            self._start(*self._waiting.popleft())

    def _start(self, job: Job, held: Task | None) -> None:
        if self._is_taken(job, held):
            return
        outcome = self._execution.refused(job) if held is None else self._execution.refused_task(held)
        if outcome is not None:
            self._end(job, held, outcome)
            return
        running = self._running[job] = _Running(job, held)
        self._loop.task_begins()
        if job.deadline is not None and job.deadline < self._sweep_at:
            self._sweep_by(job.deadline)
        running.task = self._loop.loop.begin(self._run_job(running), self._execution.name)

    async def _run_job(self, running: _Running) -> None:
        job = running.job
        try:
            ended = None if running.held is None else running.held.outcome
            outcome = await self._execution.run_bound(job, running.why, ended)
        except BaseException as error:  # a defect of ours
            LOG.exception("%s: raised outside of a request", self._execution.name, exc_info=error)
            outcome = self._execution.interrupted(job)
        del self._running[job]
        self._loop.task_ends()
        self._go_on_soon()
        if not running.is_dropped:
            self._end(job, running.held, outcome)

    def _end(self, job: Job, held: Task | None, outcome: Outcome) -> None:
        if held is not None and self._lock_queue is not None:
            self._lock_queue.done(held)
        self._unfinished.discard(job)
        self._loop.end(outcome)

    # One timer for all: a timer for each job took a quarter of what a task costs.

    def _sweep_by(self, deadline: float) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
        self._sweep_at = deadline
        self._sweeping = self._loop.loop.call_at(deadline, self._sweep)

    def _sweep(self) -> None:
        """Cancel what runs past its deadline, and come again at the next one."""
        self._sweeping, self._sweep_at = None, math.inf
        now, following = time.monotonic(), math.inf
        for job in list(self._running):
            if job.deadline is None:
                continue
            if job.deadline <= now:
                self._cancel(job, "the deadline passed")
            else:
                following = min(following, job.deadline)
        if following < math.inf:
            self._sweep_by(following)

    def _cancel(self, job: Job, why: str) -> None:
        running = self._running.get(job)
        if running is not None and running.task is not None and not running.why:
            running.why.append(why)
            running.task.cancel()

    def _stop(self) -> None:
        self._is_stopping = True
        if not self._is_open:
            self._opening.cancel()
        self._closing = self._loop.loop.create_task(self._close())

    async def _close(self) -> None:
        """What still runs is cancelled, to put things in order; like a thread left behind, it reports no end."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        tasks = []
        for running in self._running.values():
            running.is_dropped = True
            if running.task is not None:
                running.task.cancel()
                tasks.append(running.task)
        if tasks:
            await asyncio.wait(tasks, timeout=_CANCELLED_WITHIN_S)
        if self._is_open:
            await self._tear_down_async()
        self._has_ended = True
        self._loop.remove_user()

    async def _tear_down_async(self) -> None:
        what = f"teardown() of service {self.service.key}"
        try:
            await cast(Any, self._typed).teardown_async()
        except BaseException as error:  # the user's: reported, and the service serves or fails request by request
            self._execution.home.end_child(what, error)
            LOG.exception("%s failed", what)
