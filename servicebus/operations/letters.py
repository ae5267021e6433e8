"""Letter: one dead letter as an operator sees it, and what would become of it if it went back. Pure."""

from __future__ import annotations

import hashlib
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
from servicebus.wire.requeue import make_pass
from servicebus.wire.signing import Keyring, check_fresh
from servicebus.wire.xmlcodec import decode_envelope, encode_envelope

__all__ = ["Judge", "Letter", "Standing", "read_letter"]


class Standing(str, Enum):
    """What the node would say to a letter that goes back to it as it is."""

    GOOD = "good"
    OTHER_KEY = "other-key"
    """Signed with a secret of the list that is not the first: good for whoever knows that secret still."""
    STALE = "stale"
    """Well signed, but sent too long ago. It can be sealed anew."""
    REFUSED = "refused"
    """Not signed with a secret that we know, not readable, or not for this node: it would be buried again."""

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
    time: int
    """Unix seconds of the last attempt, or of the refusal; 0 if nobody wrote it down."""
    first: int
    attempts: int
    problem: str = ""
    """Why it cannot be read."""
    last_pass: str = ""
    """With which it was sent back before, if it was."""
    deliveries: int = 0
    """How often a quorum queue has given it out before, to be looked at or in vain."""

    @property
    def is_old(self) -> bool:
        """Of version 1: py-servicebus 2.x has sent it."""
        return self.envelope is None and not self.problem

    def age_s(self, now: float) -> float | None:
        """Seconds since it was buried; None if nobody wrote that down."""
        return max(0.0, now - self.time) if self.time else None


def read_letter(delivery: Delivery, max_bytes: int) -> Letter:
    """The letter in *delivery*; never fails, whatever stands there."""
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
        reason=_text(found, headers.REASON) or "?",
        detail=_text(found, headers.DETAIL),
        trace=_text(found, headers.TRACE),
        host=_text(found, headers.HOST),
        time=headers.number(found, headers.TIME),
        first=headers.number(found, headers.FIRST),
        attempts=headers.number(found, headers.ATTEMPTS),
        problem=problem,
        last_pass=_text(found, headers.REQUEUED),
        deliveries=max(headers.number(found, "x-delivery-count"), headers.number(found, "x-acquired-count")),
    )


def _text(found: dict[str, Any], name: str) -> str:
    value = found.get(name)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value if isinstance(value, str) else ""


class Judge:
    """Says what a node would say: by the secrets and limits of this configuration, which may not be the node's."""

    def __init__(self, config: Configuration, node: str):
        self._config = config
        self._node = node
        self._keyring = Keyring(config.secrets)
        zone = ZoneInfo(config.compat_time_zone) if config.compat_time_zone else None
        self._daily = DailyTokens(config.secrets, zone)

    def standing(self, letter: Letter, now: float) -> tuple[Standing, str]:
        """What would become of it, and why."""
        if letter.problem:
            return Standing.REFUSED, letter.problem
        if letter.is_old:
            return self._old_standing(letter, now)
        envelope = letter.envelope
        assert envelope is not None
        try:
            self._check_for_good(envelope)
        except EnvelopeError as error:
            return Standing.REFUSED, str(error)
        try:
            check_fresh(envelope, int(now * 1000), self._config.clock_skew, self._config.token_max_age)
        except EnvelopeError as error:
            return Standing.STALE, error.detail
        if envelope.token != self._keyring.sign_envelope(envelope):
            return Standing.OTHER_KEY, "signed with a secret that is not the first of the list"
        return Standing.GOOD, ""

    def with_pass(self, letter: Letter, now: float) -> Letter:
        """The letter with the pass that lets it in again: by its own id the node has done with it."""
        if letter.envelope is None:
            return letter
        # Not by its time or its attempts: when a worker dies before its journal knows of the letter, the next one
        # writes a second letter. Both are of one burial, and to be run once.
        burial = letter.last_pass.partition(" ")[0]
        passed = make_pass(self._keyring, letter.envelope.id, burial, int(now * 1000))
        return replace(letter, headers={**letter.headers, headers.REQUEUED: passed})

    def resealed(self, letter: Letter, now: float) -> bytes:
        """The bytes of the same message under the same id, as if it were sent now.

        Raises:
            EnvelopeError: nobody who knows a secret of ours has sent it to this node. Sealing would make it true.
        """
        if letter.envelope is None:
            problem = letter.problem or "a message of version 1 is not bound to its token; send it anew"
            raise EnvelopeError("signature", problem)
        self._check_for_good(letter.envelope)
        envelope = replace(letter.envelope, sent_ms=int(now * 1000), token="")
        return encode_envelope(envelope, self._keyring.sign_envelope(envelope))

    def _check_for_good(self, envelope: Envelope) -> None:
        """What no passing of time changes."""
        self._keyring.verify_envelope(envelope)
        if envelope.node != self._node:
            raise EnvelopeError("wrong-node", f"sent to {envelope.node!r}")
        if envelope.kind is not Kind.MESSAGE:
            raise EnvelopeError("malformed", f"a {envelope.kind.value} among messages")

    def _old_standing(self, letter: Letter, now: float) -> tuple[Standing, str]:
        try:
            event = decode_event(letter.body, self._config.max_envelope_bytes)
            if not self._daily.accepts(event.token, now):
                raise SignatureError("its token is not that of yesterday, today or tomorrow; send it anew")
        except EnvelopeError as error:
            return Standing.REFUSED, str(error)
        return Standing.GOOD, ""
