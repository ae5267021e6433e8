"""What is said of a dead letter, as plain values: for ``servicebus dead --json`` and the console. Pure."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from servicebus._secret import ENCRYPTED
from servicebus.errors import EnvelopeError
from servicebus.wire.jsontext import decode_json
from servicebus.wire.printable import printable

if TYPE_CHECKING:
    from servicebus.operations.dead_letters import Found

__all__ = ["DeadLetterGroup", "DeadLetterGroups", "encrypted_facts", "facts", "shown_facts", "trace_of"]

_PARAMS_CHARS = 2000
_TRACE_LINES = 12


def facts(found: Found) -> dict[str, Any]:
    """What ``list --json`` says of a dead letter."""
    letter = found.dead_letter
    age_s = letter.age_s(time.time())
    return {
        "id": letter.id,
        "service": letter.service,
        **({"event": letter.event} if letter.event else {}),
        "reason": letter.reason,
        "detail": letter.detail,
        "attempts": letter.attempts,
        "first": letter.first or None,
        "time": letter.time or None,
        "age_s": None if age_s is None else round(age_s),
        "broker": found.broker,
        "failed_on": letter.host,
        "sent": letter.envelope.sent_ms / 1000 if letter.envelope is not None else None,
        "context": dict(letter.context),
        "caller": letter.caller,
        "verified": letter.stamp is not None,
        "standing": found.status.value,
        "why": found.why,
    }


def shown_facts(found: Found, *, full: bool) -> dict[str, Any]:
    """What ``show --json`` says of one: also ``trace``, and ``params``, or ``params_text`` if they are cut."""
    shown = facts(found) | {"trace": trace_of(found, full=full)}
    if (encrypted := encrypted_facts(found.dead_letter.params)) is not None:
        return shown | encrypted
    text = found.dead_letter.params.decode(errors="backslashreplace")
    if not full and len(text) > _PARAMS_CHARS:
        return shown | {"params_text": text[:_PARAMS_CHARS], "params_cut": True}
    try:
        return shown | {"params": decode_json(found.dead_letter.params)}
    except EnvelopeError:
        return shown | {"params_text": text, "params_cut": False}


def encrypted_facts(params: bytes) -> dict[str, Any] | None:
    """What is shown of params that are encrypted, or hold what is: ``null`` stands for it."""
    if not params.startswith(ENCRYPTED):
        return None
    _, key_id, *more = params.split(b":", 4)
    shown: Any = None
    with suppress(EnvelopeError, IndexError):
        shown = decode_json(more[2])
    return {"params": shown, "encrypted_with": printable(key_id[:8].decode(errors="replace"))}


def trace_of(found: Found, *, full: bool) -> str:
    """The traceback, cut unless *full*."""
    lines = found.dead_letter.trace.rstrip("\n").split("\n")
    return "\n".join(lines if full or len(lines) <= _TRACE_LINES else ["...", *lines[-_TRACE_LINES:]])


class DeadLetterGroup(NamedTuple):
    """Dead letters of one service that failed for one reason."""

    service: str
    reason: str
    """The type of the exception, or ``unknown-service`` and the like."""
    status: str
    """What would become of them if they went back: of ``RequeueStatus``."""
    size: int
    """How many there are."""
    oldest: int
    """Unix seconds."""
    newest: int


class DeadLetterGroups:
    """Dead letters counted by service and reason."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str, str], tuple[int, int, int]] = {}

    def add(self, found: Found) -> None:
        """Count one."""
        letter = found.dead_letter
        key = (letter.service, letter.reason, found.status.value)
        count, oldest, newest = self._counts.get(key, (0, letter.time, letter.time))
        self._counts[key] = (count + 1, min(oldest, letter.time), max(newest, letter.time))

    def document(self) -> list[dict[str, Any]]:
        """The most numerous first."""
        names = ("service", "reason", "standing", "count", "oldest", "newest")
        return [dict(zip(names, row, strict=True)) for row in self.rows()]

    def rows(self) -> list[DeadLetterGroup]:
        """The most numerous first."""
        rows = [DeadLetterGroup(*key, *counted) for key, counted in self._counts.items()]
        return sorted(rows, key=lambda row: (-row.size, row[:3]))
