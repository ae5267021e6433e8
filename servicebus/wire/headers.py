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

AGAIN = "x-servicebus-again"
"""Of a request that is passed on to the worker which runs its service: it may have been passed on before."""

# Of another program's message that a worker has stored: where it was published to.
EXCHANGE = "x-servicebus-exchange"
ROUTING_KEY = "x-servicebus-routing-key"

# Of dead letters only:
DEAD_LETTER = "x-servicebus-letter"
"""When it was dead-lettered, its attempts and so on, signed by the worker (``wire.stamps``)."""
REASON = "x-servicebus-reason"
DETAIL = "x-servicebus-detail"
TRACE = "x-servicebus-trace"
HOST = "x-servicebus-host"
"""The broker that it came from."""

_ALL = (REQUEUED, WAIT, SUBSCRIPTION, EXCHANGE, ROUTING_KEY, DEAD_LETTER, REASON, DETAIL, TRACE, HOST)


_OF_BROKER = ("x-death", "x-delivery-count", "x-acquired-count", "CC", "BCC")
_OF_BROKER_TOO = ("x-first-death-", "x-last-death-")


def as_sent(headers: Mapping[str, Any] | None) -> dict[str, Any]:
    """The sender's headers: without ours, and without the broker's own, which it refuses when published again."""
    return {name: value for name, value in (headers or {}).items() if name not in _ALL and not name.startswith("x-")}


def as_published(headers: Mapping[str, Any] | None) -> dict[str, Any]:
    """The headers of another program's message: without ours, and without those that the broker writes or acts on."""
    return {
        name: value
        for name, value in (headers or {}).items()
        if name not in _ALL and name not in _OF_BROKER and not name.startswith(_OF_BROKER_TOO)
    }


def as_stored_plain(headers: Mapping[str, Any] | None) -> dict[str, Any]:
    """The same, with what says whose it is and where it was published to."""
    own = {name: value for name, value in (headers or {}).items() if name in (SUBSCRIPTION, EXCHANGE, ROUTING_KEY)}
    return {**as_published(headers), **own}


def kept_in_copies(headers: Mapping[str, Any] | None) -> dict[str, Any]:
    """The sender's headers and ours, without the broker's own (x-death, x-delivery-count)."""
    given = headers or {}
    if EXCHANGE in given:  # another program's
        return {**as_published(given), **{name: value for name, value in given.items() if name in _ALL}}
    return {name: value for name, value in given.items() if name in _ALL or not name.startswith("x-")}


def is_ours(name: str) -> bool:
    """Whether the bus itself puts a header of that name on messages."""
    return name in _ALL


def number(headers: Mapping[str, Any] | None, name: str) -> int:
    """A count that the broker has put there; 0 if it is missing or no count. Of ours, only stamps are believed."""
    value = (headers or {}).get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
