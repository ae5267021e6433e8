"""The steps of middleware: which methods of it run around what, the first one outermost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from servicebus._context import GivenContext, OutgoingContext
from servicebus.errors import ConfigurationError
from servicebus.services import Request, outgoing_context

RequestKind = Literal["call", "message", "event", "stream"]
Step = Callable[[Any, Callable[[], Any]], Any]


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A call, message, event or request for a stream that a Sender is about to send."""

    kind: RequestKind
    target: str
    """``NODE.category.name``; the name of an event."""
    params: Any
    context: dict[str, str] = field(default_factory=OutgoingContext, repr=False, hash=False)
    """All that goes with it, what it inherits included. Middleware may add to it, change it, and take out of it."""


def outgoing_of(kind: RequestKind, target: str, params: Any, context: GivenContext) -> Outgoing:
    """What is about to be sent, asked by the calling thread or task. Raises EnvelopeError: *context* is no mapping."""
    return Outgoing(kind, target, params, OutgoingContext(outgoing_context(context)))


class Middleware:
    """Runs around requests: override what is needed. For any number of threads at a time.

    Each method returns what ``proceed()`` returns, or something else in its place, and lets pass or raises what it
    raises. It may call it later, more than once, or not at all.
    """

    def serve(self, request: Request, proceed: Callable[[], Any]) -> Any:
        """Around a service: a class or a ``def`` function, whose params were bound. The result is that of a call.

        Of a generator ``proceed()`` runs it to its end, and returns None.
        """
        return proceed()

    async def serve_async(self, request: Request, proceed: Callable[[], Awaitable[Any]]) -> Any:
        """Around an ``async def`` function, in its task."""
        return await proceed()

    def call(self, outgoing: Outgoing, proceed: Callable[[], Any]) -> Any:
        """Around ``Sender.call()``, ``send()``, ``publish()`` and ``stream()``, whose result it returns."""
        return proceed()

    async def call_async(self, outgoing: Outgoing, proceed: Callable[[], Awaitable[Any]]) -> Any:
        """Around the methods of an AsyncSender, and ``Sender.call_async()``, ``send_async()`` and such.

        Of the latter it runs in the thread that reads the answers, without asyncio: it awaits ``proceed()`` alone.
        """
        return await proceed()


def listed(middleware: Sequence[Middleware]) -> tuple[Middleware, ...]:
    """It, as it was given. Raises ConfigurationError: it is no list of Middleware."""
    if isinstance(middleware, Middleware) or not isinstance(middleware, Iterable):
        raise ConfigurationError("middleware must be a list: [Timing()]", key="middleware")
    found = tuple(middleware)
    for each in found:
        if isinstance(each, type):
            raise ConfigurationError(f"{each.__name__} is a class; write {each.__name__}()", key="middleware")
        if not isinstance(each, Middleware):
            raise ConfigurationError(f"{each!r} is no Middleware", key="middleware")
    return found


def steps_of(middleware: Sequence[Middleware], method: str, other: str) -> tuple[Step, ...]:
    """The *method* of each one that has it overridden.

    Raises:
        ConfigurationError: one overrides *other* and not *method*: what it is for would be missing in silence.
    """
    found: list[Step] = []
    for each in listed(middleware):
        if _has(each, method):
            found.append(getattr(each, method))
        elif _has(each, other):
            what = f"{type(each).__name__} has {other}() and no {method}(), which is needed here, too"
            raise ConfigurationError(what, key="middleware")
    return tuple(found)


def _has(middleware: Middleware, method: str) -> bool:
    return getattr(type(middleware), method) is not getattr(Middleware, method)


def run_steps(steps: Sequence[Step], subject: Any, innermost: Callable[[], Any]) -> Any:
    """What the outermost of *steps* returns; something to await if they are ``async def``."""
    proceed = innermost
    for step in reversed(steps):
        proceed = partial(step, subject, proceed)
    return proceed()
