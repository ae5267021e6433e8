"""The subscriptions of a node to events: a durable queue for each on every broker, and how it is consumed.

What a worker takes from them goes the way of messages: inbox, lock, further attempts, dead letters. The delay queues
and the dead letters are those of the node; there a header names the subscription, and a stamp vouches for it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial

from servicebus._plain import PlainQueue, is_plain_key
from servicebus.configuration import Configuration
from servicebus.protocol.events import EventProtocol
from servicebus.protocol.interface import AgentProtocol
from servicebus.protocol.plain import PlainProtocol
from servicebus.runtime.consumer import NodeConsumer
from servicebus.runtime.known_subscriptions import KnownSubscription, known_subscriptions
from servicebus.runtime.registration import Service
from servicebus.runtime.subscriptions import Subscription
from servicebus.runtime.topology import Keep, declare_event_queues, window
from servicebus.transport.interface import Delivery, Script
from servicebus.transport.steps import consume
from servicebus.wire import headers
from servicebus.wire.envelope import Kind
from servicebus.wire.events import EventQueue, event_queue
from servicebus.wire.signing import Keyring

__all__ = ["EventQueues", "queues_of"]

SUBSCRIPTION = "events"


def queues_of(config: Configuration, services: Sequence[Service]) -> list[EventQueue]:
    """The queues of those *services* that have subscribed to events."""
    subscribed = [each for each in services if each.events]
    known = known_subscriptions(config) if subscribed else {}
    return [
        EventQueue(each.key, event_queue(config.node_name, each.key), each.events, _former(known, each))
        for each in subscribed
    ]


def _former(known: Mapping[str, KnownSubscription], service: Service) -> Sequence[str]:
    noted = known.get(service.key)
    return [each for each in noted.former if each not in service.events] if noted is not None else ()


class EventQueues:
    """Lets *consumer* consume *queues* as well; made before its ``start()``. Belongs to the I/O thread.

    Args:
        singletons: services whose queues are declared here, and consumed by the worker that runs them.
    """

    def __init__(
        self,
        consumer: NodeConsumer,
        config: Configuration,
        keyring: Keyring,
        queues: Sequence[EventQueue],
        singletons: Collection[str] = (),
    ):
        self._consumer = consumer
        self._singletons = singletons
        self._config = config
        self._keyring = keyring
        self._queues = {queue.service: queue for queue in queues}
        consumer.protocol_of = self._protocol_of_delayed
        if queues:
            consumer.add_subscription(Subscription(SUBSCRIPTION, self._script))

    def __repr__(self) -> str:
        return f"<EventQueues {', '.join(self._queues)}>"

    def _script(self, keep: Keep) -> Script:
        consumer, stored = self._consumer, self._consumer.stored
        assert stored is not None, "it is made with the connections"
        consumed = [queue for queue in self._queues.values() if queue.service not in self._singletons]
        stored.event_queues = list(self._queues.values())
        yield from declare_event_queues(self._config, stored, {})
        stored.event_queues = consumed  # whose consumers are counted from now on
        yield from window(self._config)
        for queue in consumed:
            protocol = EventProtocol(self._config, self._keyring, queue)
            take = partial(consumer.pipeline.take, epoch=consumer.epoch, protocol=protocol, kind=Kind.MESSAGE)
            keep((yield consume(queue.name, take)))

    def _protocol_of_delayed(self, delivery: Delivery) -> AgentProtocol:
        """How a message or event is read that stands in a delay queue."""
        service = (delivery.headers or {}).get(headers.SUBSCRIPTION)
        if not isinstance(service, str):
            return self._consumer.message_protocol
        if is_plain_key(service):
            known = self._consumer.plain.protocol_of(service)
            return known or PlainProtocol(self._config, self._keyring, service[6:], PlainQueue(""), is_shared=True)
        queue = self._queues.get(service)
        if queue is None:  # it has not subscribed any more: the event becomes a dead letter of its own
            queue = EventQueue(service, event_queue(self._config.node_name, service), ("#",))
        return EventProtocol(self._config, self._keyring, queue, is_shared=True)
