"""ServiceThread: an inbox and the thread, or threads, that run one service."""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from servicebus.endpoints import Event, Request, Response
from servicebus.errors import EnvelopeError
from servicebus.runtime.job import Job, Outcome, Verdict
from servicebus.wire.envelope import Kind
from servicebus.wire.fault import Fault, fault_from_exception
from servicebus.wire.xmlcodec import decode_json

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Service:
    """A registered service object and how it is run."""

    kind: Kind
    category: str
    name: str
    instance: Any
    threads: int = 1
    idempotent: bool = False
    """A call that was interrupted by its worker's death may be run again."""
    ladder: tuple[float, ...] | None = None
    """Seconds before each further attempt at a message; None for the configuration's ``retry_ladder``."""

    @property
    def key(self) -> str:
        return f"{self.category}.{self.name}"


class ServiceThread:
    """Runs one service. ``put()`` is for the I/O thread; outcomes are handed to *post* from the service's threads."""

    def __init__(
        self,
        service: Service,
        inbox_size: int,
        post: Callable[[Outcome], None],
        make_sender: Callable[[], Any],
        *,
        with_traces: bool,
    ):
        self.service = service
        self._inbox: SimpleQueue[Job | None] = SimpleQueue()
        self._inbox_size = inbox_size
        self._post = post
        self._make_sender = make_sender
        self._with_traces = with_traces
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
        """Jobs accepted and not yet finished."""
        return self._taken - self._left

    @property
    def is_running(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def put(self, job: Job) -> bool:
        """Accept *job*, or say False when the inbox is full. Never blocks."""
        if self.backlog >= self._inbox_size:
            return False
        self._taken += 1
        self._inbox.put(job)
        return True

    def stop(self) -> None:
        """Let the threads end after what is in the inbox."""
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
        while (job := self._inbox.get()) is not None:
            outcome = self._outcome(job)
            with self._left_lock:
                self._left += 1
            self._post(outcome)
        self._optional("teardown")

    def _optional(self, name: str) -> None:
        method = getattr(self.service.instance, name, None)
        if callable(method):
            try:
                method()
            except BaseException:  # the user's code: reported, and the service serves or fails request by request
                LOG.exception("%s of service %s failed", name, self.service.key)

    def _outcome(self, job: Job) -> Outcome:
        if job.deadline is not None and time.monotonic() > job.deadline:
            return self._failed(job, Fault("expired", "the deadline passed before it was run"), Verdict.NOT_RUN)
        try:
            params = decode_json(job.incoming.raw_params)
        except EnvelopeError as error:
            return self._failed(job, Fault("refused", f"{error.reason}: {error.detail}"), Verdict.NOT_RUN)
        try:
            return self._execute(job, params)
        # Whatever the user's code raises is the caller's to know and ends nothing here. SystemExit too: it would end
        # this thread without a word, and every later request would wait for its deadline.
        except BaseException as error:
            LOG.warning("service %s failed for %s", self.service.key, job.incoming.id, exc_info=True)
            is_message = job.incoming.kind is Kind.MESSAGE
            return self._failed(job, fault_from_exception(error, self._with_traces or is_message))

    def _execute(self, job: Job, params: Any) -> Outcome:
        incoming = job.incoming
        id = incoming.given_id or incoming.id
        event = Event(id, incoming.category, incoming.service, incoming.token, params, incoming.version)
        request = Request(event, job.deadline, self._make_sender)
        # As in 2.x each request gets a shallow copy, so that attributes set on self do not leak into the next one.
        instance = copy.copy(self.service.instance)
        job.started()
        if incoming.kind is Kind.MESSAGE:
            instance.on_message(request)
            return Outcome(job)
        response = Response()
        instance.on_call(request, response)
        return Outcome(job, job.dialect.write_result(incoming, response.value))

    def _failed(self, job: Job, fault: Fault, verdict: Verdict = Verdict.FAILED) -> Outcome:
        reply = job.dialect.write_fault(job.incoming, fault) if job.incoming.kind is Kind.CALL else None
        return Outcome(job, reply, fault, verdict)


_BACKGROUND_THREADS = 16
