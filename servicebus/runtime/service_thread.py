"""ServiceThread: an inbox and the thread, or threads, that run one service."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from os import getpid
from queue import SimpleQueue
from typing import Any

from servicebus.runtime.execution import Execution
from servicebus.runtime.job import Job, Outcome
from servicebus.runtime.lock_keys import slot_finder
from servicebus.runtime.node_locks import NodeLocks
from servicebus.runtime.parking import Parking
from servicebus.runtime.registration import Service

LOG = logging.getLogger(__name__)

__all__ = ["Service", "ServiceThread"]


class ServiceThread:
    """Runs one service. ``put()`` is for the I/O thread; outcomes are handed to *post* from the service's threads.

    Args:
        hand_over: in place of *post*, given a function that says whether the next job is here: until then the thread
            may be of use elsewhere.
        locks: the node's, for a service with locks; without it they hold in this service's threads alone.
    """

    def __init__(
        self,
        service: Service,
        inbox_size: int,
        post: Callable[[Outcome], None],
        make_sender: Callable[[], Any],
        *,
        with_traces: bool,
        locks: NodeLocks | None = None,
        hand_over: Callable[[Outcome, Callable[[], bool]], None] | None = None,
    ):
        self.service = service
        self._execution = Execution(service, make_sender, with_traces=with_traces)
        self._inbox: SimpleQueue[Job | None] = SimpleQueue()
        self._parking = self._make_parking(locks or NodeLocks()) if service.is_locked else None
        self._inbox_size = inbox_size
        self._post = post
        self._hand_over = hand_over
        self._taken = 0
        self._left = 0
        self._left_lock = threading.Lock()
        count = max(service.threads, 1)
        # 2.x ran a "background" service in a new thread per request, without bound; here it gets a bounded handful.
        if getattr(service.instance, "background", False):
            count = max(count, _BACKGROUND_THREADS)
        self._threads = [
            threading.Thread(target=self._run, name=f"svc-{service.key}-{n}", daemon=True) for n in range(count)
        ]

    def __repr__(self) -> str:
        return f"<ServiceThread {self.service.key} waiting={self.backlog}/{self._inbox_size}>"

    @property
    def backlog(self) -> int:
        """Jobs accepted and not yet finished, those that wait for a lock included."""
        return self._taken - self._left

    @property
    def room(self) -> int:
        """How many jobs ``put()`` would accept now."""
        return self._inbox_size - self.backlog

    @property
    def is_running(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def put(self, job: Job) -> bool:
        """Accept *job*, or say False when the inbox is full. Never blocks."""
        if self._taken - self._left >= self._inbox_size:
            return False
        self._taken += 1
        if self._parking is None:
            self._inbox.put(job)
        else:
            self._parking.put(job)
        return True

    def begin_stop(self) -> None:
        """The worker takes no more: what waits for the lock of another process is soon sent elsewhere."""
        if self._parking is not None:
            self._parking.give_back_after(_GIVE_BACK_AFTER_S)

    def stop(self) -> None:
        """Let the threads end after what is in the inbox."""
        if self._parking is not None:
            self._parking.close()
        else:
            for _ in self._threads:
                self._inbox.put(None)

    def join(self, deadline: float) -> bool:
        """Wait for the threads until ``time.monotonic()`` is *deadline*; False if one still runs."""
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not self.is_running

    # -- in the service's threads ------------------------------------------------------------------------------------

    def _run(self) -> None:
        self._optional("setup")
        if self._parking is None:
            self._serve(self._inbox)
        else:
            self._serve_locked(self._parking)
        self._optional("teardown")

    def _serve(self, inbox: SimpleQueue[Job | None]) -> None:
        def has_job() -> bool:
            return not inbox.empty()

        pid = self._execution.home.pid
        hand_over = self._hand_over or (lambda outcome, _has_job: self._post(outcome))
        while (job := inbox.get()) is not None:
            outcome = self._execution.run(job)
            if getpid() != pid:  # the child that it forked came back
                self._execution.home.end_child(self._execution.name)
            self._count_left()
            hand_over(outcome, has_job)

    def _serve_locked(self, parking: Parking) -> None:
        while (task := parking.get()) is not None:
            outcome = self._execution.run_task(task)
            self._execution.home.end_child(self._execution.name)
            parking.done(task)
            self._count_left()
            self._post(outcome)

    def _count_left(self) -> None:
        with self._left_lock:
            self._left += 1

    def _optional(self, name: str) -> None:
        method = getattr(self.service.instance, name, None)
        if callable(method):
            what = f"{name}() of service {self.service.key}"
            try:
                method()
            except BaseException as error:  # the user's: reported, and the service serves or fails request by request
                self._execution.home.end_child(what, error)
                LOG.exception("%s failed", what)
            self._execution.home.end_child(what)

    def _make_parking(self, locks: NodeLocks) -> Parking:
        return Parking(partial(self._execution.look_into, find_slot=slot_finder(self.service)), locks)


_BACKGROUND_THREADS = 16
_GIVE_BACK_AFTER_S = 1.0
