"""DeadLetter: one dead letter as an operator sees it, and what would become of it if it went back. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any
from zoneinfo import ZoneInfo

from servicebus._context import NO_CONTEXT, decode_context
from servicebus._plain import is_plain_key
from servicebus.compat.envelope import decode_event, is_old_event
from servicebus.compat.tokens import DailyTokens
from servicebus.configuration import Configuration
from servicebus.errors import EnvelopeError, SignatureError
from servicebus.policy.retry_schedule import DELAY_TIERS_S
from servicebus.protocol.callers import keyring_of
from servicebus.transport.interface import Delivery
from servicebus.wire import headers
from servicebus.wire.address import delay_queue, messages_queue
from servicebus.wire.envelope import Envelope, Kind, callers_id
from servicebus.wire.events import event_queue
from servicebus.wire.signing import Keyring
from servicebus.wire.stamps import DeadLetterStamp, make_requeue_ticket, read_dead_letter_stamp
from servicebus.wire.xmlcodec import decode_envelope

__all__ = ["DeadLetter", "RequeueCheck", "RequeueStatus", "read_dead_letter"]


class RequeueStatus(str, Enum):
    """Whether a dead letter may go back to its node."""

    GOOD = "good"
    STALE = "stale"
    """The node cannot know whether it has been executed: it goes back only if the operator says so."""
    UNVERIFIED = "unverified"
    """No worker of the node has signed it. It may be a copy of a message that was executed."""
    REFUSED = "refused"
    """Not signed with a secret that we know, not readable, or not for this node."""

    __str__ = str.__str__


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One dead letter. Its headers and body are not trusted: any client may have written them."""

    id: str
    """The wire id, which no other message has; of what cannot be read, or is of version 1, a digest of its bytes."""
    service: str
    """``category.name``, of an event that of the subscriber; or "?"."""
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
    subscription: str = ""
    """Of an event: the service that has subscribed to it."""
    caller: str = ""
    """Whose key has signed it; "" for a secret of the bus, and for what is not signed with a key that we know."""
    is_whole: bool = True
    """False: the broker has more than stands here, or properties that cannot be read; a signature would be missed."""

    @property
    def event(self) -> str:
        """The name of the event that it is; "" for a message."""
        return self.envelope.service if self.envelope is not None and self.envelope.kind is Kind.EVENT else ""

    @property
    def is_plain(self) -> bool:
        """Another program has published it, without an envelope."""
        return is_plain_key(self.subscription)

    @property
    def is_old(self) -> bool:
        """Of version 1: py-servicebus 2.x has sent it."""
        return self.envelope is None and not self.problem and not self.is_plain

    @property
    def time(self) -> int:
        """Unix seconds when it was dead-lettered; 0 if no worker has signed it."""
        return self.stamp.time if self.stamp is not None else 0

    @property
    def first(self) -> int:
        """Unix seconds of the first attempt that failed; 0 if there was none."""
        return self.stamp.first if self.stamp is not None else 0

    @property
    def attempts(self) -> int:
        """How often it was run."""
        return self.stamp.attempts if self.stamp is not None else 0

    @property
    def context(self) -> Mapping[str, str]:
        """The text pairs that travel with it; none of what cannot be read."""
        try:
            return decode_context(self.envelope.context) if self.envelope and self.envelope.context else NO_CONTEXT
        except EnvelopeError:  # the node refused it for that
            return NO_CONTEXT

    def age_s(self, now: float) -> float | None:
        """Seconds since it was dead-lettered; None if that is not recorded."""
        return max(0.0, now - self.time) if self.time else None


def read_dead_letter(delivery: Delivery, max_bytes: int, keyring: Keyring, node: str = "") -> DeadLetter:
    """The dead letter of *node* in *delivery*; never fails, whatever it holds."""
    reason = _text(delivery.headers or {}, headers.REASON)
    body, found = delivery.body, dict(delivery.headers or {})
    envelope, service, params, problem = None, "?", body, ""
    subscription = _text(found, headers.SUBSCRIPTION)
    is_plain = is_plain_key(subscription)
    queue = event_queue(node, subscription) if subscription else ""
    try:
        if delivery.flaw is not None:
            raise EnvelopeError(delivery.flaw.reason, delivery.flaw.detail)
        if is_plain:
            service = subscription
        elif is_old_event(body):
            event = decode_event(body, max_bytes)
            service, params = f"{event.category}.{event.service}", event.params
        else:
            envelope = decode_envelope(body, max_bytes)
            service, params = f"{envelope.category}.{envelope.service}", envelope.params
            if envelope.kind is Kind.EVENT:
                service = subscription or "?"
    except EnvelopeError as error:
        problem = str(error)
    return DeadLetter(
        id=envelope.id if envelope is not None else _id_of(body, delivery.message_id if is_plain else None),
        service=service,
        envelope=envelope,
        body=body,
        params=params,
        headers=headers.as_stored_plain(found) if is_plain else headers.as_sent(found),
        message_id=delivery.message_id,
        reason=reason or "?",
        detail=_text(found, headers.DETAIL),
        trace=_text(found, headers.TRACE),
        host=_text(found, headers.HOST),
        stamp=read_dead_letter_stamp(keyring, body, reason, found.get(headers.DEAD_LETTER), queue),
        problem=problem,
        subscription=subscription,
        caller=_caller_of(envelope, keyring),
        is_whole=delivery.flaw is None,
    )


