"""ServiceThread: an inbox and the thread, or threads, that run one service."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from servicebus.runtime.execution import Execution
from servicebus.runtime.job import Job, Outcome
from servicebus.runtime.keyed_lock_queue import KeyedLockQueue, Task
from servicebus.runtime.lock_keys import lock_finder
from servicebus.runtime.node_locks import Locks, NodeLocks
from servicebus.runtime.priority_inbox import PriorityInbox
from servicebus.runtime.registration import Service
from servicebus.runtime.setup import Setup
from servicebus.runtime.stream_execution import ClassStreamExecution, StreamRuns, TextStreamExecution
from servicebus.runtime.streams import NodeStreams
from servicebus.runtime.text_execution import execution_of
from servicebus.services import TextService
from servicebus.transport import forks
from servicebus.transport.loggers import get_logger

LOG = get_logger(__name__)

__all__ = ["Service", "ServiceThread"]


class ServiceThread:
    """Runs one service. ``put()`` is for the I/O thread; outcomes are handed to *post* from the service's threads.

    Args:
        hand_over: in place of *post*, given a function that says whether the next job is here: until then the thread
            may be of use elsewhere.
        recover: in place of *post*, for an outcome that may have been handed over already.
        locks: the node's, for a service with locks; without it they hold in this service's threads alone.
        window: of a node with priorities: how many jobs that have one are accepted, be the inbox full or not.
    """

    elsewhere, common_queue = "", None

    def __init__(
        self,
        service: Service,
        inbox_size: int,
        post: Callable[[Outcome], None],
        make_sender: Callable[[], Any],
        *,
        with_traces: bool,
        locks: Locks | None = None,
        hand_over: Callable[[Outcome, Callable[[], object]], None] | None = None,
        recover: Callable[[Outcome], None] | None = None,
        retry_schedule: tuple[float, ...] = (),
        window: int = 0,
    ):
        self.service = service
        self._window = window
        self._execution = self._make_execution(make_sender, with_traces=with_traces, retry_schedule=retry_schedule)
        self._setup = Setup(service, self._execution.home)
        self._streams: NodeStreams | None = None
        self._inbox: SimpleQueue[Job | None] | PriorityInbox = PriorityInbox() if window else SimpleQueue()
        self._lock_queue = self._make_lock_queue(locks or NodeLocks()) if service.is_locked else None
        self._enqueue: Callable[[Job], object] = self._inbox.put if self._lock_queue is None else self._lock_queue.put
        self._inbox_size = inbox_size
        self._post = post
        self._hand_over = hand_over
        self._unfinished: set[Job] = set()
        self._recover = recover or post
        count = max(service.threads, 1)
        # 2.x ran a "background" service in a new thread per request, without bound; here it gets a bounded handful.
        if getattr(service.instance, "background", False):
            count = max(count, _BACKGROUND_THREADS)
        self._runners = [_Runner(f"svc-{service.key}-{n}", self._run) for n in range(count)]

    def __repr__(self) -> str:
        return f"<ServiceThread {self.service.key} waiting={self.backlog}/{self._inbox_size}>"

    def use(self, streams: NodeStreams) -> None:
        """Where the items of a generator go; before ``start()``."""
        if isinstance(self._execution, StreamRuns):
            self._execution.streams = self._streams = streams

    def note_accepted(self, note: Callable[[Job], None]) -> None:
        """Call *note* with each job that is accepted; before ``start()``."""
        enqueue = self._enqueue

        def noted(job: Job) -> None:
            note(job)
            enqueue(job)

        self._enqueue = noted

    @property
    def backlog(self) -> int:
        """Jobs accepted and not yet finished, those that wait for a lock included."""
        return len(self._unfinished)

    @property
    def capacity(self) -> int:
        """How many jobs it accepts at a time."""
        return self._inbox_size

    @property
    def room(self) -> int:
        """How many jobs ``put()`` would accept now."""
        return 0 if self._setup.problem else self._inbox_size - self.backlog

    @property
    def problem(self) -> str:
        """Why it takes no requests though its inbox has room; empty if it does."""
        return self._setup.problem

    @property
    def threads(self) -> list[threading.Thread]:
        """Those that run it, one of which may be about to be replaced."""
        return [runner.thread for runner in self._runners]

    @property
    def is_running(self) -> bool:
        return any(runner.thread.is_alive() for runner in self._runners)

    def start(self) -> None:
        for runner in self._runners:
            runner.thread.start()

    def mend(self) -> int:
        """Replace threads that have died, and end their requests as interrupted; how many. For one thread."""
        dead = [runner for runner in self._runners if runner.is_dead]
        for runner in dead:
            LOG.error("%s: its thread died; another one takes its place", self._execution.name)
            self._setup.died(runner.thread)
            self._settle(runner)
            self._runners[self._runners.index(runner)] = replacement = _Runner(runner.thread.name, self._run)
            replacement.held = runner.held
            replacement.thread.start()
        return len(dead)

    def put(self, job: Job) -> bool:
        """Accept *job*, or say False when there is no ``room``. Never blocks."""
        if (len(self._unfinished) >= self._inbox_size or self._setup.problem) and not self._is_let_past(job):
            return False
        self._unfinished.add(job)
        self._enqueue(job)
        return True

    def _is_let_past(self, job: Job) -> bool:
        """Whether the full inbox takes *job*: what has a priority does not wait for what has none."""
        return len(self._unfinished) < self._window and not self._setup.problem and job.priority > 0

    def put_again(self, job: Job) -> bool:
        """Whether ``put()`` has accepted *job*, or was about to. Then it is run, once, though it may come twice."""
        if not job.is_taken:
            if job not in self._unfinished:
                return False
            self._enqueue(job)
        return True

    def begin_stop(self) -> None:
        """The worker takes no more: what waits for the lock of another process is soon sent elsewhere."""
        if self._lock_queue is not None:
            self._lock_queue.give_back_after(_GIVE_BACK_AFTER_S)

    def begin_no_more(self) -> None:
        """There is no time left: each job of the inbox ends as not run, and goes elsewhere."""
        self._execution.begins_no_more = True
        if self._lock_queue is not None:
            self._lock_queue.give_back_after(0.0)

    def stop(self) -> None:
        """Let the threads end after what is in the inbox."""
        self._setup.stop()
        if self._streams is not None:
            self._streams.let_go()
        if self._lock_queue is not None:
            self._lock_queue.close()
        else:
            for _ in self._runners:
                self._inbox.put(None)

    def join(self, deadline: float) -> bool:
        """Wait for the threads until ``time.monotonic()`` is *deadline*; False if one still runs."""
        for runner in self._runners:
            runner.thread.join(max(0.0, deadline - time.monotonic()))
        return not self.is_running

    # -- in the service's threads ------------------------------------------------------------------------------------

    def _run(self, runner: _Runner) -> None:
        if not self._set_up():
            runner.is_over = True
            return
        serve = self._serve if self._lock_queue is None else self._serve_locked
        while not runner.is_over:
            try:
                serve(runner)
            except BaseException as error:  # not of a request: a late TimeoutError of a time limit set from outside
                self._execution.home.end_child(self._execution.name, error)
                LOG.warning("%s: raised in its thread outside of a request", self._execution.name, exc_info=error)
                self._settle(runner)
        self._tear_down()

    def _set_up(self) -> bool:
        """Whether ``setup()`` has succeeded, after as many attempts as it took; False: the service is to stop."""
        pauses = self._setup.pauses()
        while not self._setup.attempt():
            self._give_back()
            if not self._setup.wait(pauses.next_s()):
                self._give_back()
                return False
        return True

    def _give_back(self) -> None:
        """What came before ``setup()`` failed is not kept waiting for it."""
        why = self._setup.problem
        if not why:  # another thread serves
            return
        if self._lock_queue is not None:
            jobs = self._lock_queue.take_arrived()
        else:
            jobs, ends = [], 0
            with suppress(Empty):
                while True:
                    job = self._inbox.get_nowait()
                    ends += job is None
                    jobs += [] if job is None else [job]
            for _ in range(ends):
                self._inbox.put(None)
        for job in jobs:
            self._unfinished.discard(job)
            self._post(self._execution.not_ready(job, why))

    def _serve(self, runner: _Runner) -> None:
        mark = forks.mark()
        hand_over = self._hand_over or (lambda outcome, _has_job: self._post(outcome))
        inbox, held = self._inbox, runner.held
        has_job = inbox.qsize  # asked several times for each job: a function of ours would cost as much as the rest
        # In one step of the interpreter, so that a job is in the inbox or in our hand whenever something is raised.
        jobs = inbox.jobs() if isinstance(inbox, PriorityInbox) else iter(inbox.get, _NEVER)
        take = map(held.append, jobs)
        while True:
            if not held:
                next(take)
                if held[0] is not None and held[0].is_taken:  # ``put_again()``
                    held.clear()
                    continue
            if (job := held[0]) is None:
                runner.is_over = True
                return
            job.is_taken = True
            runner.begun = job
            runner.outcome = outcome = self._execution.run(job)
            if not mark[0]:  # the child that it forked came back
                self._execution.home.end_child(self._execution.name)
            self._unfinished.discard(job)
            hand_over(outcome, has_job)
            held.clear()

    def _serve_locked(self, runner: _Runner) -> None:
        assert self._lock_queue is not None
        held = runner.held
        while True:
            if not held:
                held.append(self._lock_queue.get())
            if (task := held[0]) is None:
                runner.is_over = True
                return
            if task.job.is_taken and runner.begun is not task:  # ``put_again()``
                self._lock_queue.done(task)
                held.clear()
                continue
            task.job.is_taken = True
            runner.begun = task
            runner.outcome = self._execution.run_task(task)
            self._execution.home.end_child(self._execution.name)
            self._settle(runner)

    def _settle(self, runner: _Runner) -> None:
        """The request that *runner* holds ends with its outcome, or as interrupted; one that has not begun stays."""
        if not runner.held or runner.begun is not runner.held[0]:
            return
        held = runner.held[0]
        job = held.job if isinstance(held, Task) else held
        outcome = runner.outcome
        if outcome is None or outcome.job is not job:
            outcome = self._execution.interrupted(job)
        if self._lock_queue is not None:
            self._lock_queue.done(held)
        self._unfinished.discard(job)
        (self._recover if self._lock_queue is None else self._post)(outcome)
        runner.held.clear()

    def _tear_down(self) -> None:
        what = f"teardown() of service {self.service.key}"
        try:
            method = getattr(self.service.instance, "teardown", None)
            if callable(method):
                method()
        except BaseException as error:  # the user's: reported, and the thread ends as it would have
            self._execution.home.end_child(what, error)
            LOG.exception("%s failed", what)
        self._execution.home.end_child(what)

    def _make_execution(self, make_sender: Callable[[], Any], **how: Any) -> Execution:
        if self.service.stream_method:
            is_typed = isinstance(self.service.instance, TextService)
            form = TextStreamExecution if is_typed else ClassStreamExecution
            return form(self.service, make_sender, **how)
        return execution_of(self.service, make_sender, **how)

    def _make_lock_queue(self, locks: Locks) -> KeyedLockQueue:
        look_into = partial(self._execution.look_into, find_lock=lock_finder(self.service))
        return KeyedLockQueue(look_into, locks, has_priorities=bool(self._window))


class _Runner:
    """One thread of a service, and what it has in hand."""

    def __init__(self, name: str, run: Callable[[_Runner], None]):
        self.thread = threading.Thread(target=run, args=(self,), name=name, daemon=True)
        self.held: list[Any] = []
        """The job or task that was taken and has not been handed over; None: it is to end."""
        self.begun: Any = None
        """What it has begun last; of what it holds nothing else has."""
        self.outcome: Outcome | None = None
        """The last one; of a job that it names."""
        self.is_over = False
        """It was told to end."""

    @property
    def is_dead(self) -> bool:
        return self.thread.ident is not None and not self.thread.is_alive() and not self.is_over


_BACKGROUND_THREADS = 16
_NEVER = object()
_GIVE_BACK_AFTER_S = 1.0
