"""EventProtocol: how a worker reads the events of one subscription."""

from __future__ import annotations

import time

from servicebus._context import decode_context
from servicebus.configuration import Configuration
from servicebus.errors import EnvelopeError
from servicebus.policy.clocks import check_fresh
from servicebus.protocol.interface import Incoming, RequestRefused, flawed
from servicebus.protocol.v2 import ProtocolV2
from servicebus.transport.interface import Delivery
from servicebus.wire.envelope import EVENT, MESSAGE, VERSION, Envelope, callers_id
from servicebus.wire.events import EventQueue, event_key, matches, run_id
from servicebus.wire.signing import Keyring
from servicebus.wire.stamps import Stamps, read_stamps
from servicebus.wire.xmlcodec import decode_envelope

__all__ = ["EventProtocol"]


class EventProtocol(ProtocolV2):
    """To the rest of the worker an event that a service has subscribed to is a message to that service.

    Its run has an id of its own: the node may have several subscriptions to one event.

    Args:
        is_shared: read from the delay queues, where the events of all subscriptions of the node stand: only a stamp
            that one of its workers has made for this subscription shows which it belongs to.
    """

    def __init__(self, config: Configuration, keyring: Keyring, queue: EventQueue, *, is_shared: bool = False):
        super().__init__(config, keyring)
        self.subscription = queue.service
        self._queue = queue
        self._is_shared = is_shared

    def decode_request(self, delivery: Delivery) -> Incoming:
        """For the I/O thread. Raises RequestRefused."""
        if delivery.flaw is not None:
            raise flawed(delivery.flaw)
        queue, config = self._queue, self._config
        stamps = read_stamps(self._keyring, delivery.body, delivery.headers, queue.name)
        ticket = stamps.ticket
        try:
            envelope = decode_envelope(delivery.body, self._max_bytes)
            caller = self._keyring.verify_envelope(envelope) if ticket is None else self._caller_by_ticket(envelope)
            self._check_place(envelope, stamps)
        except EnvelopeError as error:
            raise RequestRefused(error) from None
        sent_ms = envelope.sent_ms if ticket is None else ticket.made_ms
        incoming = self._incoming_event(envelope, stamps, sent_ms, caller)
        try:
            if envelope.context:
                incoming.context = decode_context(envelope.context)
            check_fresh(sent_ms, config.token_max_age, int(time.time() * 1000), config.clock_skew)
            if self._encryption is not None:
                incoming.raw_params = self._encryption.params_in_plain(envelope)
        except EnvelopeError as error:
            raise RequestRefused(error, incoming=incoming) from None
        return incoming

    def _check_place(self, envelope: Envelope, stamps: Stamps) -> None:
        """Whoever may publish on the broker may copy an event anywhere. Raises EnvelopeError."""
        if envelope.kind is not EVENT:
            raise EnvelopeError("wrong-queue", f"a {envelope.kind.value} in the queue for events")
        if self._is_shared and not stamps.wait.due_ms:
            raise EnvelopeError("wrong-queue", "no worker of the node has put this event among those that wait")
        if not any(matches(pattern, envelope.service) for pattern in self._queue.patterns):
            text = f"{self.subscription} has not subscribed to {envelope.service}"
            raise EnvelopeError("not-subscribed", text)

    def _incoming_event(self, envelope: Envelope, stamps: Stamps, sent_ms: int, caller: str) -> Incoming:
        ticket, (category, _, service) = stamps.ticket, self.subscription.partition(".")
        id = callers_id(envelope.id, caller) if caller else envelope.id
        return Incoming(
            run_id(id, self._queue.name) if ticket is None else ticket.id,
            MESSAGE,
            category,
            service,
            event_key(self.subscription),
            envelope.token,
            VERSION,
            envelope.params,
            sent_ms,
            None,
            sent_ms / 1000 + self._config.token_max_age + self._config.clock_skew,
            "",
            envelope.id,
            due_ms=stamps.wait.due_ms or envelope.due_ms,
            stamps=stamps,
            contract=envelope.contract,
            event=envelope.service,
            caller=caller,
        )
