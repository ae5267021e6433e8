"""PlainProtocol: how a worker reads the messages of other programs, and answers those that are calls.

To the rest of the worker such a message is a message to the service that consumes its queue, and one with ``reply_to``
is a call, if the service answers. Nothing of it is signed: whoever may publish to the queue is obeyed. What the node
itself adds (another attempt, a requeued dead letter) is stamped as with events, so that nobody can add to that.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from servicebus._plain import PlainMessage, PlainQueue, plain_key
from servicebus._secret import SecretText
from servicebus.configuration import BrokerHost, Configuration
from servicebus.errors import ConfigurationError, EnvelopeError
from servicebus.protocol.encryption import is_secret
from servicebus.protocol.interface import Incoming, PublishReply, RequestRefused, flawed
from servicebus.transport.interface import Delivery
from servicebus.transport.properties import plain_message
from servicebus.wire import headers
from servicebus.wire.envelope import CALL, MESSAGE, make_id
from servicebus.wire.events import event_queue
from servicebus.wire.fault import HIDDEN_TEXT, REFUSED, RESERVED, Fault
from servicebus.wire.fernet import FernetKeys
from servicebus.wire.jsontext import encode_json
from servicebus.wire.signing import Keyring
from servicebus.wire.stamps import UNSTAMPED, read_stamps

__all__ = ["PLAIN_COUNT", "ErrorReply", "PlainProtocol"]

PLAIN_COUNT = 1 << 62
"""In place of a Sender's count, of an id that is made of a message id: no Sender comes that far."""
_FORGOTTEN_S = 60.0
"""For how long the journal knows a run whose message has no id: it cannot come again under the same."""


def _fernet_keys(keys: list[str]) -> FernetKeys | None:
    """Raises ConfigurationError."""
    try:
        return FernetKeys(keys) if keys else None
    except (ImportError, ValueError) as error:
        raise ConfigurationError(str(error), key="hosts") from error


class ErrorReply(bytes):
    """The body of an answer that says what a service has raised."""


class PlainProtocol:
    """Of one queue on one broker; for the I/O thread, but for the encoding methods.

    Args:
        service: ``category.name`` of the service that consumes it.
        publish_reply: publishes an answer on the broker that the message came from.
        host: the broker; its ``fernet_keys`` decrypt fields.
        is_shared: read from the node's delay queues: only what a worker has stamped for this service belongs to it.
    """

    def __init__(
        self,
        config: Configuration,
        keyring: Keyring,
        service: str,
        queue: PlainQueue,
        publish_reply: PublishReply | None = None,
        *,
        host: BrokerHost | None = None,
        is_shared: bool = False,
    ):
        hosts = [*config.hosts, *config.connections] if host is None else [host]
        self._fernet = _fernet_keys([key.reveal() for each in hosts for key in each.fernet_keys])
        self.subscription = plain_key(service)
        self.queue = queue
        self._publish_reply = publish_reply
        self._category, _, self._service = service.partition(".")
        self._keyring = keyring
        self._stamped_for = event_queue(config.node_name, self.subscription)
        self._is_shared = is_shared
        # Not of the module: workers are forks, and would give different messages the same ids.
        self._incarnation, self._count = os.urandom(8).hex(), itertools.count(1)

    def __repr__(self) -> str:
        return f"<PlainProtocol of {self.subscription}: {self.queue.queue}>"

    def is_call(self, delivery: Delivery) -> bool:
        return self.queue.answers and bool(delivery.reply_to) and not self._is_shared

    def decode_request(self, delivery: Delivery) -> Incoming:
        """For the I/O thread. Raises RequestRefused."""
        if delivery.flaw is not None:
            raise flawed(delivery.flaw)
        stamps, now = UNSTAMPED, time.time()
        if self._is_shared:
            stamps = read_stamps(self._keyring, delivery.body, delivery.headers, self._stamped_for)
            if not stamps.wait.due_ms and stamps.ticket is None:
                text = f"no worker of the node has put this message of {self.subscription} here"
                raise RequestRefused(EnvelopeError("wrong-queue", text))
        is_call, ticket = self.is_call(delivery), stamps.ticket
        id, lives_s = (ticket.id, self.queue.remember_s) if ticket is not None else self._id_of(delivery)
        incoming = Incoming(
            id,
            CALL if is_call else MESSAGE,
            self._category,
            self._service,
            self.subscription,
            "",
            "",
            delivery.body,
            0,
            None,
            now + lives_s,
            delivery.reply_to or "" if is_call else "",
            delivery.message_id or "",
            is_patient=is_call,
            due_ms=stamps.wait.due_ms,
            stamps=stamps,
        )
        if self._fernet is not None:
            self._decrypt(incoming, self._fernet)
        return incoming

    def _decrypt(self, incoming: Incoming, keys: FernetKeys) -> None:
        try:
            incoming.raw_params = keys.in_plain(incoming.raw_params)
        except EnvelopeError as error:
            fault = Fault(REFUSED, f"{error.reason}: {error.detail}")
            reply = self.encode_fault(incoming, fault) if incoming.kind is CALL else None
            raise RequestRefused(error, reply, incoming.reply_to, incoming) from None

    def _id_of(self, delivery: Delivery) -> tuple[str, float]:
        """By which the journal knows it, and for how long."""
        if delivery.message_id and self.queue.remember_s:
            text = "\0".join((self.queue.host, self.queue.queue, delivery.message_id))
            return make_id(hashlib.sha256(text.encode()).hexdigest()[:16], PLAIN_COUNT), self.queue.remember_s
        return make_id(self._incarnation, next(self._count)), _FORGOTTEN_S

    def plain_message(self, delivery: Delivery) -> PlainMessage:
        """What its publisher wrote, also if it comes from a delay queue."""
        found = plain_message(delivery)
        if not self._is_shared:
            return found
        given = found.headers
        properties = replace(found.properties, headers=headers.as_published(given))
        exchange, key = (str(given.get(name, "")) for name in (headers.EXCHANGE, headers.ROUTING_KEY))
        return replace(found, exchange=exchange, routing_key=key, properties=properties)

    # -- answers -------------------------------------------------------------------------------------------------------

    def answer(self, delivery: Delivery, body: bytes, on_answered: Callable[[str], None]) -> None:
        """Publish *body* to the caller, as a PublishReply does."""
        if self._publish_reply is not None:
            self._publish_reply(delivery, body, on_answered)

    def encode_result(self, _incoming: Incoming, value: Any) -> bytes:
        return encode_json(value)

    def encode_text(self, _incoming: Incoming, text: bytes) -> bytes:
        if type(text) is SecretText:
            raise EnvelopeError(
                "unencodable", "a Secret only travels encrypted, which the answer to a plain call is not"
            )
        return text

    def encode_fault(self, incoming: Incoming, fault: Fault) -> bytes:
        if is_secret(incoming) and fault.type not in RESERVED:
            fault = Fault(fault.type, HIDDEN_TEXT)
        return ErrorReply(encode_json({"error": {"type": fault.type, "message": fault.text}}))

    def denial(self, _incoming: Incoming) -> Fault | None:
        """Nobody signs these: what may be published, the broker says."""

    def encode_fault_unread(self, delivery: Delivery, fault: Fault) -> tuple[bytes | None, str]:
        return None, ""
