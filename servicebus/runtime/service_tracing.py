"""ServiceTraces: the spans of what a worker runs: a request's wait in the inbox, its handler, and the reply.

It stands around what a service thread is made of, as a ServiceMeter does, so a worker without traces has nothing of it:
``noted()`` puts a TracedStart in the place of what the job calls when it starts; the outcome finds it there again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import time_ns  # the clock of the SDK, also on a bus in memory
from typing import Any, ParamSpec, TypeVar

from servicebus._context import NO_CONTEXT
from servicebus.configuration import BrokerHost
from servicebus.observability.spans import (
    NO_PARENT,
    PARENT,
    PREFIX,
    RPC,
    Context,
    Span,
    SpanKind,
    end,
    enter,
    guarded,
    leave,
    link_to,
    messaging,
    parent_in,
    span_in,
    start,
    with_span,
    within,
)
from servicebus.protocol.encryption import is_secret
from servicebus.runtime.job import DONE, Disposition, Job, Outcome
from servicebus.runtime.publisher import Acknowledger
from servicebus.runtime.service_meter import start_of
from servicebus.runtime.service_thread import ServiceThread
from servicebus.services import _serving
from servicebus.wire.address import messages_queue
from servicebus.wire.envelope import CALL
from servicebus.wire.events import events_exchange

__all__ = ["ServiceTraces"]

P = ParamSpec("P")
R = TypeVar("R")


class TracedStart:
    """Called immediately before the service runs, in its thread or task."""

    __slots__ = ("attempt", "ended_ns", "job", "put_ns", "span", "started", "traces")

    def __init__(self, traces: ServiceTraces, job: Job):
        self.traces = traces
        self.started = job.started
        self.job: Job | None = job
        """Until the end: it refers to this."""
        self.put_ns = time_ns()
        self.ended_ns = 0
        self.span: Span | None = None
        """Of the handler, once it has begun."""

    def __call__(self) -> None:
        job = self.job
        if job is not None:
            self.span = self.traces.begun(job, self.put_ns)
        self.started()


class ServiceTraces:
    """Of one worker; for the I/O thread and those of its services.

    Args:
        chosen_alone: trace what comes with a trace, and nothing else.
    """

    def __init__(self, node: str, exchange: str, host: BrokerHost, *, chosen_alone: bool):
        self._chosen_alone = chosen_alone
        self._where = {"server.address": host.host, "server.port": host.port, f"{PREFIX}broker": host.name}
        self._node = node
        self._exchange = exchange

    def __repr__(self) -> str:
        return f"<ServiceTraces of {self._node}>"

    def watch(self, thread: ServiceThread) -> None:
        """Trace what *thread* accepts; before its ``start()``."""
        thread.note_accepted(self.noted)

    def noted(self, job: Job) -> None:
        """*job* is accepted; called again for one that is put in again."""
        if self._chosen_alone and PARENT not in _pairs_of(job):
            return
        if start_of(job, TracedStart) is None:
            job.started = TracedStart(self, job)

    @guarded(None)
    def begun(self, job: Job, put_ns: int) -> Span | None:
        """The handler of *job* begins: its span, which is the current one from now on."""
        parent, now_ns = _parent_of(job), time_ns()
        attributes = {**self._about(job), f"{PREFIX}wait": (now_ns - put_ns) / 1e9}
        if job.incoming.kind is CALL:
            span = start(job.incoming.key, SpanKind.SERVER, parent, attributes)
            if span.is_recording():
                self._waited(job, parent, put_ns, now_ns)
        else:
            # Hours may lie between, or many attempts: a trace of its own, with a link to that of its sender.
            name = f"process {job.event or job.incoming.key}"
            span = start(name, SpanKind.CONSUMER, NO_PARENT, attributes, link_to(parent))
        context, request = span.get_span_context(), _serving.get()
        if context.is_valid:
            enter(span)
            if request is not None:
                request._context = with_span(request._context, context)
        return span

    def ended(self, hand_over: Callable[P, R]) -> Callable[P, R]:
        """*hand_over*, whose first argument is an outcome: the span of its handler ends before."""

        def traced(*args: P.args, **kwargs: P.kwargs) -> R:
            outcome = args[0]
            assert isinstance(outcome, Outcome)
            begin = start_of(outcome.job, TracedStart)
            if begin is not None and begin.job is not None:
                begin.job = None  # it may be handed over a second time, if its thread was interrupted
                begin.ended_ns = time_ns()
                self._end(begin, outcome)
            return hand_over(*args, **kwargs)

        return traced

    def trace_replies(self, acknowledger: Acknowledger) -> None:
        """From the end of a handler until its reply is on its way."""
        settle = acknowledger.settle

        def traced(disposition: Disposition) -> bool:
            is_settled = settle(disposition)
            if disposition.reply is not None and disposition.job is not None:
                self._replied(disposition.job, len(disposition.reply))
            return is_settled

        acknowledger.settle = traced  # type: ignore[method-assign]

    @guarded(None)
    def _end(self, begin: TracedStart, outcome: Outcome) -> None:
        job, fault, span = outcome.job, outcome.fault, begin.span
        problem = "" if outcome.result is DONE else fault.type if fault is not None else outcome.result.value
        detail = "" if fault is None or is_secret(job.incoming) else fault.text
        if span is None:
            if job.incoming.kind is CALL and problem:  # one that was not run has waited, and that is all
                self._waited(job, _parent_of(job), begin.put_ns, begin.ended_ns, problem, detail)
            return
        if span.is_recording():
            end(span, problem, detail, {f"{PREFIX}result": outcome.result.value}, begin.ended_ns)
        leave(span)

    @guarded(None)
    def _waited(
        self, job: Job, parent: Context, begin_ns: int, end_ns: int, problem: str = "", detail: str = ""
    ) -> None:
        """The span of a wait in the inbox, beside that of the handler; of a caller with traces alone."""
        if span_in(parent).is_valid:
            name = f"wait {job.incoming.key}"
            span = start(name, SpanKind.INTERNAL, parent, self._about(job), start_ns=begin_ns)
            end(span, problem, detail, end_ns=end_ns)

    @guarded(None)
    def _replied(self, job: Job, size: int) -> None:
        begin = start_of(job, TracedStart)
        if begin is None or begin.span is None or not begin.span.get_span_context().trace_flags.sampled:
            return
        attributes = {
            **messaging("reply", "send", "(anonymous)"),
            "messaging.destination.anonymous": True,
            "messaging.destination.temporary": True,
            "messaging.message.body.size": size,
            **self._where,
        }
        span = start(f"reply {job.incoming.key}", SpanKind.CLIENT, within(begin.span), attributes, (), begin.ended_ns)
        end(span)

    def _about(self, job: Job) -> dict[str, Any]:
        incoming = job.incoming
        is_call = incoming.kind is CALL
        id = incoming.given_id or incoming.id
        about = {
            **self._where,
            f"{PREFIX}node": self._node,
            f"{PREFIX}request.id": id,
            f"{PREFIX}attempt": incoming.attempt if is_call else job.attempts,
            **({f"{PREFIX}caller": incoming.caller} if incoming.caller else {}),
        }
        if is_call:
            return {**RPC, "rpc.method": incoming.key, **about}
        service = {"messaging.message.id": id, f"{PREFIX}service": incoming.key}
        return {**messaging("process", "process", self._destination(job)), **service, **about}

    def _destination(self, job: Job) -> str:
        """As the conventions for RabbitMQ have it: ``exchange:routing key``."""
        if (plain := job.plain) is not None:
            return f"{plain.exchange}:{plain.routing_key}"
        if job.event:
            return f"{events_exchange(self._exchange)}:{job.event}"
        return f"{self._exchange}:{messages_queue(self._node)}"


def _parent_of(job: Job) -> Context:
    return parent_in(_pairs_of(job))


def _pairs_of(job: Job) -> Mapping[str, Any]:
    """Where its sender may have named a span: its context, or the headers of another program's message."""
    if job.incoming.context is not None:
        return job.incoming.context
    plain = job.plain
    return NO_CONTEXT if plain is None else plain.headers
