"""ProtocolV1: the envelope of py-servicebus 2.x, for both sides; imported with ``compat: true`` alone."""

from __future__ import annotations

import hashlib
import itertools
import os
import time
from collections.abc import Sequence
from typing import Any
from zoneinfo import ZoneInfo

from servicebus._secret import ENCRYPTED, SecretText
from servicebus.compat.envelope import (
    OldEvent,
    OldReply,
    decode_event,
    decode_reply,
    encode_event,
    encode_reply,
    is_old_event,
)
from servicebus.compat.names import PING, PONG, is_own_queue, node_queue
from servicebus.compat.texts import BAD_TOKEN, fault_from_text, fault_to_text, result_from_text, result_to_text
from servicebus.compat.tokens import DailyTokens
from servicebus.configuration import Configuration
from servicebus.errors import EnvelopeError, SignatureError
from servicebus.policy.clocks import check_fresh
from servicebus.protocol.encryption import Encryption, encryption_of
from servicebus.protocol.interface import (
    AgentProtocol,
    Exchange,
    Incoming,
    OutgoingPublish,
    OutgoingRequest,
    Pong,
    RequestRefused,
    flawed,
    oversized,
)
from servicebus.transport.interface import Delivery
from servicebus.wire.envelope import CALL, CONTROL, FAULT, MESSAGE, OK, Reply, make_id
from servicebus.wire.fault import REFUSED, UNKNOWN_SERVICE, Fault
from servicebus.wire.signing import Keyring
from servicebus.wire.stamps import RequeueTicket, Stamps, read_stamps
from servicebus.wire.xmlcodec import decode_envelope, decode_json

_REMEMBERED_S = 3600.0
"""Time for a redelivery. A replay cannot be told from a new call in this version, however long it is remembered."""


