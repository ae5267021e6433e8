"""Version: one version of the envelope as a Sender speaks it on a path. Version 2 is here, version 1 in compat_path."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from servicebus.client.seal import seal, seal_again
from servicebus.configuration import Configuration
from servicebus.errors import EnvelopeError
from servicebus.policy.retry_schedule import tier_for
from servicebus.wire.address import Address, control_queue, delay_queue, messages_queue, rpc_queue
from servicebus.wire.envelope import Kind, Reply
from servicebus.wire.signing import Keyring
from servicebus.wire.xmlcodec import decode_json, decode_reply, encode_json

if TYPE_CHECKING:
    from servicebus.client.request import Request

_CANCEL_TTL_S = 5.0
_QUEUES = {Kind.CALL: rpc_queue, Kind.MESSAGE: messages_queue, Kind.CONTROL: control_queue}


@dataclass(frozen=True, slots=True)
class Exchange:
    """What has to be declared before anything can be published."""

    name: str
    is_durable: bool


class OutgoingPublish(NamedTuple):
    """What is published, and where to. A tuple: one is made for every call."""

    exchange: str
    routing_key: str
    body: bytes
    headers: Mapping[str, Any] | None = None


class Pong(NamedTuple):
    """What an agent says of itself."""

    takes_calls: bool
    """False: it is stopping."""
    queue_age_s: float | None = None
    """For how long the node's queue of calls has been there, if the agent's worker has made it."""


class Version(Protocol):
    """How requests and pings are written and their answers read. For the engine's thread."""

    @property
    def exchange(self) -> Exchange: ...

    def outgoing(self, request: Request) -> OutgoingPublish: ...

    def read(self, request: Request, body: bytes) -> Reply:
        """The reply to *request*, believed. Raises EnvelopeError: it cannot be."""

    def value(self, message: bytes) -> Any:
        """The result in a reply's message. Raises EnvelopeError."""

    def ping(self, node: str, wire_id: str, timeout_s: float) -> tuple[str, OutgoingPublish]:
        """A ping, and the token that its pong is checked with."""

    def read_pong(self, wire_id: str, token: str, body: bytes) -> Pong:
        """What the agent says. Raises EnvelopeError: *body* is no pong to be believed."""

    def cancel(self, node: str, cancelled_id: str, wire_id: str) -> tuple[OutgoingPublish, float] | None:
        """Tells the node that nobody waits for a call any more, and for how many seconds that is worth telling.

        None: it cannot be said.
        """


class Version2:
    """The signed envelope of docs/wire-format."""

    def __init__(self, config: Configuration, keyring: Keyring):
        self.exchange = Exchange(config.exchange_name, is_durable=True)
        self._keyring = keyring
        self._max_bytes = config.max_envelope_bytes

    def __repr__(self) -> str:
        return "<Version2>"

    def outgoing(self, request: Request) -> OutgoingPublish:
        if request.post is not None and request.post.due_ms is not None:
            delayed = self._delayed(request, request.post.due_ms)
            if delayed is not None:
                return delayed
        body = request.body
        if request.attempt > 1 or request.shift_ms:
            token, body = seal_again(self._keyring, body, request.attempt, request.deadline, request.shift_ms)
            request.signed_again(token)
        return OutgoingPublish(self.exchange.name, _QUEUES[request.kind](request.address.node), body)

    def read(self, request: Request, body: bytes) -> Reply:
        reply = decode_reply(body, self._max_bytes)
        self._keyring.verify_reply(reply, request.token_of(reply.attempt))
        if reply.id != request.id:
            raise EnvelopeError("signature", "the reply belongs to another request")
        return reply

    def value(self, message: bytes) -> Any:
        return decode_json(message)

    def ping(self, node: str, wire_id: str, timeout_s: float) -> tuple[str, OutgoingPublish]:
        address = Address(node, "servicebus", "ping")
        token, body = seal(self._keyring, wire_id, address, Kind.CONTROL, timeout_s, b"null")
        return token, OutgoingPublish(self.exchange.name, control_queue(node), body)

    def read_pong(self, wire_id: str, token: str, body: bytes) -> Pong:
        reply = decode_reply(body, self._max_bytes)
        self._keyring.verify_reply(reply, token)
        if reply.id != wire_id:
            raise EnvelopeError("signature", "the pong belongs to another ping")
        if reply.fault is not None:
            raise EnvelopeError("malformed", f"the pong is {reply.fault}")
        says = decode_json(reply.message)
        if not isinstance(says, dict):
            return Pong(takes_calls=True)
        age_s = says.get("queue_age")
        return Pong(not says.get("stopping"), age_s if isinstance(age_s, (int, float)) else None)

    def cancel(self, node: str, cancelled_id: str, wire_id: str) -> tuple[OutgoingPublish, float] | None:
        address = Address(node, "servicebus", "cancel")
        _, body = seal(self._keyring, wire_id, address, Kind.CONTROL, _CANCEL_TTL_S, encode_json([cancelled_id]))
        return OutgoingPublish(self.exchange.name, control_queue(node), body), _CANCEL_TTL_S

    @staticmethod
    def _delayed(request: Request, due_ms: int) -> OutgoingPublish | None:
        """Straight into a queue for those that wait, past the exchange; None if it need not wait any more.

        The envelope says when it is due: in any queue of the node it is not executed before.
        """
        remaining_s = due_ms / 1000 - time.time()
        if remaining_s <= 0:
            return None
        queue = delay_queue(request.address.node, tier_for(remaining_s))
        return OutgoingPublish("", queue, request.body)
