"""PlainMessage: a message of AMQP as any client publishes it, without an envelope; and its properties. Pure values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["MessageProperties", "PlainMessage", "PlainQueue", "PlainTarget", "is_plain_key", "plain_key"]

PERSISTENT = 2
"""The delivery mode of a message that a broker keeps on disk."""


@dataclass(frozen=True, slots=True)
class MessageProperties:
    """The properties of AMQP 0-9-1's basic class; None for what a message does not have."""

    content_type: str | None = None
    content_encoding: str | None = None
    headers: Mapping[str, Any] | None = field(default=None, repr=False)
    delivery_mode: int | None = None
    """2 for a message that is stored on disk."""
    priority: int | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    expiration: str | None = None
    """Milliseconds that it lives in a queue, as text."""
    message_id: str | None = None
    timestamp: int | None = None
    """Unix seconds."""
    type: str | None = None
    user_id: str | None = None
    """Vouched for by the broker that delivered it: its publisher was that user."""
    app_id: str | None = None


@dataclass(frozen=True, slots=True)
class PlainMessage:
    """One message of another program, as the broker delivered it. Nothing of it is signed."""

    body: bytes = field(repr=False)
    exchange: str
    """To which it was published; "" for the default exchange."""
    routing_key: str
    redelivered: bool
    """It was on its way to a consumer before."""
    properties: MessageProperties

    def json(self) -> Any:
        """The body as JSON. Raises ValueError."""
        return json.loads(self.body)

    @property
    def text(self) -> str:
        """The body as UTF-8 text. Raises UnicodeDecodeError, a ValueError."""
        return self.body.decode()

    @property
    def headers(self) -> Mapping[str, Any]:
        return self.properties.headers or {}

    @property
    def message_id(self) -> str | None:
        return self.properties.message_id

    @property
    def content_type(self) -> str | None:
        return self.properties.content_type


@dataclass(frozen=True)
class PlainQueue:
    """A queue of other programs that a service consumes, as it was declared (``Services.consume()``)."""

    queue: str
    exchange: str = ""
    """To which the queue is bound; "" for none."""
    routing_keys: tuple[str, ...] = ()
    exchange_type: str = "topic"
    host: str = ""
    """The name of the broker; "" for each of ``hosts``."""
    passive: bool = False
    """Others declare the queue and its bindings."""
    durable: bool = True
    arguments: Mapping[str, Any] = field(default_factory=dict)
    prefetch: int | None = None
    """Unacknowledged deliveries in one worker; None for as many as the service's inbox takes."""
    remember_s: float = 3600.0
    """For how long a ``message_id`` that was executed is known; 0: message ids mean nothing."""
    answers: bool = True
    """A message with ``reply_to`` is a call: it gets the result."""
    content_type: str = "application/json"
    """Of its answers."""


def plain_key(service: str) -> str:
    """How the engine knows a service that consumes another program's queue. No service has such a name."""
    return f"plain {service}"


def is_plain_key(key: str) -> bool:
    return key.startswith("plain ")


@dataclass(frozen=True)
class PlainTarget:
    """Where a publisher publishes to, in the form of other programs."""

    exchange: str = ""
    routing_key: str = ""
    host: str = ""
    """The name of the broker; "" for the first of ``hosts`` that takes it."""
    mandatory: bool = True
    """That no queue takes it is an error."""
    persistent: bool = True
