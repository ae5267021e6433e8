"""The AMQP headers that the bus puts on stored messages. The envelope inside is never changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

REQUEUED = "x-servicebus-requeued"
"""The pass of a dead letter that somebody who has the secret has sent back (wire.requeue)."""
DUE = "x-servicebus-due"
"""Unix milliseconds before which a delayed message is not run."""
ATTEMPTS = "x-servicebus-attempts"
"""How often it was run, on any machine, and failed."""
FIRST = "x-servicebus-first"
"""Unix seconds of the first attempt."""

# Of dead letters only:
REASON = "x-servicebus-reason"
DETAIL = "x-servicebus-detail"
TRACE = "x-servicebus-trace"
HOST = "x-servicebus-host"
"""The broker that it came from."""
TIME = "x-servicebus-time"
"""Unix seconds of the last attempt, or of the refusal."""

LATEST_S = 99_999_999_999
"""In the year 5138, in every time zone."""
_LARGEST = {ATTEMPTS: 1_000_000, DUE: LATEST_S * 1000}

_ALL = (REQUEUED, DUE, ATTEMPTS, FIRST, REASON, DETAIL, TRACE, HOST, TIME)


def as_sent(headers: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the sender put there: without ours, and without the broker's own, which it refuses when published again."""
    return {name: value for name, value in (headers or {}).items() if name not in _ALL and not name.startswith("x-")}


def kept_in_copies(headers: Mapping[str, Any] | None) -> dict[str, Any]:
    """The sender's and ours, without the broker's own (x-death, x-delivery-count)."""
    return {name: value for name, value in (headers or {}).items() if name in _ALL or not name.startswith("x-")}


def is_ours(name: str) -> bool:
    """Whether the bus itself puts a header of that name on messages."""
    return name in _ALL


def number(headers: Mapping[str, Any] | None, name: str) -> int:
    """A header that is a count or a time, cut to what one can reckon with; 0 if it is missing or no such number.

    Nobody signs it, so a stranger may have written any 64 bits there, or something else.
    """
    value = (headers or {}).get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        return 0
    return min(value, _LARGEST.get(name, LATEST_S))
