"""PlainService: a function that handles the messages of other programs: bodies are JSON, text or bytes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from servicebus._plain import PlainQueue
from servicebus.client.plain_sending import AsyncPlainPublisher
from servicebus.configuration.checks import Unacceptable, short_name, whole
from servicebus.errors import ConfigurationError, EnvelopeError
from servicebus.services import Request
from servicebus.typed.binding import Bound, make_binder, value_reader
from servicebus.typed.results import make_writer
from servicebus.typed.service import TypedService
from servicebus.typed.signature import Signature, read_signature
from servicebus.typed.typed_function import TypedFunction
from servicebus.wire.fault import INVALID_PARAMS

__all__ = ["PlainService", "check_queue", "consumed_queue"]

_CONTENT_TYPES = {bytes: "application/octet-stream", str: "text/plain"}
_MOST_PREFETCH = 65535


class PlainService(TypedService):
    """As a TypedService; but what it binds and writes are the bodies of other programs.

    Args:
        publishes: the name of the publisher that each result goes to; "" for none.
    """

    def __init__(self, name: str, typed: TypedFunction, *how: Any, publishes: str = ""):
        super().__init__(name, typed, *how)
        self.bind = _body_binder(self.signature)
        self.dump = _body_writer(self.signature.returns)
        self.publishes = publishes
        if publishes:
            self.call = self._publishing(self.call)

    @property
    def needed_publishers(self) -> set[str]:
        return super().needed_publishers | ({self.publishes} if self.publishes else set())

    def _publishing(self, call: Callable[[Bound, Request], Any]) -> Callable[[Bound, Request], Any]:
        dump, name = self.dump, self.publishes

        def publish(bound: Bound, request: Request) -> None:
            result = call(bound, request)
            if result is not None:
                request.get_sender().publisher(name).publish(dump(result))

        async def publish_async(bound: Bound, request: Request) -> None:
            result = await call(bound, request)
            if result is not None:
                await AsyncPlainPublisher(request.get_sender().publisher(name)).publish(dump(result))

        return publish_async if self.is_async else publish


def _body_binder(signature: Signature) -> Callable[[bytes], Bound]:
    """A function of the body. It raises EnvelopeError if that is no JSON, or not what the annotation wants."""
    parameters = list(signature.bound.parameters.values())
    if not parameters:
        return lambda _body: ((), {})
    if len(parameters) > 1:
        return make_binder(signature)
    (parameter,) = parameters
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        return make_binder(signature)
    is_named = parameter.kind is inspect.Parameter.KEYWORD_ONLY
    read = _reader(parameter.annotation)

    def bind(body: bytes) -> Bound:
        value = read(body)
        return ((), {parameter.name: value}) if is_named else ((value,), {})

    return bind


def _reader(annotation: Any) -> Callable[[bytes], Any]:
    if annotation is bytes:
        return bytes
    if annotation is str:
        return _text
    return value_reader(annotation)


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise EnvelopeError(INVALID_PARAMS, f"the body is no UTF-8 text: {error.reason} at {error.start}") from None


def _body_writer(annotation: Any) -> Callable[[Any], bytes]:
    write = make_writer(annotation) if annotation not in _CONTENT_TYPES else None

    def dump(result: Any) -> bytes:
        if isinstance(result, bytes):
            return result
        if write is None and isinstance(result, str):
            return result.encode()
        if write is None:
            raise TypeError(f"the service returned {type(result).__name__}, where its annotation says {annotation}")
        return write(result)

    return dump


def consumed_queue(
    function: Callable[..., Any],
    queue: PlainQueue,
    answers: bool | None,
    publishes: str,
    local_names: Mapping[str, Any] | None,
) -> PlainQueue:
    """*queue*, with what the signature of *function* says of its answers."""
    returns = read_signature(function, local_names).returns
    if answers is None:
        answers = not publishes and returns not in (None, type(None))
    return replace(queue, answers=answers, content_type=_CONTENT_TYPES.get(returns, "application/json"))


def check_queue(what: str, queue: PlainQueue) -> None:
    """Raise ConfigurationError: a name is none, or they do not go together. *what* is what they were given to."""
    try:
        short_name(queue.queue)
        for name in (queue.exchange, *queue.routing_keys):
            if name:
                short_name(name)
        if queue.prefetch is not None:
            whole(1, _MOST_PREFETCH)(queue.prefetch)
    except Unacceptable as problem:
        wrong = f"a queue, exchange, routing key, or prefetch {problem}"
        raise ConfigurationError(f"{what}: {wrong}", key="services") from None
    if queue.routing_keys and not queue.exchange:
        raise ConfigurationError(f"{what}: a routing key needs an exchange to be bound to", key="services")
    if queue.exchange and not queue.routing_keys and not queue.passive and queue.exchange_type != "fanout":
        raise ConfigurationError(f"{what}: an exchange needs a routing key; # is every one of a topic", key="services")