def _caller_of(envelope: Envelope | None, keyring: Keyring) -> str:
    with suppress(SignatureError):
        return keyring.verify_envelope(envelope) if envelope is not None else ""
    return ""


def _id_of(body: bytes, message_id: str | None) -> str:
    """Of what has no id of its own: a digest, which includes what its publisher calls it."""
    digest = hashlib.sha256(body if message_id is None else message_id.encode() + b"\0" + body)
    return f"sha256-{digest.hexdigest()[:24]}"


def _text(found: Mapping[str, Any], name: str) -> str:
    value = found.get(name)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value if isinstance(value, str) else ""


class RequeueCheck:
    """Decides which dead letters may go back, by the secrets and limits of this configuration."""

    def __init__(self, config: Configuration, node: str):
        self._config = config
        self._node = node
        self._keyring = keyring_of(config)
        zone = ZoneInfo(config.compat_time_zone) if config.compat_time_zone else None
        self._daily = DailyTokens(config.secrets, zone)

    def read(self, delivery: Delivery) -> DeadLetter:
        """The dead letter in *delivery*."""
        return read_dead_letter(delivery, self._config.max_envelope_bytes, self._keyring, self._node)

    def queue_of(self, letter: DeadLetter) -> str:
        """Where it goes back to: an event to that subscription alone.

        Another program's message waits for its service among the delayed messages of the node: in the queue that it
        came from, other programs might take it.
        """
        if letter.is_plain:
            return delay_queue(self._node, DELAY_TIERS_S[0])
        return event_queue(self._node, letter.subscription) if letter.subscription else messages_queue(self._node)

    def status(self, letter: DeadLetter, now: float) -> tuple[RequeueStatus, str]:
        """Whether *letter* may go back, and why not."""
        if not letter.is_whole:
            return RequeueStatus.REFUSED, letter.problem
        stamp = letter.stamp
        if stamp is None:
            return RequeueStatus.UNVERIFIED, "no worker has signed this letter; anyone may have put it there. Drop it"
        try:
            self._check_signatures(letter, stamp)
        except EnvelopeError as error:
            return RequeueStatus.REFUSED, str(error)
        if not stamp.known_until:
            why = f"the node refused it ({letter.reason}), so it cannot know whether it ran before"
            return RequeueStatus.STALE, why
        if stamp.time > now + self._config.clock_skew:
            return (
                RequeueStatus.STALE,
                "dead-lettered in the future: the clocks of the node and this machine disagree",
            )
        if stamp.known_until < now:
            return RequeueStatus.STALE, "dead-lettered longer ago than the node remembers what became of it"
        return RequeueStatus.GOOD, ""

    def with_ticket(self, letter: DeadLetter, now: float) -> DeadLetter:
        """The dead letter with a requeue ticket, without which the node would take its id for one that has ended.

        Raises:
            EnvelopeError: no worker has signed the letter, or the message is not signed with a secret of ours for this
                node. The ticket would vouch for it.
        """
        if letter.stamp is None:
            raise SignatureError("no worker has signed this letter")
        self._check_signatures(letter, letter.stamp)
        queue = event_queue(self._node, letter.subscription) if letter.subscription else ""
        id = callers_id(letter.id, letter.caller) if letter.caller else letter.id  # no other's letter has the same
        made = self._keyring, id, letter.body, letter.stamp.former, int(now * 1000)
        ticket = make_requeue_ticket(*made, queue)
        return replace(letter, headers={**letter.headers, headers.REQUEUED: ticket})

    def _check_signatures(self, letter: DeadLetter, stamp: DeadLetterStamp) -> None:
        """What no passing of time changes."""
        if letter.problem:
            raise EnvelopeError("malformed", letter.problem)
        if letter.is_plain:
            return  # nobody signs those; what a worker has stamped names this node, the service, and these bytes
        envelope = letter.envelope
        if envelope is None:
            self._check_old(letter, stamp)
            return
        self._keyring.verify_envelope(envelope)
        if letter.subscription and letter.event:
            return  # its stamp names this node and the subscription
        if envelope.node != self._node:
            raise EnvelopeError("wrong-node", f"sent to {envelope.node!r}")
        if envelope.kind is not Kind.MESSAGE:
            raise EnvelopeError("malformed", f"a {envelope.kind.value} among messages")

    def _check_old(self, letter: DeadLetter, stamp: DeadLetterStamp) -> None:
        """Of version 1: its token had to be good when it was dead-lettered."""
        event = decode_event(letter.body, self._config.max_envelope_bytes)
        if not self._daily.accepts(event.token, stamp.time):
            raise SignatureError("its token was not that of the day of its failure, nor of the day before or after")
