"""Letter: one dead letter as an operator sees it, and what would become of it if it went back. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any
from zoneinfo import ZoneInfo

from servicebus.compat.envelope import decode_event, is_old_event
from servicebus.compat.tokens import DailyTokens
from servicebus.configuration import Configuration
from servicebus.errors import EnvelopeError, SignatureError
from servicebus.transport.interface import Delivery
from servicebus.wire import headers
from servicebus.wire.envelope import Envelope, Kind
from servicebus.wire.signing import Keyring
from servicebus.wire.stamps import DeadLetterStamp, make_requeue_ticket, read_dead_letter_stamp
from servicebus.wire.xmlcodec import decode_envelope

__all__ = ["Judge", "Letter", "Standing", "read_letter"]


class Standing(str, Enum):
    """Whether a letter may go back to its node."""

    GOOD = "good"
    STALE = "stale"
    """The node cannot know whether it has been executed: it goes back only if the operator says so."""
    UNVERIFIED = "unverified"
    """No worker of the node has signed that it buried it. It may be a copy of a message that was executed."""
    REFUSED = "refused"
    """Not signed with a secret that we know, not readable, or not for this node."""

    __str__ = str.__str__


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter. What stands in the headers and the body may have been written by anybody."""

    id: str
    """The wire id, which no other message has; of what cannot be read, or is of version 1, a digest of its bytes."""
    service: str
    """``category.name``, or "?"."""
    envelope: Envelope | None
    """None for what cannot be read as version 2."""
    body: bytes = field(repr=False)
    params: bytes = field(repr=False)
    """JSON text; the whole body of what cannot be read."""
    headers: dict[str, Any] = field(repr=False)
    message_id: str | None
    reason: str
    detail: str
    trace: str = field(repr=False)
    host: str
    """The broker on which it failed, as its worker knew it."""
    stamp: DeadLetterStamp | None = None
    """What a worker of the node has signed; None for a letter that no worker wrote."""
    problem: str = ""
    """Why it cannot be read."""
    is_whole: bool = True
    """False: the broker has more than stands here, or properties that cannot be read; a signature would be missed."""

    @property
    def is_old(self) -> bool:
        """Of version 1: py-servicebus 2.x has sent it."""
        return self.envelope is None and not self.problem

    @property
    def time(self) -> int:
        """Unix seconds of the burial; 0 if no worker has signed it."""
        return self.stamp.time if self.stamp is not None else 0

    @property
    def first(self) -> int:
        """Unix seconds of the first attempt that failed; 0 if there was none."""
        return self.stamp.first if self.stamp is not None else 0

    @property
    def attempts(self) -> int:
        """How often it was run."""
        return self.stamp.attempts if self.stamp is not None else 0

    def age_s(self, now: float) -> float | None:
        """Seconds since it was buried; None if nobody wrote that down."""
        return max(0.0, now - self.time) if self.time else None


def read_letter(delivery: Delivery, max_bytes: int, keyring: Keyring) -> Letter:
    """The letter in *delivery*; never fails, whatever stands there."""
    reason = _text(delivery.headers or {}, headers.REASON)
    body, found = delivery.body, dict(delivery.headers or {})
    envelope, service, params, problem = None, "?", body, ""
    try:
        if delivery.flaw is not None:
            raise EnvelopeError(delivery.flaw.reason, delivery.flaw.detail)
        if is_old_event(body):
            event = decode_event(body, max_bytes)
            service, params = f"{event.category}.{event.service}", event.params
        else:
            envelope = decode_envelope(body, max_bytes)
            service, params = f"{envelope.category}.{envelope.service}", envelope.params
    except EnvelopeError as error:
        problem = str(error)
    return Letter(
        id=envelope.id if envelope is not None else f"sha256-{hashlib.sha256(body).hexdigest()[:24]}",
        service=service,
        envelope=envelope,
        body=body,
        params=params,
        headers=headers.as_sent(found),
        message_id=delivery.message_id,
        reason=reason or "?",
        detail=_text(found, headers.DETAIL),
        trace=_text(found, headers.TRACE),
        host=_text(found, headers.HOST),
        stamp=read_dead_letter_stamp(keyring, body, reason, found.get(headers.DEAD_LETTER)),
        problem=problem,
        is_whole=delivery.flaw is None,
    )


def _text(found: Mapping[str, Any], name: str) -> str:
    value = found.get(name)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value if isinstance(value, str) else ""


class Judge:
    """Decides which letters may go back, by the secrets and limits of this configuration."""

    def __init__(self, config: Configuration, node: str):
        self._config = config
        self._node = node
        self._keyring = Keyring(config.secrets)
        zone = ZoneInfo(config.compat_time_zone) if config.compat_time_zone else None
        self._daily = DailyTokens(config.secrets, zone)

    def read(self, delivery: Delivery) -> Letter:
        """The letter in *delivery*."""
        return read_letter(delivery, self._config.max_envelope_bytes, self._keyring)

    def standing(self, letter: Letter, now: float) -> tuple[Standing, str]:
        """Whether *letter* may go back, and why not."""
        if not letter.is_whole:
            return Standing.REFUSED, letter.problem
        stamp = letter.stamp
        if stamp is None:
            return Standing.UNVERIFIED, "no worker has signed this letter; anyone may have put it there. Drop it"
        try:
            self._check_for_good(letter, stamp)
        except EnvelopeError as error:
            return Standing.REFUSED, str(error)
        if not stamp.known_until:
            return Standing.STALE, f"the node refused it ({letter.reason}), so it cannot know whether it ran before"
        if stamp.time > now + self._config.clock_skew:
            return Standing.STALE, "buried in the future: the clocks of the node and of this machine disagree"
        if stamp.known_until < now:
            return Standing.STALE, "buried longer ago than the node remembers what became of it"
        return Standing.GOOD, ""

    def with_ticket(self, letter: Letter, now: float) -> Letter:
        """The letter with the ticket that lets it in again; by its own id the node has done with it.

        Raises:
            EnvelopeError: no worker has signed the letter, or no one who knows a secret of ours has sent the message
                to this node. The ticket would make it true.
        """
        if letter.stamp is None:
            raise SignatureError("no worker has signed this letter")
        self._check_for_good(letter, letter.stamp)
        ticket = make_requeue_ticket(self._keyring, letter.id, letter.body, letter.stamp.former, int(now * 1000))
        return replace(letter, headers={**letter.headers, headers.REQUEUED: ticket})

    def _check_for_good(self, letter: Letter, stamp: DeadLetterStamp) -> None:
        """What no passing of time changes."""
        if letter.problem:
            raise EnvelopeError("malformed", letter.problem)
        envelope = letter.envelope
        if envelope is None:
            self._check_old(letter, stamp)
            return
        self._keyring.verify_envelope(envelope)
        if envelope.node != self._node:
            raise EnvelopeError("wrong-node", f"sent to {envelope.node!r}")
        if envelope.kind is not Kind.MESSAGE:
            raise EnvelopeError("malformed", f"a {envelope.kind.value} among messages")

    def _check_old(self, letter: Letter, stamp: DeadLetterStamp) -> None:
        """Of version 1: its token had to be good when it was buried."""
        event = decode_event(letter.body, self._config.max_envelope_bytes)
        if not self._daily.accepts(event.token, stamp.time):
            raise SignatureError("its token was not that of the day when it was buried, nor of the day before or after")
