"""SingletonThread: a service of which one worker of the node at a time has a thread.

Theory of operation. Whichever worker has the service's lock runs it, until it dies, stops, or loses its broker; each
time with threads of their own, so that ``setup()`` runs where the service does and nowhere else. The others pass on
what comes to them: into a queue of the service, on the broker that it came from, which the one that has it consumes on
all brokers. It is passed on before it is begun: the journal knows it by the worker that runs it.

A worker that is frozen for longer than the lease of its lock begins nothing when it goes on: the lease is looked at
immediately before each run. What it was running then goes on, under a lower ``request.fence`` than that of the next.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from servicebus.runtime.job import Job
from servicebus.runtime.lock_keys import singleton_number
from servicebus.runtime.node_locks import Locks
from servicebus.runtime.registration import Service
from servicebus.runtime.service_thread import ServiceThread
from servicebus.services import Requeue, Retry
from servicebus.transport.loggers import get_logger
from servicebus.transport.loop import nothing
from servicebus.wire.address import singleton_queue
from servicebus.wire.envelope import CALL
from servicebus.wire.events import event_queue

LOG = get_logger(__name__)

__all__ = ["SingletonThread"]

_AGAIN_S = 0.2


class SingletonThread:
    """Stands where a ServiceThread stands for other services; ``look()`` is for the I/O thread.

    Args:
        node: whose service it is.
        make: a thread that is not started yet.
    """

    def __init__(self, service: Service, node: str, locks: Locks, make: Callable[[], ServiceThread]):
        self.service = service
        self.queue = (
            event_queue(node, service.key)
            if service.events
            else singleton_queue(node, service.key, is_call=service.kind is CALL)
        )
        self.is_declared = False
        """The queue is there, on this worker's broker."""
        self._locks, self._make = locks, make
        self._lock = singleton_number(service)
        self._current = make()
        self._lost: list[ServiceThread] = []
        """Whose lease has ended while they ran something."""
        self._has_lock = self._is_held = self._is_ending = False
        self._leave_loop: Callable[[], None] = nothing

    def __repr__(self) -> str:
        return f"<SingletonThread {self.service.key} {'runs here' if self._is_held else 'runs elsewhere'}>"

    @property
    def is_held(self) -> bool:
        """It runs here: requests are taken."""
        return self._is_held and self._locks.has(self._lock)

    @property
    def elsewhere(self) -> str:
        """The queue that the worker which has it consumes; "" while that is this one, or nothing can be passed on."""
        return "" if self.is_held else self.common_queue

    @property
    def common_queue(self) -> str:
        return self.queue if self.is_declared else ""

    @property
    def started(self) -> list[ServiceThread]:
        """Those that may have something to do."""
        return [*self._lost, *([self._current] if self._has_lock else [])]

    # -- the I/O thread's ----------------------------------------------------------------------------------------------

    def look(self, *, may_serve: bool) -> bool:
        """Take the service if no other worker has it, or let go of it; whether it runs here. Once every moment.

        Args:
            may_serve: this worker has its broker, and is not about to end.
        """
        if not self._has_lock:
            if may_serve and self._locks.take(self._lock):
                self._has_lock = self._is_held = True
                self._current.start()
                LOG.info("service %s runs in this worker from now on", self.service.key)
        elif not self._locks.has(self._lock):
            LOG.error("service %s: its lease has ended, because this worker was frozen or cut off", self.service.key)
            self._lost.append(self._current)
            self._let_go()
        elif self._is_ending:
            if not self._current.is_running:  # only now: the next one's setup() comes after this one's teardown()
                self._let_go()
        else:
            self._is_held = may_serve
            if not may_serve and not self._current.backlog:
                self._end_tenure()
        for thread in [each for each in self._lost if not each.backlog]:
            self._lost.remove(thread)
            thread.stop()
        return self.is_held

    def release(self) -> None:
        """The worker has ended. What still runs is left behind, and has its lock as long as the process lives."""
        if self._has_lock and not self._current.is_running:
            self._locks.release(self._lock)

    def _let_go(self) -> None:
        self._has_lock = self._is_held = self._is_ending = False
        self._current = self._make()
        self._locks.release(self._lock)
        LOG.info("service %s runs in this worker no more", self.service.key)

    def put(self, job: Job) -> bool:
        if not self.is_held:
            return False
        job.fence = self._locks.fence(self._lock)
        job.started = partial(self._begin, job, job.started)
        return self._current.put(job)

    def _begin(self, job: Job, started: Callable[[], None]) -> None:
        """In the service's thread, immediately before it runs *job*."""
        if not self._locks.has(self._lock) or self._locks.fence(self._lock) != job.fence:
            why = "its worker has lost the service to another one before it was begun"
            raise Retry(_AGAIN_S, why) if job.incoming.kind is CALL else Requeue(why)
        started()

    def put_again(self, job: Job) -> bool:
        return any(thread.put_again(job) for thread in self.started)

    # -- what it is asked as a ServiceThread ---------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """Of one that runs elsewhere there always is: it is passed on."""
        return self._current.room

    @property
    def problem(self) -> str:
        if self._has_lock or self.is_declared:
            return self._current.problem
        return f"{self.service.key} runs in another worker, and cannot be passed on yet"

    @property
    def backlog(self) -> int:
        return sum(thread.backlog for thread in self.started)

    @property
    def is_running(self) -> bool:
        return any(thread.is_running for thread in self.started)

    def start(self) -> None:
        """``look()`` does; but the loop of ``async def`` services ends with its last user, and does not begin again."""
        loop = getattr(self._current, "_loop", None)
        if loop is not None:
            loop.add_user()
            self._leave_loop = partial(loop.call, loop.remove_user)

    def leave_loop(self) -> None:
        """No thread of it is started any more."""
        leave, self._leave_loop = self._leave_loop, nothing
        leave()

    def mend(self) -> int:
        return sum(thread.mend() for thread in self.started)

    def begin_stop(self) -> None:
        for thread in self.started:
            thread.begin_stop()

    def begin_no_more(self) -> None:
        for thread in self.started:
            thread.begin_no_more()

    def stop(self) -> None:
        """The worker ends: nothing of it is started again."""
        self._end_tenure()
        for thread in self._lost:
            thread.stop()
        self._lost.clear()
        self.leave_loop()

    def _end_tenure(self) -> None:
        if self._has_lock and not self._is_ending:
            self._is_held, self._is_ending = False, True
            self._current.stop()
