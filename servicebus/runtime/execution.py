"""Execution: one job through the user's code, and what came of it."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Sequence
from typing import Any

from servicebus.errors import EnvelopeError
from servicebus.protocol.encryption import is_secret
from servicebus.runtime.instances import copies_of
from servicebus.runtime.job import Job, JobResult, Outcome
from servicebus.runtime.keyed_lock_queue import Task
from servicebus.runtime.leaving import Home
from servicebus.runtime.lock_keys import LockError
from servicebus.runtime.registration import Service
from servicebus.runtime.retries import Retries
from servicebus.runtime.text_request import TextRequest
from servicebus.services import (
    Authorize,
    Deny,
    Event,
    Reject,
    Request,
    Requeue,
    Response,
    Retry,
    UnboundParams,
    _serving,
)
from servicebus.transport.loggers import get_logger
from servicebus.transport.ratelimitedlog import RateLimitedLog
from servicebus.wire.envelope import CALL, MESSAGE
from servicebus.wire.fault import (
    BUSY,
    DEFECT,
    EXPIRED,
    INTERRUPTED,
    REFUSED,
    STOPPING,
    Fault,
    denied,
    fault_from_exception,
    without_text,
)
from servicebus.wire.jsontext import decode_json, decode_params
from servicebus.wire.printable import printable, unshown

LOG = get_logger(__name__)

__all__ = ["NOT_READY_RETRY_MS", "Execution"]

NOT_READY_RETRY_MS = 1000
"""When the caller of a service whose ``setup()`` has failed calls again."""

_CANCELLED = "cancelled.not-run"
"""Counted under this name, among those that were cancelled; it is not answered."""
_TOO_LATE = "its turn did not come in time"
_RETRY_MS = 1000
"""When the caller of a service that raised Retry calls again, if it was not told."""
_NO_REASON = "the service asked to be called later (Retry, without a reason)"


class Execution:
    """Runs the jobs of one service, for all of its threads.

    Args:
        retry_schedule: what holds for messages where the service has none of its own; for the log only.
    """

    def __init__(
        self,
        service: Service,
        make_sender: Callable[[], Any],
        *,
        with_traces: bool,
        retry_schedule: tuple[float, ...] = (),
    ):
        self._retries = Retries(retry_schedule)
        self.home = Home()
        self._service = service
        self.name = f"service {service.key}"
        self._authorize = service.authorize
        self._copy = copies_of(service.instance)
        self._read: Callable[[bytes], Any] = decode_params
        self._make_sender = make_sender
        self._with_traces = with_traces
        self._denials = RateLimitedLog(LOG, self.name)
        self.begins_no_more = False
        """The time to stop is over: what has not been begun goes elsewhere. Set by any thread."""

    def __repr__(self) -> str:
        return f"<Execution {self._service.key}>"

    def run(self, job: Job) -> Outcome:
        """Run *job*, unless its caller has given up. Never raises."""
        if job.is_cancelled or (job.deadline is not None and time.monotonic() > job.deadline):
            return self._given_up(job)
        if self.begins_no_more:
            return self._given_back(job, _TOO_LATE)
        if self._authorize is not None and (refused := self._refused_by(self._authorize, job)) is not None:
            return refused
        try:
            params = self._read(job.incoming.raw_params)
        except BaseException as error:
            return self._unreadable(job, error)
        try:
            return self._execute(job, params)
        # Whatever the user's code raises is the caller's to know and ends nothing here. SystemExit too: it would end
        # this thread silently, and every later request would wait for its deadline.
        except BaseException as error:
            return self._raised(job, error)
        finally:
            _serving.set(None)

    # -- the same in two steps, for a job that may have to wait for its lock in between --------------------------------

    def look_into(self, job: Job, find_lock: Callable[[Any], int | None]) -> Task:
        """The job's params, and which lock it needs. Never raises."""
        try:
            params = self._read(job.incoming.raw_params)
        except BaseException as error:
            return Task(job, outcome=self._unreadable(job, error))
        try:
            lock = find_lock(self._params_of(job, params))
            self.home.end_child(self.name)
            return Task(job, params, lock)
        except BaseException as error:
            return Task(job, outcome=self._raised(job, error))

    def run_task(self, task: Task) -> Outcome:
        """Run a job that has its lock. Never raises."""
        job, is_over = task.job, task.is_over(time.monotonic())
        if self._authorize is not None and not is_over:
            # Also of one whose params are wrong: who may not ask is not told what is.
            task.outcome = self._refused_by(self._authorize, job) or task.outcome
        if task.outcome is not None:
            return task.outcome
        if is_over:
            return self._given_up(job)
        if task.is_given_back:
            return self._given_back(job, "it waited for its lock")
        if self.begins_no_more:
            return self._given_back(job, _TOO_LATE)
        try:
            return self._execute(job, task.params)
        except BaseException as error:
            return self._raised(job, error)
        finally:
            _serving.set(None)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _execute(self, job: Job, params: Any) -> Outcome:
        """What it serves is known until its end is, so that the log lines about that tell it, too."""
        # As in 2.x each request gets a shallow copy, so that attributes set on self do not leak into the next one.
        instance = self._copy()
        incoming = job.incoming
        id = incoming.given_id or incoming.id
        event = Event(id, incoming.category, incoming.service, incoming.token, params, incoming.version)
        request = Request(event, job.deadline, self._make_sender, job)
        if incoming.context is not None:
            request._context = incoming.context
        _serving.set(request)
        try:
            job.started()
            if incoming.kind is MESSAGE:
                returned = instance.on_message(request)
                if returned is not None:
                    refuse_lazy(returned)
                if request._published:
                    self._publish(request._published)
                return Outcome(job)
            response = Response()
            returned = instance.on_call(request, response)
            if returned is not None:
                refuse_lazy(returned)
        finally:
            request._is_over = True
        try:
            outcome = Outcome(job, job.protocol.encode_result(incoming, response.value))
        except EnvelopeError:
            refuse_lazy(response.value)
            raise
        if request._published:
            self._publish(request._published)
        return outcome

    def _refused_by(self, authorize: Authorize, job: Job) -> Outcome | None:
        """The end of a request that *authorize* does not let in; None if it does."""
        request = self._asking(job)
        try:
            answer = authorize(request, request.context)
            refuse_lazy(answer)
            return None if answer is True else self._denied(job, "")
        except EnvelopeError as error:  # it has read the params
            return self._unreadable(job, error)
        except BaseException as error:  # the user's
            return self._raised(job, error)
        finally:
            _serving.set(None)

    def _asking(self, job: Job) -> TextRequest:
        """*job* as what authorizes it sees it, which this thread or task serves now."""
        request = TextRequest(job, self._make_sender)
        request._is_over = True  # what it publishes goes out at once: it is no part of the service
        _serving.set(request)
        return request

    def _denied(self, job: Job, why: str) -> Outcome:
        incoming, key = job.incoming, self._service.key
        rule = f"authorize of {key}" if self._authorize is not None else f"service {key}"
        doing = f"publish {incoming.event} to {key}" if incoming.event else f"ask {key}"
        fault = denied(incoming.caller, rule, doing, why)
        shown = fault if not is_secret(incoming) else denied(incoming.caller, rule, doing)
        self._denials.warning(f"{incoming.kind.value} {incoming.given_id or incoming.id} refused: {shown.text}")
        return self._failed(job, fault if incoming.kind is CALL else shown, JobResult.NOT_RUN)

    def _publish(self, events: Sequence[Any]) -> None:
        """See to it that what a service has published with its success is not lost. Raises what keeps it from that."""
        for stored in self._make_sender().commit(events):
            stored.result()

    def _params_of(self, job: Job, params: Any) -> Any:
        """What JSON says the params are."""
        return params if not is_secret(job.incoming) else decode_json(job.incoming.raw_params)

    def _unreadable(self, job: Job, error: BaseException) -> Outcome:
        """The params of *job* are no JSON; or something raised where nothing should, for want of memory perhaps."""
        if isinstance(error, EnvelopeError):
            text = f"{error.reason}: {error.detail}"
        else:
            shown = unshown(error)  # a validator of the program has raised it, most likely, and quotes the value
            text = f"{DEFECT}: its params could not be read: {shown}"
            LOG.error("%s: the params of %s could not be read", self.name, job.incoming.id, exc_info=shown)
        fault = Fault(REFUSED, text) if not isinstance(error, UnboundParams) else self._unbound(job, error)
        return self._failed(job, fault, JobResult.NOT_RUN)

    def _unbound(self, job: Job, error: UnboundParams) -> Fault:
        return Fault(REFUSED, f"{error.reason}: {error.detail}", data=error.data)

    def _given_up(self, job: Job) -> Outcome:
        if job.is_cancelled:
            return Outcome(job, None, Fault(_CANCELLED, "its caller gave up before it was run"), JobResult.NOT_RUN)
        return self._failed(job, Fault(EXPIRED, "the deadline passed before it was run"), JobResult.NOT_RUN)

    def _given_back(self, job: Job, why: str) -> Outcome:
        result = JobResult.NOT_RUN if job.incoming.kind is CALL else JobResult.REQUEUE
        return self._failed(job, Fault(STOPPING, f"the agent is stopping, and {why}"), result)

    def not_ready(self, job: Job, why: str) -> Outcome:
        """For a job that its service cannot take: ``setup()`` has failed."""
        result = JobResult.NOT_RUN if job.incoming.kind is CALL else JobResult.REQUEUE
        return self._failed(job, Fault(BUSY, why, retry_after_ms=NOT_READY_RETRY_MS), result)

    def interrupted(self, job: Job) -> Outcome:
        """For a job that a thread had begun when it was interrupted."""
        return self._failed(job, Fault(INTERRUPTED, "its thread was interrupted; how far it came is unknown"))

    def _raised(self, job: Job, error: BaseException) -> Outcome:
        self.home.end_child(self.name, error)
        try:
            return self._outcome_of(job, error)
        except BaseException as broken:  # the user's classes may raise wherever they are asked for anything
            names = [type.__dict__["__name__"].__get__(type(each)) for each in (error, broken)]
            LOG.warning("%s failed for %s with %s, which raises %s when described", self.name, job.incoming.id, *names)
            return self._failed(job, Fault(names[0], f"(it cannot be described: {names[1]})"))

    def _outcome_of(self, job: Job, error: BaseException) -> Outcome:
        if isinstance(error, Deny):
            return self._denied(job, error.reason)
        is_message = job.incoming.kind is MESSAGE
        result = _result(error, is_message)
        then = self._what_follows(job, error) if is_message else ""
        is_declared = self._is_declared(error)
        shown = error if not is_secret(job.incoming) else without_text(error)
        if result is JobResult.FAILED and not is_declared:
            LOG.warning(
                "service %s failed for %s%s",
                self._service.key,
                job.incoming.id,
                then,
                exc_info=None if isinstance(error, LockError) else shown,
            )
        else:
            why = printable(str(shown))  # what a service says may be what its caller said
            what = type(error).__name__ if is_declared else result.value
            LOG.info("service %s: %s of %s%s: %s", self._service.key, what, job.incoming.id, then, why)
        fault = self._fault_of(shown if is_message else error, self._with_traces or is_message)
        if not isinstance(error, Retry):
            return self._failed(job, fault, result)
        if is_message:
            return Outcome(job, None, fault, result, error.after)
        after_ms = _RETRY_MS if error.after is None else int(error.after * 1000)
        return self._failed(job, Fault(BUSY, error.reason or _NO_REASON, retry_after_ms=after_ms), result)

    def _is_declared(self, error: BaseException) -> bool:
        """Whether the service says that it raises this: an answer, not a failure."""
        return False

    def _fault_of(self, error: BaseException, with_trace: bool) -> Fault:
        return fault_from_exception(error, with_trace)

    def _what_follows(self, job: Job, error: BaseException) -> str:
        """For the log line of a failed message: which attempt it was, and when the next one is."""
        own = self._service.retry_schedule
        outcome = Outcome(job, None, None, _result(error, True), error.after if isinstance(error, Retry) else None)
        delay_s = self._retries.delay_s(outcome, own)
        following = "it goes to the dead letters" if delay_s is None else f"the next is in {delay_s:g} s"
        return f" (attempt {job.attempts}; {following})"

    def _failed(self, job: Job, fault: Fault, result: JobResult = JobResult.FAILED) -> Outcome:
        reply = job.protocol.encode_fault(job.incoming, fault) if job.incoming.kind is CALL else None
        return Outcome(job, reply, fault, result)


def refuse_lazy(value: Any) -> None:
    """Raise TypeError if *value* stands for code that has not run: a coroutine, another awaitable, a generator."""
    if not (inspect.isawaitable(value) or inspect.isgenerator(value) or inspect.isasyncgen(value)):
        return
    if inspect.iscoroutine(value):
        value.close()  # else the interpreter warns, in some other place, that it was never awaited
    kind = type(value).__name__
    raise TypeError(f"the service returned a {kind}, whose code has not run; it must do its work before it returns")


def _result(error: BaseException, is_message: bool) -> JobResult:
    if isinstance(error, Retry):
        return JobResult.RETRY
    if isinstance(error, Reject):
        return JobResult.REJECTED
    # A caller cannot be put back into a queue: there it is a mistake.
    return JobResult.REQUEUE if isinstance(error, Requeue) and is_message else JobResult.FAILED
