"""Dialect: one version of the envelope as an agent speaks it. Version 2 is here, version 1 in ``compat``."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, Protocol

from servicebus.configuration import Configuration
from servicebus.errors import EnvelopeError
from servicebus.policy.clocks import SteadyClock, remaining_s
from servicebus.runtime.job import Incoming
from servicebus.transport.interface import Delivery, Flaw
from servicebus.wire.envelope import CALL, DIRECT_REPLY_TO, FAULT, MESSAGE, OK, VERSION, Envelope, Kind, Reply
from servicebus.wire.fault import EXPIRED, Fault
from servicebus.wire.signing import Keyring, check_fresh
from servicebus.wire.stamps import UNSTAMPED, Stamps, read_stamps
from servicebus.wire.xmlcodec import decode_envelope, encode_json, encode_reply, write_answer

UNSIGNED = "unsigned"
"""In place of a token: a hint for whoever has another secret, never to be believed."""
DEFECT = "defect"
"""Why a request was not handled: something raised where nothing should."""
_DIRECT_PREFIX = DIRECT_REPLY_TO + "."


class Refused(Exception):
    """A delivery that is not executed. ``reply`` is what the sender is told, if it may be told anything."""

    def __init__(
        self,
        error: EnvelopeError,
        reply: bytes | None = None,
        reply_to: str = "",
        incoming: Incoming | None = None,
    ):
        super().__init__(str(error))
        self.error = error
        self.reply = reply
        self.reply_to = reply_to
        self.incoming = incoming
        """What it would have been, if it is well signed: the journal must remember that it was refused."""

    def reply_in(self, lane: Kind) -> bytes | None:
        """``reply``, unless it is signed for a request of another lane: that may be the copy of one that runs."""
        return None if self.incoming is not None and self.incoming.kind is not lane else self.reply


def wrong_queue(incoming: Incoming, lane: Kind) -> Refused:
    """What came in a queue for others is not answered: signed, it would tell a caller that its call was not run."""
    return Refused(EnvelopeError("wrong-queue", f"a {incoming.kind.value} in the queue for {lane.value}s"))


def flawed(flaw: Flaw) -> Refused:
    """For what the transport could not read, or did not keep: its sender cannot be told."""
    return Refused(EnvelopeError(flaw.reason, flaw.detail))


def told(error: BaseException) -> str:
    """*error* by its class and by its text, if that can be had."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return type(error).__name__


class Dialect(Protocol):
    """``read()`` belongs to the I/O thread; the writing methods may be called by any thread."""

    def read(self, delivery: Delivery) -> Incoming:
        """Decode and verify. Raises Refused."""

    def write_unread(self, delivery: Delivery, fault: Fault) -> tuple[bytes | None, str]:
        """The reply to a call that ``read()`` failed for, and where it goes; no reply to one that is not well signed.

        Raises what ``read()`` may have raised.
        """

    def write_result(self, incoming: Incoming, value: Any) -> bytes:
        """The reply that carries *value*. Raises EnvelopeError: it cannot be said."""

    def write_fault(self, incoming: Incoming, fault: Fault) -> bytes | None:
        """The reply that tells of *fault*; None if the caller is not told."""


