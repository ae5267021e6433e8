"""The AMQP headers that the bus puts on stored messages. The envelope inside is never changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

REQUEUED = "x-servicebus-requeued"
"""The requeue ticket of a dead letter that an operator has sent back (``wire.stamps``)."""
WAIT = "x-servicebus-wait"
"""Of a message in a delay queue: when it is due, and its failed attempts (``wire.stamps``)."""

SUBSCRIPTION = "x-servicebus-subscription"
"""Of an event among the node's delayed messages and dead letters: whose it is, ``category.name``."""

# Of dead letters only:
DEAD_LETTER = "x-servicebus-letter"
"""When it was dead-lettered, its attempts and so on, signed by the worker (``wire.stamps``)."""
REASON = "x-servicebus-reason"
DETAIL = "x-servicebus-detail"
TRACE = "x-servicebus-trace"
HOST = "x-servicebus-host"
"""The broker that it came from."""

_ALL = (REQUEUED, WAIT, SUBSCRIPTION, DEAD_LETTER, REASON, DETAIL, TRACE, HOST)


def as_sent(headers: Mapping[str, Any] | None) -> dict[str, Any]:
    """The sender's headers: without ours, and without the broker's own, which it refuses when published again."""
    return {name: value for name, value in (headers or {}).items() if name not in _ALL and not name.startswith("x-")}


def kept_in_copies(headers: Mapping[str, Any] | None) -> dict[str, Any]:
    """The sender's headers and ours, without the broker's own (x-death, x-delivery-count)."""
    return {name: value for name, value in (headers or {}).items() if name in _ALL or not name.startswith("x-")}


def is_ours(name: str) -> bool:
    """Whether the bus itself puts a header of that name on messages."""
    return name in _ALL


def number(headers: Mapping[str, Any] | None, name: str) -> int:
    """A count that the broker has put there; 0 if it is missing or no count. Of ours, only stamps are believed."""
    value = (headers or {}).get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
