"""ControlEncoder: what a Sender asks agents itself: pings, discovery, cancellations and the credits of streams."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from servicebus.errors import EnvelopeError
from servicebus.protocol.discovery import DISCOVER, Answer, Question, read_answer
from servicebus.protocol.interface import Exchange, OutgoingPublish, Pong, UnsignedRefusal
from servicebus.protocol.tail import TAIL, TailQuestion
from servicebus.wire.address import DISCOVERY_KEY, EVERY_NODE, cancel_key, control_queue
from servicebus.wire.envelope import CONTROL, DIRECT_REPLY_TO, Reply
from servicebus.wire.fault import Fault
from servicebus.wire.signing import Keyring
from servicebus.wire.streams import CREDIT, Credit
from servicebus.wire.xmlcodec import decode_json, decode_reply, encode_json, write_event

__all__ = ["MOST_ASKED", "UNSIGNED", "ControlEncoder"]

UNSIGNED = "unsigned"
"""In place of a token: a hint for a sender that has another secret, never to be believed."""
MOST_ASKED = 200
"""A ping asks about so many calls at most: 5 KB."""
_CANCEL_TTL_S = 5.0
_CREDIT_TTL_S = 15.0


class ControlEncoder:
    """Base of version 2, the Sender's side. They are signed and never encrypted. For any thread."""

    exchange: Exchange
    _keyring: Keyring
    _max_bytes: int

    def encode_ping(
        self, node: str, wire_id: str, timeout_s: float, calls: Sequence[str]
    ) -> tuple[str, OutgoingPublish]:
        return self._control(wire_id, node, "ping", timeout_s, encode_json(list(calls)) if calls else b"null")

    def decode_pong(self, wire_id: str, token: str, body: bytes) -> Pong:
        state = self._decode_answer(wire_id, token, body)
        if not isinstance(state, dict):
            return Pong(takes_calls=True)
        age_s, answered = state.get("queue_age"), state.get("answered")
        return Pong(
            not state.get("stopping"),
            age_s if isinstance(age_s, (int, float)) else None,
            [id for id in answered if isinstance(id, str)] if isinstance(answered, list) else (),
        )

    def encode_discovery(self, wire_id: str, timeout_s: float, question: Question) -> tuple[str, OutgoingPublish]:
        """What asks all nodes, and the token that their answers are checked with."""
        params = encode_json(question.to_json())
        token, outgoing = self._control(wire_id, EVERY_NODE, DISCOVER, timeout_s, params)
        return token, outgoing._replace(routing_key=DISCOVERY_KEY)

    def decode_discovery(self, wire_id: str, token: str, body: bytes) -> Answer:
        """The answer of one worker of a node. Raises EnvelopeError."""
        return read_answer(self._decode_answer(wire_id, token, body))

    def encode_tail(self, wire_id: str, question: TailQuestion) -> tuple[str, OutgoingPublish]:
        """What asks all nodes for their log records, and the token that their chunks are checked with."""
        params = encode_json(question.to_json())
        token, outgoing = self._control(wire_id, EVERY_NODE, TAIL, question.lease_s, params)
        return token, outgoing._replace(routing_key=DISCOVERY_KEY)

    def decode_tail_refusal(self, wire_id: str, token: str, body: bytes) -> Fault:
        """Why a worker does not send its log records. Raises EnvelopeError."""
        fault = self._decode_reply(wire_id, token, body).fault
        if fault is None:
            raise EnvelopeError("malformed", "a tail is answered by chunks")
        return fault

    def _decode_answer(self, wire_id: str, token: str, body: bytes) -> Any:
        """What an agent says to a control request of the Sender itself. Raises EnvelopeError."""
        reply = self._decode_reply(wire_id, token, body)
        if reply.fault is not None:
            raise EnvelopeError("malformed", f"the answer is {reply.fault}")
        return decode_json(reply.message)

    def _decode_reply(self, wire_id: str, token: str, body: bytes) -> Reply:
        reply = decode_reply(body, self._max_bytes)
        if reply.token == UNSIGNED and reply.fault is not None:
            raise UnsignedRefusal(self._keyring.key_id)
        self._keyring.verify_reply(reply, token)
        if reply.id != wire_id:
            raise EnvelopeError("signature", "the answer belongs to another request")
        return reply

    def encode_cancel(self, node: str, cancelled_id: str, wire_id: str) -> tuple[OutgoingPublish, float] | None:
        _, cancel = self._control(wire_id, node, "cancel", _CANCEL_TTL_S, encode_json([cancelled_id]))
        return cancel._replace(routing_key=cancel_key(node)), _CANCEL_TTL_S

    def encode_credit(self, credit: Credit, queue: str, wire_id: str, node: str) -> tuple[OutgoingPublish, float]:
        """What lets a stream go on, to the worker whose own queue is *queue*; and for how many seconds it is good."""
        _, outgoing = self._control(wire_id, node, CREDIT, _CREDIT_TTL_S, encode_json(list(credit)))
        return outgoing._replace(routing_key=queue), _CREDIT_TTL_S

    def _control(self, id: str, node: str, name: str, timeout_s: float, params: bytes) -> tuple[str, OutgoingPublish]:
        """A control request of the Sender itself, and its token."""
        sent_ms, ttl_ms = int(time.time() * 1000), max(1, int(timeout_s * 1000))
        fields = (id, node, "servicebus", name, CONTROL, sent_ms, ttl_ms, DIRECT_REPLY_TO, params)
        token = self._keyring.sign_event(*fields)
        return token, OutgoingPublish(self.exchange.name, control_queue(node), write_event(*fields, token))
