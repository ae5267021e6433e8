"""ProtocolV2: the signed envelope of docs/wire-format, for both sides."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from servicebus._context import decode_context
from servicebus._secret import ENCRYPTED, SecretText
from servicebus.configuration import Configuration
from servicebus.errors import EnvelopeError
from servicebus.policy.clocks import SteadyClock, check_fresh, remaining_s
from servicebus.policy.retry_schedule import tier_for
from servicebus.protocol.callers import CallerChecks, set_caller
from servicebus.protocol.control_requests import UNSIGNED, ControlEncoder
from servicebus.protocol.encryption import Encryption, encryption_of, needed
from servicebus.protocol.interface import (
    Exchange,
    Incoming,
    OutgoingPublish,
    OutgoingRequest,
    RequestRefused,
    UnsignedRefusal,
    flawed,
    oversized,
)
from servicebus.transport.interface import Delivery
from servicebus.wire.address import control_queue, delay_queue, messages_queue, rpc_queue
from servicebus.wire.envelope import (
    CALL,
    CONTROL,
    DIRECT_REPLY_TO,
    EVENT,
    FAULT,
    MESSAGE,
    OK,
    VERSION,
    Envelope,
    Reply,
)
from servicebus.wire.events import EVENTS, events_exchange
from servicebus.wire.fault import EXPIRED, REFUSED, Fault
from servicebus.wire.jsontext import decode_params, encode_params
from servicebus.wire.signing import Keyring
from servicebus.wire.stamps import UNSTAMPED, Stamps, read_stamps
from servicebus.wire.streams import Chunk, decode_chunk, read_terms, verify_chunk, write_chunk
from servicebus.wire.xmlcodec import decode_envelope, decode_reply, encode_reply, write_answer, write_event

_QUEUES = {CALL: rpc_queue, MESSAGE: messages_queue, CONTROL: control_queue}
_DIRECT_PREFIX = DIRECT_REPLY_TO + "."


class ProtocolV2(CallerChecks, ControlEncoder):
    """Signs and verifies with *keyring*. For any thread, but ``decode_request()``.

    Args:
        also: the other names under which the agent's node is asked.
    """

    subscription = ""

    def __init__(self, config: Configuration, keyring: Keyring, also: tuple[str, ...] = ()):
        self.exchange = Exchange(config.exchange_name, is_durable=True)
        self.clock = SteadyClock(config.clock_skew)
        """By which an agent judges the deadlines of calls."""
        self._events = events_exchange(config.exchange_name)
        self._nodes = (config.node_name, *also)
        self._config = config
        self._keyring = keyring
        self._max_bytes = config.max_envelope_bytes
        self._encryption: Encryption | None = encryption_of(config)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} node {self._config.node_name}>"

    @property
    def has_encryption(self) -> bool:
        """Whether there are keys to encrypt with."""
        return self._encryption is not None

    # -- the Sender's side ---------------------------------------------------------------------------------------------

    def sign_and_encode(self, request: OutgoingRequest) -> None:
        """Make the ``body`` of *request*: its first attempt, or any attempt of a message. For any thread.

        Raises:
            EnvelopeError: ``oversized`` or ``unencodable``.
        """
        id, address, kind, params = request.id, request.address, request.kind, request.params
        node, category, name = address.node, address.category, address.name
        sent, ttl, contract, context = request.sent_ms, request.ttl_ms, request.contract, request.context
        reply, due_ms = DIRECT_REPLY_TO, 0
        if kind is MESSAGE:
            reply, due_ms = "", request.due_ms or 0
            if node == EVENTS:
                node, kind = "", EVENT
        sign = self._keyring.sign_event
        more = (1, due_ms, contract, context, request.stream)
        if self._encryption is not None or type(params) is SecretText:
            fields = id, node, category, name, kind, sent, ttl, reply
            params = needed(self._encryption).params_of(request, self._keyring.key_id, fields, more)
        token = sign(id, node, category, name, kind, sent, ttl, reply, params, more)
        body = write_event(id, node, category, name, kind, sent, ttl, reply, params, token, more)
        request.token, request.body, request.size = token, body, len(body)
        if len(body) > self._max_bytes:
            raise oversized(len(body), self._max_bytes)

    def encode_request(self, request: OutgoingRequest) -> OutgoingPublish:
        node = request.address.node
        if request.attempt > 1 or request.shift_ms:
            return OutgoingPublish(self.exchange.name, _QUEUES[request.kind](node), self._signed_again(request))
        if not request.body:
            self.sign_and_encode(request)
        if node == EVENTS:
            return OutgoingPublish(self._events, request.address.name, request.body)
        if request.kind is MESSAGE and request.due_ms is not None:
            wait_s = request.due_ms / 1000 - time.time()
            if wait_s > 0:
                # Straight into a delay queue, past the exchange. The envelope says when it is due: in any queue of the
                # node it is not executed before.
                return OutgoingPublish("", delay_queue(node, tier_for(wait_s)), request.body)
        return OutgoingPublish(self.exchange.name, _QUEUES[request.kind](node), request.body)

    def decode_reply(self, request: OutgoingRequest, body: bytes) -> Reply:
        reply = decode_reply(body, self._max_bytes)
        if reply.token == UNSIGNED and reply.fault is not None:
            raise UnsignedRefusal(self._keyring.key_id)
        is_last = reply.attempt == request.attempt
        token = request.token if is_last else request.token_of(reply.attempt)
        self._keyring.verify_reply(reply, token)
        if reply.id != request.id:
            raise EnvelopeError("signature", "the reply belongs to another request")
        return reply if self._encryption is None else self._encryption.reply_to(request, token, reply)

    decode_result = staticmethod(decode_params)

    def decode_chunk(self, request: OutgoingRequest, body: bytes) -> Chunk:
        """The verified chunk of the stream that *request* asks for. Raises EnvelopeError."""
        chunk = decode_chunk(body, self._max_bytes)
        token = request.token_of(chunk.attempt)
        verify_chunk(self._keyring, token, chunk)
        if chunk.id != request.id:
            raise EnvelopeError("signature", "the chunk belongs to another request")
        return chunk if self._encryption is None else self._encryption.chunk_in_plain(request, token, chunk)

    def decode_log_chunk(self, wire_id: str, token: str, body: bytes) -> Chunk:
        """The chunk of log records that answers the tail *wire_id*. Raises EnvelopeError."""
        chunk = decode_chunk(body, self._max_bytes)
        verify_chunk(self._keyring, token, chunk)
        if chunk.id != wire_id:
            raise EnvelopeError("signature", "the chunk belongs to another request")
        if chunk.items.startswith(ENCRYPTED):
            chunk = needed(self._encryption, "log records come encrypted").items_in_plain(token, chunk)
        return chunk

    def _signed_again(self, request: OutgoingRequest) -> bytes:
        """A later attempt of a call, or one that is dated ``shift_ms`` ahead of our clock.

        It ends when the first does, even if our clock was set since then: were it good for longer, the node might have
        forgotten the id before.
        """
        address, attempt = request.address, request.attempt
        ttl_ms = max(1, int((request.deadline - time.monotonic()) * 1000))
        sent_ms = max(0, request.sent_ms + request.ttl_ms - ttl_ms + request.shift_ms)
        names = (address.node, address.category, address.name, request.kind)
        fields = (request.id, *names, sent_ms, ttl_ms, DIRECT_REPLY_TO)
        more = (attempt, 0, request.contract, request.context, request.stream)
        params = request.params
        if self._encryption is not None or type(params) is SecretText:
            params = needed(self._encryption).params_of(request, self._keyring.key_id, fields, more)
        token = self._keyring.sign_event(*fields, params, more)
        body = write_event(*fields, params, token, more)
        if len(body) > self._max_bytes:
            raise oversized(len(body), self._max_bytes)
        request.signed_again(token)
        return body

    # -- the agent's side ----------------------------------------------------------------------------------------------

    def decode_request(self, delivery: Delivery) -> Incoming:
        """For the I/O thread. Raises RequestRefused."""
        envelope, stamps, reply_to, caller = self._verified(delivery)
        ticket, config, now_ms = stamps.ticket, self._config, int(time.time() * 1000)
        sent_ms = envelope.sent_ms if ticket is None else ticket.made_ms
        if envelope.kind is MESSAGE:
            left_s, good_s = None, config.token_max_age
        else:
            left_s = remaining_s(envelope.sent_ms, envelope.ttl_ms, self.clock.now_ms(now_ms), self.clock.stretch)
            good_s = envelope.ttl_ms / 1000
        incoming = Incoming(  # by position: names cost a tenth of a microsecond each
            envelope.id if ticket is None else ticket.id,
            envelope.kind,
            envelope.category,
            envelope.service,
            f"{envelope.category}.{envelope.service}",
            envelope.token,
            VERSION,
            envelope.params,
            sent_ms,
            left_s,
            sent_ms / 1000 + good_s + config.clock_skew,
            reply_to if envelope.reply == DIRECT_REPLY_TO else "",
            envelope.id,
            envelope.attempt,
            stamps.wait.due_ms or envelope.due_ms,
            stamps,
            envelope.contract,
            read_terms(envelope.stream) if envelope.stream else None,
        )
        if caller:
            set_caller(incoming, caller)
        try:
            if envelope.context:
                incoming.context = decode_context(envelope.context)
            check_fresh(sent_ms, good_s, now_ms, config.clock_skew)
            if self._encryption is not None:
                incoming.raw_params = self._encryption.params_in_plain(envelope)
        except EnvelopeError as error:
            raise self._refused(error, envelope, reply_to, incoming) from None
        return incoming

    def _verified(self, delivery: Delivery) -> tuple[Envelope, Stamps, str, str]:
        """The envelope, the stamps, where its reply goes ("" for nowhere), and its caller. Raises RequestRefused."""
        if delivery.flaw is not None:
            raise flawed(delivery.flaw)
        try:
            envelope = decode_envelope(delivery.body, self._max_bytes)
        except EnvelopeError as error:
            raise RequestRefused(error) from None
        reply_to = delivery.reply_to or ""
        if not reply_to.startswith(_DIRECT_PREFIX):
            reply_to = ""  # answers go nowhere else
        stamps = read_stamps(self._keyring, delivery.body, delivery.headers) if delivery.headers else UNSTAMPED
        verify = self._keyring.verify_envelope if stamps.ticket is None else self._caller_by_ticket
        try:
            caller = verify(envelope)
        except EnvelopeError as error:
            # A stranger is answered over direct reply-to only, so that it cannot make us write to any queue; and
            # unsigned: it may have put another caller's id and token on its forgery, to get a signed refusal for them.
            fault = Fault(REFUSED, f"{error.reason}: {error.detail}")
            reply = encode_reply(Reply(envelope.id, UNSIGNED, FAULT, b"", fault))
            raise RequestRefused(error, reply, reply_to) from None
        if envelope.node not in self._nodes:
            text = f"sent to {envelope.node!r}, but this is {self._config.node_name!r}"
            # No answer: signed, it would prove to a caller whose call was copied here that it was not run.
            if envelope.kind is EVENT:
                raise RequestRefused(EnvelopeError("wrong-queue", "an event in a queue for requests"))
            raise RequestRefused(EnvelopeError("wrong-node", text))
        return envelope, stamps, reply_to, caller

    def encode_fault_unread(self, delivery: Delivery, fault: Fault) -> tuple[bytes | None, str]:
        envelope = decode_envelope(delivery.body, self._max_bytes)
        self._keyring.verify_envelope(envelope)
        if envelope.node != self._config.node_name or envelope.kind is not CALL:
            return None, ""
        reply_to = delivery.reply_to or ""
        is_direct = envelope.reply == DIRECT_REPLY_TO and reply_to.startswith(_DIRECT_PREFIX)
        reply = self._encode_fault(envelope.id, envelope.token, envelope.attempt, fault)
        return reply, reply_to if is_direct else ""

    def encode_result(self, incoming: Incoming, value: Any) -> bytes:
        return self.encode_text(incoming, encode_params(value))

    def encode_text(self, incoming: Incoming, text: bytes) -> bytes:
        if type(incoming.raw_params) is SecretText or type(text) is SecretText:
            text = needed(self._encryption).message(incoming, text)
        token = self._keyring.sign_reply(incoming.token, incoming.given_id, OK, text, None)
        body = write_answer(incoming.given_id, token, text, incoming.attempt)
        if len(body) > self._max_bytes:
            raise oversized(len(body), self._max_bytes, "the result is ")
        return body

    def encode_chunk(
        self, incoming: Incoming, first: int, items: Sequence[bytes], queue: str, is_resumable: bool
    ) -> bytes:
        """Items of a stream, from number *first* on; *queue* is the worker's own."""
        text = b"[" + b",".join(items) + b"]"
        chunk = Chunk(incoming.given_id, incoming.attempt, first, len(items), queue, is_resumable, text)
        if type(incoming.raw_params) is SecretText or SecretText in map(type, items):
            chunk = needed(self._encryption).chunk(incoming, chunk)
        return write_chunk(self._keyring, incoming.token, chunk)

    def encode_fault(self, incoming: Incoming, fault: Fault) -> bytes:
        if self._encryption is not None and type(incoming.raw_params) is SecretText:
            fault = self._encryption.fault(incoming, fault)
        return self._encode_fault(incoming.given_id, incoming.token, incoming.attempt, fault)

    def _encode_fault(self, id: str, request_token: str, attempt: int, fault: Fault) -> bytes:
        if fault.type == EXPIRED:
            fault = replace(fault, clock_ms=self.clock.now_ms(int(time.time() * 1000)))
        token = self._keyring.sign_reply(request_token, id, FAULT, b"", fault)
        return encode_reply(Reply(id, token, FAULT, b"", fault, attempt))

    def _refused(self, error: EnvelopeError, envelope: Envelope, reply_to: str, incoming: Incoming) -> RequestRefused:
        fault = Fault(REFUSED, f"{error.reason}: {error.detail}")
        reply = self._encode_fault(envelope.id, envelope.token, envelope.attempt, fault)
        return RequestRefused(error, reply, reply_to, incoming)
