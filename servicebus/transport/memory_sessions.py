"""MemorySession: the broker's side of connections to a broker in memory. Everything here needs the broker's lock."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from servicebus.transport.frames import Properties
from servicebus.transport.loop import EventLoop
from servicebus.transport.memory_queues import MemoryQueue, Message, QueueConsumer, Refusal
from servicebus.wire.envelope import DIRECT_REPLY_TO

if TYPE_CHECKING:
    from servicebus.transport.memory import MemoryBroker

__all__ = ["MemorySession", "ServerChannel"]


class _Client(Protocol):
    """The client's side of a connection: MemoryConnection."""

    label: str

    @property
    def loop(self) -> EventLoop: ...

    def end_vanished(self) -> None: ...
    def receive(self, arrive: Callable[[], None], size: int) -> None: ...
    def become_blocked(self, reason: str | None) -> None: ...
    def break_off(self, reason: str) -> None: ...


class _ClientChannel(Protocol):
    """The client's side of a channel: MemoryChannel."""

    def take(self, consumer_tag: str, tag: int, again: bool, about: Properties, message: Message) -> None: ...
    def come_back(self, exchange: str, routing_key: str, about: Properties, body: bytes) -> None: ...
    def confirm(self, number: int, multiple: bool, is_ack: bool) -> None: ...
    def become_cancelled(self, consumer_tag: str) -> None: ...
    def become_closed(self, code: int, text: str) -> None: ...


class MemorySession:
    """What the broker knows of one connection. It may outlive the client's side, as after a reset that was lost."""

    def __init__(self, broker: MemoryBroker, connection: _Client):
        self.broker = broker
        self.connection = connection
        self.channels: list[ServerChannel] = []
        self.is_over = False
        self.has_alarm = False
        broker.sessions.append(self)

    def __repr__(self) -> str:
        return f"<MemorySession {self.connection.label} of {self.broker.name} channels={len(self.channels)}>"

    def send(self, callback: Callable[[], None], size: int = 8) -> None:
        """Send *size* bytes to the client, which has *callback* called."""
        if not self.is_over:
            self.connection.receive(callback, size)

    def may_publish(self) -> bool:
        """Whether the broker reads what this connection publishes; if not, the client is notified of the reason."""
        reason = self.broker.blocked
        if reason is not None and not self.has_alarm:
            self.has_alarm = True
            self.send(lambda: self.connection.become_blocked(reason))
        return reason is None

    def unblock(self) -> None:
        if self.has_alarm:
            self.has_alarm = False
            self.send(lambda: self.connection.become_blocked(None))

    def send_confirms(self) -> None:
        """The confirms of what was published since the last ones."""
        if not self.broker.holds_confirms:
            for channel in self.channels:
                channel.send_confirms()

    def cut(self, reason: str) -> None:
        """The connection breaks, and the client finds out."""
        self.end()
        self.connection.break_off(reason)

    def end(self) -> None:
        """The connection is gone: what it held goes back, and what was its own goes with it."""
        if self.is_over:
            return
        self.is_over = True
        self.broker.sessions.remove(self)
        for channel in self.channels:
            channel.end()
        for queue in [queue for queue in self.broker.queues.values() if queue.owner is self]:
            self.broker.remove(queue)


