"""KeyedLockQueue: the inbox of a service with locks. A job whose lock is taken waits, and others pass it.

Theory of operation. Jobs arrive in one queue. A thread that is free takes the first one out, finds its lock (one thread
at a time, so that jobs of one lock keep their order), and runs it if the lock is free. Else the job waits in a queue
of its lock. Who leaves a job takes the next one of its queue along, without letting go of the lock in between. A lock
that another process has is tried again every few milliseconds: the kernel would tell only a thread that sleeps for that
one lock.

So that a process with much to do does not keep a lock indefinitely, it gives it up after a tenth of a second if another
one waits for it, and then leaves it alone for longer than the other one sleeps.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from servicebus.runtime.job import Job, Outcome
from servicebus.runtime.node_locks import Locks
from servicebus.runtime.priority_inbox import line_up

__all__ = ["KeyedLockQueue", "Task"]

_FIRST_PAUSE_S = 0.005
_LONGEST_PAUSE_S = 0.02
_HOLD_S = 0.1
_LEAVE_ALONE_S = 0.04


@dataclass(slots=True, eq=False)
class Task:
    """A job that was looked into."""

    job: Job
    params: Any = None
    lock: int | None = None
    """The lock that it needs before it runs; from ``KeyedLockQueue.get()``: the lock that it has."""
    outcome: Outcome | None = None
    """Already known: it cannot be run."""
    is_given_back: bool = False
    """The worker stops, and the lock did not come in time."""

    def is_over(self, now: float) -> bool:
        """Its caller has given up."""
        return self.job.is_cancelled or (self.job.deadline is not None and now > self.job.deadline)


_priority: Callable[[Job], int] = attrgetter("priority")
_priority_of_task: Callable[[Task], int] = attrgetter("job.priority")


@dataclass(slots=True)
class _LockQueue:
    """The jobs that wait for one lock."""

    tasks: deque[Task] = field(default_factory=deque)
    is_ours: bool = False
    """We have the lock: one of its jobs runs, or is about to."""
    held_until: float = 0.0
    """While it is ours: when to ask whether another process waits."""
    try_at: float = math.inf
    """While it is not: when to try next."""
    pause_s: float = _FIRST_PAUSE_S


class KeyedLockQueue:
    """``put`` is for one thread; ``get`` and ``done`` for the service's.

    Args:
        read: looks into a job; called in the service's threads, one at a time. It does not raise.
    """

    def __init__(self, read: Callable[[Job], Task], locks: Locks, *, has_priorities: bool = False):
        self._read = read
        self._has_priorities = has_priorities
        self._locks = locks
        self._changed = threading.Condition(threading.Lock())
        self._arrived: deque[Job] = deque()
        self._ready: deque[Task] = deque()
        """They have their lock, or need none."""
        self._queues: dict[int, _LockQueue] = {}
        self._look_at = math.inf
        """When the queues are to be looked at next."""
        self._give_back_at = math.inf
        self._is_reading = False
        self._is_watched = False
        """A thread that waits wakes up when it is time to look."""
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<KeyedLockQueue arrived={len(self._arrived)} waiting={self.waiting}>"

    @property
    def waiting(self) -> int:
        """How many wait for a lock."""
        return sum(len(queue.tasks) for queue in list(self._queues.values()))

    def put(self, job: Job) -> None:
        with self._changed:
            if self._has_priorities:
                line_up(self._arrived, job, _priority)
            else:
                self._arrived.append(job)
            self._changed.notify()

    def take_arrived(self) -> list[Job]:
        """Take out what no thread has looked into."""
        with self._changed:
            jobs = list(self._arrived)
            self._arrived.clear()
            return jobs

    def get(self) -> Task | None:
        """The next one to run; ``done()`` is to be called for it. None when it is closed and nothing is left."""
        while True:
            with self._changed:
                found = self._next()
                if self._is_closed or (self._look_at < math.inf and not self._is_watched):
                    self._changed.notify()  # another thread is to watch now, or to see that nothing is left
                if not isinstance(found, Job):
                    if found is not None and found.lock is not None:
                        found.job.fence = self._locks.fence(found.lock)
                    return found
            try:
                task = self._read(found)
            except BaseException:  # its thread was interrupted: another one reads it
                with self._changed:
                    self._is_reading = False
                    self._arrived.appendleft(found)
                    self._changed.notify()
                raise
            with self._changed:
                self._is_reading = False
                self._line_up(task)
                self._changed.notify()

    def done(self, task: Task) -> None:
        """Its job has ended: the next one that waits for its lock may go on. Idempotent."""
        if task.lock is None:
            return
        with self._changed:
            queue = self._queues[task.lock]
            if queue.tasks and self._may_keep(task.lock, queue):
                self._ready.append(queue.tasks.popleft())
            elif queue.tasks:
                self._locks.release(task.lock)
                self._wait_for(task.lock, queue, _LEAVE_ALONE_S)
            else:
                self._locks.release(task.lock)
                del self._queues[task.lock]
            task.lock = None
            self._changed.notify()

    def give_back_after(self, seconds: float) -> None:
        """The worker stops: what waits for another process then is given out all the same, to be sent elsewhere."""
        with self._changed:
            self._give_back_at = time.monotonic() + seconds
            self._look_by(self._give_back_at)
            self._changed.notify_all()

    def close(self) -> None:
        """Let ``get`` return None once everything has been given out."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    # -- all that follows has the condition's lock ---------------------------------------------------------------------

    def _next(self) -> Task | Job | None:
        """A task to run, a job to look into, or None at the end. Waits."""
        while True:
            if self._ready:
                return self._ready.popleft()
            now = time.monotonic()
            if now >= self._look_at and (task := self._look_around(now)) is not None:
                return task
            if self._arrived and not self._is_reading:
                self._is_reading = True
                return self._arrived.popleft()
            if self._is_closed and not (self._arrived or self._is_reading or self.waiting):
                self._changed.notify_all()
                return None
            self._wait(now)

    def _wait(self, now: float) -> None:
        if self._look_at == math.inf or self._is_watched:
            self._changed.wait()
            return
        self._is_watched = True
        try:
            self._changed.wait(max(0.0, self._look_at - now))
        finally:
            self._is_watched = False

    def _line_up(self, task: Task) -> None:
        lock = task.lock
        if lock is None:
            self._ready.append(task)
            return
        queue = self._queues.get(lock)
        if queue is None:
            queue = self._queues[lock] = _LockQueue()
            if self._take(lock, queue):
                self._ready.append(task)
                return
            self._wait_for(lock, queue, _FIRST_PAUSE_S)
        if self._has_priorities:
            line_up(queue.tasks, task, _priority_of_task)
        else:
            queue.tasks.append(task)
        self._look_by(math.inf if task.job.deadline is None else task.job.deadline)

    def _take(self, lock: int, queue: _LockQueue) -> bool:
        if not self._locks.take(lock):
            return False
        queue.is_ours = True
        queue.held_until = time.monotonic() + _HOLD_S
        return True

    def _may_keep(self, lock: int, queue: _LockQueue) -> bool:
        now = time.monotonic()
        if now < queue.held_until:
            return True
        queue.held_until = now + _HOLD_S
        return not self._locks.is_wanted(lock)

    def _wait_for(self, lock: int, queue: _LockQueue, pause_s: float) -> None:
        self._locks.want(lock)
        queue.is_ours = False
        queue.pause_s = _FIRST_PAUSE_S
        queue.try_at = time.monotonic() + pause_s
        self._look_by(queue.try_at)

    def _look_by(self, at: float) -> None:
        if at < self._look_at:
            self._look_at = at
            if self._is_watched:
                self._changed.notify_all()  # the watcher sleeps for too long

    def _look_around(self, now: float) -> Task | None:
        """A task whose caller has given up, or that can have its lock, if there is one."""
        for lock, queue in list(self._queues.items()):
            task = self._dropped(queue, now)
            if task is None and not queue.is_ours and now >= queue.try_at:
                task = self._tried(lock, queue, now)
            if not queue.tasks and not queue.is_ours:
                self._locks.want_no_more(lock)
                del self._queues[lock]
            if task is not None:
                self._look_at = now  # there may be more
                return task
        # Many queues are looked at together, not each at its own moment.
        self._look_at = max(now + _FIRST_PAUSE_S, min(self._moments(), default=math.inf))
        return None

    def _dropped(self, queue: _LockQueue, now: float) -> Task | None:
        """Out of the queue without its lock: its caller has given up, or it is given back."""
        is_given_back = now >= self._give_back_at and not queue.is_ours
        for task in queue.tasks:
            if is_given_back or task.is_over(now):
                queue.tasks.remove(task)
                task.lock = None
                task.is_given_back = is_given_back
                return task
        return None

    def _tried(self, lock: int, queue: _LockQueue, now: float) -> Task | None:
        if self._take(lock, queue):
            self._locks.want_no_more(lock)
            return queue.tasks.popleft()
        queue.pause_s = min(1.5 * queue.pause_s, _LONGEST_PAUSE_S)
        queue.try_at = now + queue.pause_s
        return None

    def _moments(self) -> Iterator[float]:
        """When something is to be done with queues that wait."""
        for queue in self._queues.values():
            if not queue.is_ours:
                yield queue.try_at
                if queue.tasks:
                    yield self._give_back_at
            yield from (task.job.deadline for task in queue.tasks if task.job.deadline is not None)
