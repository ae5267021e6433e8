"""Version1: the envelope of py-servicebus 2.x as an agent speaks it."""

from __future__ import annotations

import hashlib
import itertools
import os
import time
from typing import Any
from zoneinfo import ZoneInfo

from servicebus.compat.envelope import OldEvent, OldReply, decode_event, encode_reply, is_old_event
from servicebus.compat.names import is_own_queue
from servicebus.compat.texts import BAD_TOKEN, fault_to_text, result_to_text
from servicebus.compat.tokens import DailyTokens
from servicebus.configuration import Configuration
from servicebus.errors import EnvelopeError, SignatureError
from servicebus.runtime.dialect import Dialect, Refused, flawed
from servicebus.runtime.job import Incoming
from servicebus.transport.interface import Delivery
from servicebus.wire.envelope import Kind, make_id
from servicebus.wire.fault import REFUSED, UNKNOWN_SERVICE, Fault
from servicebus.wire.signing import Keyring, check_age
from servicebus.wire.stamps import Pass, Stamps, read_stamps

_REMEMBERED_S = 3600.0
"""Time for a redelivery. A replay cannot be told from a new call in this version, however long one remembers."""


class Version1:
    """Reads events, answers with texts. Whatever 2.x answers is answered in its words."""

    def __init__(self, config: Configuration):
        self._config = config
        zone = ZoneInfo(config.compat_time_zone) if config.compat_time_zone else None
        self._tokens = DailyTokens(config.secrets, zone)
        self._keyring = Keyring(config.secrets)
        self._incarnation = os.urandom(8).hex()
        self._count = itertools.count(1)

    def __repr__(self) -> str:
        return f"<Version1 node {self._config.node_name}>"

    def read(self, delivery: Delivery) -> Incoming:
        if delivery.flaw is not None:
            raise flawed(delivery.flaw)
        reply_to = delivery.reply_to or ""
        if reply_to and not is_own_queue(reply_to):
            raise Refused(
                EnvelopeError("malformed", f"reply_to {reply_to!r} is no queue that a sender makes for itself")
            )
        try:
            event = decode_event(delivery.body, self._config.max_envelope_bytes)
        except EnvelopeError as error:
            fault = Fault(REFUSED, f"{error.reason}: {error.detail}")
            raise Refused(error, self._fault_text("", fault, "", ""), reply_to) from None
        now = time.time()
        stamps = read_stamps(self._keyring, delivery.body, delivery.headers)
        if stamps.passed is not None:
            self._check_age(stamps.passed, now)
        elif not self._tokens.accepts(event.token, now):
            refusal = SignatureError("not the token of yesterday, today or tomorrow; do secret_token and clocks agree?")
            raise Refused(refusal, encode_reply(OldReply(event.id, BAD_TOKEN)) if reply_to else None, reply_to)
        return self._incoming(event, delivery, stamps, now)

    def write_unread(self, delivery: Delivery, fault: Fault) -> tuple[bytes | None, str]:
        reply_to = delivery.reply_to or ""
        event = decode_event(delivery.body, self._config.max_envelope_bytes)
        if not is_own_queue(reply_to) or not self._tokens.accepts(event.token, time.time()):
            return None, ""
        return self._fault_text(event.id, fault, event.category, event.service), reply_to

    def _check_age(self, passed: Pass, now: float) -> None:
        try:
            check_age(passed.made_ms, self._config.token_max_age, int(now * 1000), self._config.clock_skew)
        except EnvelopeError as error:
            raise Refused(error) from None

    def write_result(self, incoming: Incoming, value: Any) -> bytes:
        text = result_to_text(value, self._config.compat_reply)
        body = encode_reply(OldReply(incoming.given_id, text))
        if len(body) > self._config.max_envelope_bytes:
            raise EnvelopeError("oversized", f"the result is {len(body)} bytes")
        return body

    def write_fault(self, incoming: Incoming, fault: Fault) -> bytes | None:
        return self._fault_text(incoming.given_id, fault, incoming.category, incoming.service)

    def _fault_text(self, id: str, fault: Fault, category: str, service: str) -> bytes | None:
        """None where 2.x leaves its caller without an answer, and the configuration wants the same."""
        if fault.type != UNKNOWN_SERVICE and not self._config.compat_in_band_errors:
            return None
        return encode_reply(OldReply(id, fault_to_text(fault, category, service)))

    def _incoming(self, event: OldEvent, delivery: Delivery, stamps: Stamps, now: float) -> Incoming:
        passed = stamps.passed
        return Incoming(
            id=self._unique_id(event, delivery) if passed is None else passed.id,
            kind=Kind.CALL if delivery.reply_to else Kind.MESSAGE,
            category=event.category,
            service=event.service,
            token=event.token,
            version=event.version,
            raw_params=event.params,
            sent_ms=0,
            remaining_s=None,  # the caller's timeout is not told
            expires_at=now + _REMEMBERED_S if passed is None else self._pass_expires_at(passed),
            reply_to=delivery.reply_to or "",
            given_id=event.id,
            is_patient=True,
            due_ms=stamps.wait.due_ms,
            stamps=stamps,
        )

    def _pass_expires_at(self, passed: Pass) -> float:
        return passed.made_ms / 1000 + self._config.token_max_age + self._config.clock_skew

    def _unique_id(self, event: OldEvent, delivery: Delivery) -> str:
        """Senders of 2.x count from 1 in each process, so their ids say nothing.

        A call is known by where its answer goes and how that is correlated, so that one which comes again after a
        reconnect is not run twice. A message is known by nothing: that one is.
        """
        if not delivery.reply_to:
            return make_id(self._incarnation, next(self._count))
        known_by = "\0".join((delivery.reply_to, delivery.correlation_id or "", event.id))
        return make_id(hashlib.sha256(known_by.encode("utf-8", "surrogatepass")).hexdigest()[:16], 1)


class EitherVersion:
    """For the queue of messages: those of version 1 step aside into the same queue as the others."""

    def __init__(self, newest: Dialect, old: Version1):
        self._newest = newest
        self._old = old

    def read(self, delivery: Delivery) -> Incoming:
        return (self._old if is_old_event(delivery.body) else self._newest).read(delivery)

    def write_unread(self, delivery: Delivery, fault: Fault) -> tuple[bytes | None, str]:
        return self._newest.write_unread(delivery, fault)

    def write_result(self, incoming: Incoming, value: Any) -> bytes:
        return self._newest.write_result(incoming, value)

    def write_fault(self, incoming: Incoming, fault: Fault) -> bytes | None:
        return self._newest.write_fault(incoming, fault)