class ProtocolV1:
    """Events and texts. What 2.x answers is answered in its words.

    Nothing is signed: a Sender believes a reply because it came to an address of its own.
    """

    def __init__(self, config: Configuration):
        self.exchange = Exchange(config.compat_exchange_name, is_durable=False)
        self._config = config
        zone = ZoneInfo(config.compat_time_zone) if config.compat_time_zone else None
        self._tokens = DailyTokens(config.secrets, zone)
        self._keyring = Keyring(config.secrets)
        self._max_bytes = config.max_envelope_bytes
        self._encryption = encryption_of(config)
        self._incarnation = os.urandom(8).hex()
        self._count = itertools.count(1)

    subscription = ""

    def __repr__(self) -> str:
        return f"<ProtocolV1 node {self._config.node_name}>"

    # -- the Sender's side ---------------------------------------------------------------------------------------------

    def encode_request(self, request: OutgoingRequest) -> OutgoingPublish:
        """Raises EnvelopeError: version 1 cannot carry it."""
        if request.stream:
            raise EnvelopeError("unencodable", "version 1, which the node speaks, has no streams")
        if request.due_ms is not None and request.due_ms > time.time() * 1000:
            raise EnvelopeError("unencodable", f"node {request.address.node} is of version 2.x, which knows no delay")
        body = PING if request.kind is CONTROL else self._event(request)
        return OutgoingPublish(self.exchange.name, node_queue(request.address.node), body)

    def decode_reply(self, request: OutgoingRequest, body: bytes) -> Reply:
        if request.kind is CONTROL:
            self.decode_pong(request.id, "", body)
            return Reply(request.id, "", OK, body)
        text = decode_reply(body, self._max_bytes).text
        fault = None
        if self._config.compat_in_band_errors:
            fault = fault_from_text(text, request.address.category, request.address.name)
        if fault is not None:
            return Reply(request.id, "", FAULT, b"", fault, request.sent_as)
        return Reply(request.id, "", OK, text.encode())

    def decode_result(self, message: bytes) -> Any:
        text = message.decode()
        return result_from_text(text) if self._config.compat_result == "value" else text

    def encode_ping(
        self, node: str, wire_id: str, timeout_s: float, calls: Sequence[str]
    ) -> tuple[str, OutgoingPublish]:
        return "", OutgoingPublish(self.exchange.name, node_queue(node), PING)

    def decode_pong(self, wire_id: str, token: str, body: bytes) -> Pong:
        if body != PONG:
            raise EnvelopeError("malformed", f"{body[:20]!r} is no pong")
        return Pong(takes_calls=True)

    def encode_cancel(self, node: str, cancelled_id: str, wire_id: str) -> tuple[OutgoingPublish, float] | None:
        return None

    def _event(self, request: OutgoingRequest) -> bytes:
        # An outbox keeps messages as version 2 has them.
        params = request.params or decode_envelope(request.body, len(request.body)).params
        is_encrypted = self._encryption is not None and self._encryption.encrypts(request)
        if is_encrypted or type(params) is SecretText or params.startswith(ENCRYPTED):
            raise EnvelopeError(
                "unencodable", f"node {request.address.node} is of version 2.x, which has no encryption"
            )
        token = self._tokens.make(time.time())
        address = request.address
        body = encode_event(OldEvent(str(request.event_id), token, address.category, address.name, params))
        request.measured(len(body))
        if request.size > self._max_bytes:
            raise oversized(request.size, self._max_bytes)
        return body

    # -- the agent's side ----------------------------------------------------------------------------------------------

    def decode_request(self, delivery: Delivery) -> Incoming:
        """For the I/O thread. Raises RequestRefused."""
        if delivery.flaw is not None:
            raise flawed(delivery.flaw)
        reply_to = delivery.reply_to or ""
        if reply_to and not is_own_queue(reply_to):
            raise RequestRefused(
                EnvelopeError("malformed", f"reply_to {reply_to!r} is no queue that a sender makes for itself")
            )
        try:
            event = decode_event(delivery.body, self._max_bytes)
        except EnvelopeError as error:
            fault = Fault(REFUSED, f"{error.reason}: {error.detail}")
            raise RequestRefused(error, self._fault_text("", fault, "", ""), reply_to) from None
        now = time.time()
        stamps = read_stamps(self._keyring, delivery.body, delivery.headers)
        if stamps.ticket is not None:
            self._check_fresh(stamps.ticket, now)
        elif not self._tokens.accepts(event.token, now):
            refusal = SignatureError("not the token of yesterday, today or tomorrow; do secret_token and clocks agree?")
            raise RequestRefused(refusal, encode_reply(OldReply(event.id, BAD_TOKEN)) if reply_to else None, reply_to)
        if self._encryption is not None:
            self._check_plain(self._encryption, event, reply_to)
        return self._incoming(event, delivery, stamps, now)

    def _check_plain(self, encryption: Encryption, event: OldEvent, reply_to: str) -> None:
        """Refuse what would have to be encrypted, which this version cannot. Raises RequestRefused."""
        try:
            encryption.check(f"{self._config.node_name}.{event.category}.{event.service}")
        except EnvelopeError as error:
            fault = Fault(REFUSED, f"{error.reason}: {error.detail}")
            reply = self._fault_text(event.id, fault, event.category, event.service) if reply_to else None
            raise RequestRefused(error, reply, reply_to) from None

    def denial(self, incoming: Incoming) -> Fault | None:
        """It knows no callers."""

    def encode_fault_unread(self, delivery: Delivery, fault: Fault) -> tuple[bytes | None, str]:
        reply_to = delivery.reply_to or ""
        event = decode_event(delivery.body, self._max_bytes)
        if not is_own_queue(reply_to) or not self._tokens.accepts(event.token, time.time()):
            return None, ""
        return self._fault_text(event.id, fault, event.category, event.service), reply_to

    def encode_result(self, incoming: Incoming, value: Any) -> bytes:
        text = result_to_text(value, self._config.compat_reply)
        body = encode_reply(OldReply(incoming.given_id, text))
        if len(body) > self._max_bytes:
            raise oversized(len(body), self._max_bytes, "the result is ")
        return body

    def encode_text(self, incoming: Incoming, text: bytes) -> bytes:
        if type(text) is SecretText:
            raise EnvelopeError("unencodable", "a Secret only travels encrypted, which version 1 cannot be")
        return self.encode_result(incoming, decode_json(text))

    def encode_fault(self, incoming: Incoming, fault: Fault) -> bytes | None:
        return self._fault_text(incoming.given_id, fault, incoming.category, incoming.service)

    def _check_fresh(self, ticket: RequeueTicket, now: float) -> None:
        try:
            check_fresh(ticket.made_ms, self._config.token_max_age, int(now * 1000), self._config.clock_skew)
        except EnvelopeError as error:
            raise RequestRefused(error) from None

    def _fault_text(self, id: str, fault: Fault, category: str, service: str) -> bytes | None:
        """None where 2.x leaves its caller without an answer, and the configuration wants the same."""
        if fault.type != UNKNOWN_SERVICE and not self._config.compat_in_band_errors:
            return None
        return encode_reply(OldReply(id, fault_to_text(fault, category, service)))

    def _incoming(self, event: OldEvent, delivery: Delivery, stamps: Stamps, now: float) -> Incoming:
        ticket = stamps.ticket
        return Incoming(
            id=self._unique_id(event, delivery) if ticket is None else ticket.id,
            kind=CALL if delivery.reply_to else MESSAGE,
            category=event.category,
            service=event.service,
            key=f"{event.category}.{event.service}",
            token=event.token,
            version=event.version,
            raw_params=event.params,
            sent_ms=0,
            remaining_s=None,  # this version does not carry the caller's timeout
            expires_at=now + _REMEMBERED_S if ticket is None else self._ticket_expires_at(ticket),
            reply_to=delivery.reply_to or "",
            given_id=event.id,
            is_patient=True,
            due_ms=stamps.wait.due_ms,
            stamps=stamps,
        )

    def _ticket_expires_at(self, ticket: RequeueTicket) -> float:
        return ticket.made_ms / 1000 + self._config.token_max_age + self._config.clock_skew

    def _unique_id(self, event: OldEvent, delivery: Delivery) -> str:
        """Senders of 2.x count from 1 in each process, so their ids are not unique.

        A call is known by where its answer goes and how that is correlated, so that one which comes again after a
        reconnect is not run twice. A message is known by nothing: that one is.
        """
        if not delivery.reply_to:
            return make_id(self._incarnation, next(self._count))
        known_by = "\0".join((delivery.reply_to, delivery.correlation_id or "", event.id))
        return make_id(hashlib.sha256(known_by.encode("utf-8", "surrogatepass")).hexdigest()[:16], 1)


class EitherProtocol:
    """For the node's queue of messages: those of version 1 are postponed into the same queue as the others."""

    subscription = ""

    def __init__(self, newest: AgentProtocol, old: ProtocolV1):
        self._newest = newest
        self._old = old

    def decode_request(self, delivery: Delivery) -> Incoming:
        return (self._old if is_old_event(delivery.body) else self._newest).decode_request(delivery)

    def denial(self, incoming: Incoming) -> Fault | None:
        return self._newest.denial(incoming)

    def encode_fault_unread(self, delivery: Delivery, fault: Fault) -> tuple[bytes | None, str]:
        return self._newest.encode_fault_unread(delivery, fault)

    def encode_result(self, incoming: Incoming, value: Any) -> bytes:
        return self._newest.encode_result(incoming, value)

    def encode_text(self, incoming: Incoming, text: bytes) -> bytes:
        return self._newest.encode_text(incoming, text)

    def encode_fault(self, incoming: Incoming, fault: Fault) -> bytes | None:
        return self._newest.encode_fault(incoming, fault)