class Version2:
    """The signed envelope of docs/wire-format."""

    def __init__(self, config: Configuration, keyring: Keyring):
        self._config = config
        self._keyring = keyring
        self.clock = SteadyClock(config.clock_skew)

    def read(self, delivery: Delivery) -> Incoming:
        if delivery.flaw is not None:
            raise flawed(delivery.flaw)
        try:
            envelope = decode_envelope(delivery.body, self._config.max_envelope_bytes)
        except EnvelopeError as error:
            raise Refused(error) from None
        reply_to = _direct_address(delivery)
        marks = delivery.headers
        stamps = read_stamps(self._keyring, delivery.body, marks) if marks else UNSTAMPED
        passed = stamps.passed
        try:
            if passed is None:
                self._keyring.verify_envelope(envelope)
        except EnvelopeError as error:
            # A stranger is answered over direct reply-to only, so that it cannot make us write to any queue; and
            # unsigned: it may have put another caller's id and token on its forgery, to get a signed refusal for them.
            fault = Fault("refused", f"{error.reason}: {error.detail}")
            reply = encode_reply(Reply(envelope.id, UNSIGNED, FAULT, b"", fault))
            raise Refused(error, reply, reply_to) from None
        if envelope.node != self._config.node_name:
            text = f"sent to {envelope.node!r}, but this is {self._config.node_name!r}"
            # No answer: signed, it would tell a caller whose call was copied here that it was not run.
            raise Refused(EnvelopeError("wrong-node", text))
        now_ms = int(time.time() * 1000)
        try:
            sealed = envelope if passed is None else replace(envelope, sent_ms=passed.made_ms)
            check_fresh(sealed, now_ms, self._config.clock_skew, self._config.token_max_age)
        except EnvelopeError as error:
            incoming = self._incoming(envelope, stamps, reply_to, now_ms)
            raise self._refused(error, envelope, reply_to, incoming) from None
        return self._incoming(envelope, stamps, reply_to, now_ms)

    def write_unread(self, delivery: Delivery, fault: Fault) -> tuple[bytes | None, str]:
        envelope = decode_envelope(delivery.body, self._config.max_envelope_bytes)
        self._keyring.verify_envelope(envelope)
        if envelope.node != self._config.node_name or envelope.kind is not CALL:
            return None, ""
        reply = self._write_fault(envelope.id, envelope.token, envelope.attempt, fault)
        return reply, _direct_address(delivery) if envelope.reply == DIRECT_REPLY_TO else ""

    def write_result(self, incoming: Incoming, value: Any) -> bytes:
        message = encode_json(value)
        token = self._keyring.sign_reply(incoming.token, incoming.given_id, OK, message, None)
        body = write_answer(incoming.given_id, token, message, incoming.attempt)
        if len(body) > self._config.max_envelope_bytes:
            limit = (
                f"the result is {len(body)} bytes, where max_envelope_bytes allows {self._config.max_envelope_bytes}"
            )
            raise EnvelopeError("oversized", limit)
        return body

    def write_fault(self, incoming: Incoming, fault: Fault) -> bytes:
        return self._write_fault(incoming.given_id, incoming.token, incoming.attempt, fault)

    def _write_fault(self, id: str, request_token: str, attempt: int, fault: Fault) -> bytes:
        if fault.type == EXPIRED:
            fault = replace(fault, clock_ms=self.clock.now_ms(int(time.time() * 1000)))
        token = self._keyring.sign_reply(request_token, id, FAULT, b"", fault)
        return encode_reply(Reply(id, token, FAULT, b"", fault, attempt))

    def _refused(self, error: EnvelopeError, envelope: Envelope, reply_to: str, incoming: Incoming) -> Refused:
        fault = Fault("refused", f"{error.reason}: {error.detail}")
        return Refused(
            error, self._write_fault(envelope.id, envelope.token, envelope.attempt, fault), reply_to, incoming
        )

    def _incoming(self, envelope: Envelope, stamps: Stamps, reply_to: str, now_ms: int) -> Incoming:
        passed = stamps.passed
        sent_ms = envelope.sent_ms if passed is None else passed.made_ms
        if envelope.kind is MESSAGE:
            good_s = None
            expires_at = sent_ms / 1000 + self._config.token_max_age + self._config.clock_skew
        else:
            clock = self.clock
            good_s = remaining_s(envelope.sent_ms, envelope.ttl_ms, clock.now_ms(now_ms), clock.stretch)
            expires_at = (envelope.sent_ms + envelope.ttl_ms) / 1000 + self._config.clock_skew
        # By position: names cost a tenth of a microsecond each.
        return Incoming(
            envelope.id if passed is None else passed.id,
            envelope.kind,
            envelope.category,
            envelope.service,
            envelope.token,
            VERSION,
            envelope.params,
            sent_ms,
            good_s,
            expires_at,
            reply_to if envelope.reply == DIRECT_REPLY_TO else "",
            envelope.id,
            envelope.attempt,
            False,
            stamps.wait.due_ms or envelope.due_ms,
            stamps,
        )


def _direct_address(delivery: Delivery) -> str:
    """The caller's direct reply-to address, or "": replies go nowhere else."""
    reply_to = delivery.reply_to or ""
    return reply_to if reply_to.startswith(_DIRECT_PREFIX) else ""