class ServerChannel:
    """What the broker knows of one channel."""

    def __init__(self, session: MemorySession, client: _ClientChannel, *, confirms: bool):
        self.session = session
        self.broker = session.broker
        self.is_over = False
        self._client = client
        self._confirms = confirms
        self._prefetch = 0
        self._published = 0
        self._outcomes: list[tuple[int, bool]] = []
        self._tags = itertools.count(1)
        self._consumers: dict[str, tuple[MemoryQueue, QueueConsumer]] = {}
        self._unacked: dict[int, tuple[MemoryQueue, Message, QueueConsumer | None]] = {}
        self._reply_tag = ""
        self._reply_address = ""
        session.channels.append(self)

    def end(self) -> None:
        """It is closed: its consumers are gone, and what they held goes back."""
        self.is_over = True
        self.broker.replies.pop(self._reply_address, None)
        unacked, self._unacked = self._unacked, {}
        for queue, message, _ in unacked.values():
            self.broker.give_back(queue, message)
        consumers, self._consumers = self._consumers, {}
        for queue, consumer in consumers.values():
            self.broker.remove_consumer(queue, consumer)
        for queue in {queue.name: queue for queue, *_ in unacked.values()}.values():
            if self.broker.queues.get(queue.name) is queue:
                self.broker.deliver(queue)

    # -- publishing ------------------------------------------------------------------------------------------------

    def publish(self, message: Message, expiration_ms: int | None, now: float, *, mandatory: bool) -> None:
        self._published += 1
        size = len(message.body)
        if size > self.broker.max_message_size:
            limit = self.broker.max_message_size
            raise Refusal(406, f"PRECONDITION_FAILED - message size {size} is larger than configured max size {limit}")
        if expiration_ms is not None:
            message.expires_at = now + expiration_ms / 1000
        message.properties = self._with_own_address(message.properties)
        is_stored = True
        if not message.exchange and message.routing_key.startswith(DIRECT_REPLY_TO):
            is_routed = self._answer(message) and not mandatory  # as RabbitMQ 3.10: delivered, and returned
        else:
            queues = self.broker.route(message.exchange, message.routing_key)
            is_routed = bool(queues)
            is_stored = self.broker.store(message, queues)
        if mandatory and not is_routed:
            about = message.properties
            self._send(
                lambda: self._client.come_back(message.exchange, message.routing_key, about, message.body),
                len(message.body),
            )
        if self._confirms:
            self._outcomes.append((self._published, is_stored))

    def _with_own_address(self, about: Properties) -> Properties:
        correlation_id, reply_to, message_id, headers = about
        if reply_to == DIRECT_REPLY_TO:
            if not self._reply_address:
                raise Refusal(406, "PRECONDITION_FAILED - fast reply consumer does not exist")
            reply_to = self._reply_address
        return correlation_id, reply_to, message_id, headers

    def _answer(self, message: Message) -> bool:
        """Deliver a direct reply; False: its caller is gone."""
        channel = self.broker.replies.get(message.routing_key)
        if channel is None:
            return False
        channel._hand_over(channel._reply_tag, next(channel._tags), False, message.properties, message)
        return True

    def send_confirms(self) -> None:
        """As a broker does: one confirm for all that follow each other and have the same outcome."""
        outcomes, self._outcomes = self._outcomes, []
        for is_ack, group in itertools.groupby(outcomes, key=lambda outcome: outcome[1]):
            numbers = [number for number, _ in group]
            self._send(partial(self._client.confirm, numbers[-1], len(numbers) > 1, is_ack))

    # -- consuming -------------------------------------------------------------------------------------------------

    def set_prefetch(self, count: int) -> None:
        self._prefetch = count

    def consume(self, queue: str, *, tag: str, no_ack: bool, exclusive: bool) -> str:
        if queue == DIRECT_REPLY_TO:
            if not no_ack:
                raise Refusal(406, "PRECONDITION_FAILED - reply consumer cannot acknowledge")
            self._reply_tag = tag
            self._reply_address = f"{DIRECT_REPLY_TO}.{self.broker.name}.{id(self):x}"
            self.broker.replies[self._reply_address] = self
            return tag
        found = self.broker.find(queue, self.session)
        consumer = QueueConsumer(tag, self._deliver, self._cancelled, self._prefetch, no_ack, exclusive)
        self.broker.add_consumer(found, consumer)
        self._consumers[tag] = found, consumer
        return tag

    def begin_deliveries(self, tag: str) -> None:
        """After the answer to ``consume()``."""
        if tag in self._consumers:
            self.broker.deliver(self._consumers[tag][0])

    def cancel(self, tag: str) -> None:
        found = self._consumers.pop(tag, None)
        if found is not None:
            self.broker.remove_consumer(*found)

    def get(self, queue: str) -> tuple[int, bool, Properties, Message] | None:
        found = self.broker.find(queue, self.session)
        self.broker.deliver(found)
        message = found.take()
        if message is None:
            return None
        tag = self._hold(found, message, None)
        return tag, message.returns > 0, self._properties(found, message), message

    def ack(self, tag: int) -> None:
        if self.broker.loses_acks:
            return
        queue, _ = self._settle(tag)
        self.broker.deliver(queue)

    def reject(self, tag: int, *, requeue: bool) -> None:
        queue, message = self._settle(tag)
        if requeue:
            self.broker.give_back(queue, message)
        else:
            self.broker.dead_letter(queue, message, "rejected")
        self.broker.deliver(queue)

    def _settle(self, tag: int) -> tuple[MemoryQueue, Message]:
        if tag not in self._unacked:
            raise Refusal(406, f"PRECONDITION_FAILED - unknown delivery tag {tag}")
        queue, message, consumer = self._unacked.pop(tag)
        if consumer is not None:
            consumer.held -= 1
        return queue, message

    def _hold(self, queue: MemoryQueue, message: Message, consumer: QueueConsumer | None) -> int:
        tag = next(self._tags)
        self._unacked[tag] = queue, message, consumer
        return tag

    def _deliver(self, queue: MemoryQueue, message: Message, consumer: QueueConsumer) -> None:
        if consumer.no_ack:
            tag = next(self._tags)
        else:
            consumer.held += 1
            tag = self._hold(queue, message, consumer)
        self._hand_over(consumer.tag, tag, message.returns > 0, self._properties(queue, message), message)

    def _properties(self, queue: MemoryQueue, message: Message) -> Properties:
        return (*message.properties[:3], queue.headers_of(message))

    def _hand_over(self, consumer_tag: str, tag: int, again: bool, about: Properties, message: Message) -> None:
        self._send(lambda: self._client.take(consumer_tag, tag, again, about, message), len(message.body))

    def _cancelled(self, consumer: QueueConsumer) -> None:
        """The queue is gone, and its consumer with it."""
        del self._consumers[consumer.tag]
        self._send(lambda: self._client.become_cancelled(consumer.tag))

    # -- inside ----------------------------------------------------------------------------------------------------

    def _send(self, callback: Callable[[], None], size: int = 0) -> None:
        if not self.is_over:
            self.session.send(callback, 8 + size)

    def attempt(self, do: Callable[[ServerChannel], None]) -> None:
        """Do what the client asks for; what is refused closes the channel."""
        try:
            do(self)
        except Refusal as refused:
            self._close(refused.code, refused.text)

    def close(self) -> None:
        """The client asks for it."""
        self.send_confirms()
        self._close(200, "Normal shutdown")

    def _close(self, code: int, text: str) -> None:
        self.end()
        self.session.channels.remove(self)
        self.session.send(lambda: self._client.become_closed(code, text))

    # -- topology --------------------------------------------------------------------------------------------------

    def declare_queue(self, name: str, *, arguments: Mapping[str, Any], **how: bool) -> tuple[str, int, int]:
        queue = self.broker.declare_queue(name, self.session, arguments=arguments, **how)
        self.broker.deliver(queue)
        return queue.name, len(queue.ready), len(queue.consumers)

    def bind_queue(self, queue: str, exchange: str, routing_key: str) -> None:
        self.broker.bind(self.broker.find(queue, self.session), exchange, routing_key)

    def unbind_queue(self, queue: str, exchange: str, routing_key: str) -> None:
        if queue in self.broker.queues:
            self.broker.unbind(self.broker.find(queue, self.session), exchange, routing_key)

    def delete_queue(self, name: str, *, if_unused: bool, if_empty: bool) -> int:
        if name not in self.broker.queues:
            return 0
        queue = self.broker.find(name, self.session)
        for is_kept, what in ((if_unused and queue.consumers, "in use"), (if_empty and queue.ready, "not empty")):
            if is_kept:
                raise Refusal(406, f"PRECONDITION_FAILED - queue '{name}' in vhost '/' {what}")
        return self.broker.remove(queue)

    def declare_exchange(self, name: str, **how: Any) -> None:
        self.broker.declare_exchange(name, **how)
