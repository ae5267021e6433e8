"""Spans: what traces need of OpenTelemetry: to start and end spans, and W3C trace context in the context of requests.

The API alone: which spans are recorded, and where they go, the program says by the SDK. Without one none is.
What a sampler or a span processor of the program raises is logged, and ends nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ParamSpec, TypeVar

from servicebus._context import NO_CONTEXT, decode_context, encode_context
from servicebus.errors import EnvelopeError
from servicebus.transport.loggers import get_logger
from servicebus.transport.ratelimitedlog import RateLimitedLog

try:
    from opentelemetry.context import Context, attach
    from opentelemetry.trace import (
        INVALID_SPAN,
        Link,
        Span,
        SpanContext,
        SpanKind,
        StatusCode,
        get_current_span,
        get_tracer,
        set_span_in_context,
    )
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError as error:
    raise ImportError("traces need opentelemetry-api: pip install servicebus-failover[otel]") from error

__all__ = [
    "NO_PARENT",
    "PARENT",
    "PREFIX",
    "RPC",
    "Attributes",
    "Context",
    "Span",
    "SpanKind",
    "current_or",
    "end",
    "enter",
    "guarded",
    "in_trace",
    "leave",
    "link_to",
    "messaging",
    "parent_in",
    "span_in",
    "start",
    "with_span",
    "within",
    "written_with_span",
]

Attributes = Mapping[str, Any]
P = ParamSpec("P")
R = TypeVar("R")

SCHEMA = "https://opentelemetry.io/schemas/1.44.0"
"""The semantic conventions that names and attributes are of."""
PREFIX = "servicebus_failover."
"""Of what they have no word for."""
RPC: Attributes = MappingProxyType({"rpc.system.name": "servicebus_failover"})
NO_PARENT = Context()

PARENT, _STATE = "traceparent", "tracestate"
_MOST_CHARS = 1000
_LOG = RateLimitedLog(get_logger(__name__), "traces")
_TRACER = get_tracer("servicebus", schema_url=SCHEMA)
_W3C = TraceContextTextMapPropagator()


def guarded(instead: Any) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator: what the function raises is logged, and it returns *instead*."""

    def decorated(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return function(*args, **kwargs)
            except Exception as error:  # of the program's sampler or processor, most likely
                _LOG.warning(f"a span is lost: {type(error).__name__} in {function.__name__}(); the request goes on")
                return instead  # type: ignore[no-any-return]

        return call

    return decorated


def messaging(operation: str, kind: str, destination: str) -> dict[str, Any]:
    """The attributes of a span that is about a message on a broker; *kind* is one of the conventions' types."""
    return {
        "messaging.system": "rabbitmq",  # "servicebus" is Azure's there
        "messaging.operation.name": operation,
        "messaging.operation.type": kind,
        "messaging.destination.name": destination,
    }


@guarded(INVALID_SPAN)
def start(
    name: str,
    kind: SpanKind,
    parent: Context | None,
    attributes: Attributes,
    links: Sequence[Link] = (),
    start_ns: int | None = None,
) -> Span:
    """Begin a span; *parent* is a context with its parent, None for the current one. Times are Unix nanoseconds."""
    return _TRACER.start_span(name, parent, kind, attributes, links, start_ns)


@guarded(None)
def end(
    span: Span, problem: str = "", detail: str = "", attributes: Attributes | None = None, end_ns: int | None = None
) -> None:
    """End *span*; *problem* is a name for what went wrong, one of few, and *detail* the text of it."""
    if attributes:
        span.set_attributes(attributes)
    if problem:
        span.set_attribute("error.type", problem)
        span.set_status(StatusCode.ERROR, detail[:_MOST_CHARS] or None)
    span.end(end_ns)


def within(span: Span) -> Context:
    """A context whose current span is *span*, to be a parent."""
    return set_span_in_context(span, NO_PARENT)


def in_trace(context_text: str) -> bool:
    """Whether what is asked now, with *context_text* as it travels, belongs to a trace."""
    return PARENT in context_text or get_current_span() is not INVALID_SPAN


def current_or(context_text: str) -> Context | None:
    """None for the current span, if there is one; else the parent that *context_text* names, as it travels."""
    if get_current_span().get_span_context().is_valid or PARENT not in context_text:
        return None
    return parent_in(decode_context(context_text))


@guarded(NO_PARENT)
def parent_in(pairs: Mapping[str, Any] | None) -> Context:
    """A context with the span that *pairs* names; empty if they name none."""
    if not pairs or not isinstance(pairs.get(PARENT), str):
        return NO_PARENT
    state = pairs.get(_STATE)
    return _W3C.extract({PARENT: pairs[PARENT], **({_STATE: state} if isinstance(state, str) else {})}, NO_PARENT)


def span_in(parent: Context) -> SpanContext:
    """The span that *parent* holds; one that is not valid if it holds none."""
    return get_current_span(parent).get_span_context()


def link_to(parent: Context) -> Sequence[Link]:
    """A link to the span that *parent* holds; none if it holds none."""
    found = span_in(parent)
    return (Link(found),) if found.is_valid else ()


def with_span(pairs: Mapping[str, str], span: SpanContext) -> Mapping[str, str]:
    """*pairs*, which name *span* from now on; as they are if they had no room for that."""
    changed = {key: value for key, value in pairs.items() if key != _STATE}
    changed[PARENT] = _written(span)
    if span.trace_state:
        changed[_STATE] = span.trace_state.to_header()
    if PARENT not in pairs or _STATE in changed:
        try:
            encode_context(changed)
        except EnvelopeError:
            return pairs
    return MappingProxyType(changed)


def written_with_span(context_text: str, span: SpanContext) -> str:
    """The same of a context as it travels."""
    if not context_text and not span.trace_state:
        return f'{{"{PARENT}":"{_written(span)}"}}'
    return encode_context(with_span(decode_context(context_text) if context_text else NO_CONTEXT, span))


@guarded(None)
def enter(span: Span) -> None:
    """Make *span* the current one of this thread or task."""
    attach(within(span))


@guarded(None)
def leave(span: Span) -> None:
    """No span is current any more, if *span* was. (A token would be of use in the thread or task alone that got it.)"""
    if get_current_span() is span:
        attach(NO_PARENT)


def _written(span: SpanContext) -> str:
    return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"
