"""Tracing: the spans of what a Sender asks: one of the request, and in it one of each attempt on a broker.

They stand in the requests themselves, as a SenderMeter does: those that are traced are of classes of their own. All
others, and a Sender without traces, have nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable
from random import random
from typing import TYPE_CHECKING, Any

from servicebus.client.link import Link
from servicebus.client.request import PendingRequest
from servicebus.client.watch import LATE
from servicebus.errors import CallInterrupted, CallTimeout, RemoteError, SendUnconfirmed
from servicebus.observability.spans import (
    PREFIX,
    RPC,
    Span,
    SpanKind,
    current_or,
    end,
    guarded,
    in_trace,
    messaging,
    start,
    within,
    written_with_span,
)
from servicebus.services import _serving
from servicebus.wire.address import messages_queue, rpc_queue
from servicebus.wire.envelope import CALL, CONTROL
from servicebus.wire.events import EVENTS, events_exchange

if TYPE_CHECKING:
    from servicebus.client.nodes import Path

__all__ = ["TracedForm"]

_UNANSWERED = (CallInterrupted, CallTimeout, SendUnconfirmed)
"""Errors by which nothing came of the attempts that were on their way."""


class RequestSpans:
    """Of one request that is recorded. Made in its caller's thread, then the engine's."""

    __slots__ = ("_attempts", "_broker", "_context", "_failovers", "_open", "_said", "_span", "_where")

    def __init__(self, span: Span):
        self._span = span
        self._context = within(span)
        self._open: dict[Link, Span] = {}
        self._said: dict[str, str] = {}
        """By the names of brokers: what went wrong there last."""
        self._attempts = self._failovers = 0
        self._broker = ""
        self._where: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"<RequestSpans {self._attempts} attempts, {len(self._open)} open>"

    def sent(self, request: PendingRequest, path: Path, *, is_hedge: bool = False) -> None:
        """An attempt goes over *path*."""
        link, destination = path.link, _destination(request, path)
        self.over(link)
        self._attempts += 1
        self._failovers += self._broker not in ("", link.host.name)
        self._broker = link.host.name
        broker = link.connections.member
        self._where = {"server.address": broker.host, "server.port": broker.port}
        attributes = {
            **messaging("send", "send", destination),
            **self._where,
            "messaging.message.id": request.id,
            f"{PREFIX}broker": link.host.name,
            f"{PREFIX}attempt": self._attempts,
            **({f"{PREFIX}hedge": True} if is_hedge else {}),
        }
        self._open[link] = start(f"send {destination}", SpanKind.CLIENT, self._context, attributes)

    def tried(self, host: str, what: str) -> None:
        self._said[host] = what

    def over(self, link: Link, problem: str = "lost") -> None:
        """The attempt on *link* came to nothing, if there is one."""
        span = self._open.pop(link, None)
        if span is not None:
            end(span, problem, self._said.get(link.host.name, ""))

    def busy(self, why: str) -> None:
        """The service said that it is busy."""
        for span in self._open.values():
            end(span, "busy", why)
        self._open.clear()

    @guarded(None)
    def waits(self, why: str) -> None:
        self._span.add_event(f"{PREFIX}wait", {f"{PREFIX}reason": why})

    def ended(self, request: PendingRequest, problem: str, error: BaseException | None = None) -> None:
        for link, span in self._open.items():
            is_lost, said = isinstance(error, _UNANSWERED), self._said.get(link.host.name, "")
            is_late = said == LATE
            end(span, problem if is_lost else "late" if is_late else "", said if is_lost or is_late else "")
        self._open.clear()
        attributes = {
            **self._where,
            f"{PREFIX}attempts": self._attempts,
            f"{PREFIX}failovers": self._failovers,
            **({f"{PREFIX}in_outbox": True} if getattr(request._answer, "in_outbox", False) else {}),
        }
        # What a service raises may say anything; whether it may be shown is known there: it stands in its own span.
        end(self._span, problem, "" if error is None or isinstance(error, RemoteError) else str(error), attributes)


class _Spanned(PendingRequest):
    """Tells its spans what becomes of it. Goes before another class of requests, and has no slots of its own."""

    if TYPE_CHECKING:
        __slots__ = ("spans",)
    else:
        __slots__ = ()

    spans: RequestSpans | None

    def __init__(self, *what: Any, **how: Any):
        super().__init__(*what, **how)
        self.spans = None if self.kind is CONTROL else _begun(self)

    def travels(self, path: Path, now: float) -> None:
        super().travels(path, now)
        if self.spans is not None:
            self.spans.sent(self, path)

    def travels_twice(self, path: Path) -> None:
        super().travels_twice(path)
        if self.spans is not None:
            self.spans.sent(self, path, is_hedge=True)

    def tried(self, host: str, what: str) -> None:
        super().tried(host, what)
        if self.spans is not None:
            self.spans.tried(host, what)

    def lost(self, link: Link) -> None:
        super().lost(link)
        if self.spans is not None:
            self.spans.over(link)

    def waits(self, now: float, limit_s: float) -> bool:
        is_another = super().waits(now, limit_s)
        if self.spans is not None:
            self.spans.waits("no broker with a path to the node")
        return is_another

    def held(self, now: float) -> None:
        super().held(now)
        if self.spans is not None:
            self.spans.waits("too many calls were lost with their paths to this node")

    def paused(self, why: str) -> None:
        super().paused(why)
        if self.spans is not None:
            self.spans.busy(self.refused_with)

    def dropped(self) -> None:
        super().dropped()
        self._close_spans("cancelled")

    def _end(self) -> None:
        error = self._error
        self._close_spans("" if error is None else type(error).__name__, error)
        super()._end()  # last: who waits for it finds its spans ended

    def _close_spans(self, problem: str, error: BaseException | None = None) -> None:
        spans, self.spans = self.spans, None
        if spans is not None:
            spans.ended(self, problem, error)


class TracedForm:
    """Makes requests: those that are in a trace, or begin one, with spans; the others as they were without.

    Args:
        form: the class that they are of.
        rate: the part of those that are in no trace which begin one.
    """

    def __init__(self, form: Any, rate: float):
        class TracedRequest(_Spanned, form):  # type: ignore[misc]
            __slots__ = ("spans",)

        self._form, self._traced, self._rate = form, TracedRequest, rate

    def __repr__(self) -> str:
        return f"<TracedForm {self._form.__name__} {self._rate:g}>"

    def __call__(self, *what: Any, context: str = "", **how: Any) -> PendingRequest:
        if in_trace(context) or (random() < self._rate and (self._rate == 1 or _serving.get() is None)):
            return self._traced(*what, context=context, **how)
        # What serves a request that was not chosen begins none: a trace of a part would tell less than none.
        return self._form(*what, context=context, **how)  # type: ignore[no-any-return]

    def changed(self, change: Callable[[Any], Any]) -> TracedForm:
        """The same of what *change* makes of the class."""
        return TracedForm(change(self._form), self._rate)


@guarded(None)
def _begun(request: PendingRequest) -> RequestSpans | None:
    """The spans of *request*, whose context names them from now on; None if they are not recorded."""
    address, is_event = request.address, request.address.node == EVENTS
    about: dict[str, Any] = {f"{PREFIX}request.id": request.id}
    if not is_event:
        about[f"{PREFIX}node"] = address.node
    if request.kind is CALL:
        name, kind = address.service, SpanKind.CLIENT
        about |= {**RPC, "rpc.method": name}
    else:
        name, kind = f"create {address}", SpanKind.PRODUCER
        about |= {**messaging("create", "create", str(address)), "messaging.message.id": request.id}
    span = start(name, kind, current_or(request.context), about)
    span_context = span.get_span_context()
    if not span_context.is_valid:
        return None
    request.context = written_with_span(request.context, span_context)
    return RequestSpans(span) if span.is_recording() else None


def _destination(request: PendingRequest, path: Path) -> str:
    """As the conventions for RabbitMQ have it: ``exchange:routing key``."""
    exchange = path.protocol.exchange.name
    if request.address.node == EVENTS:
        return f"{events_exchange(exchange)}:{request.address}"
    queue = rpc_queue if request.kind is CALL else messages_queue
    return f"{exchange}:{queue(request.address.node)}"
