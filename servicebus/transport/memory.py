"""A broker in memory, behind the contract of ``transport/interface.py``: for tests that need no sockets.

Theory of operation. A MemoryBroker is shared by connections, whose loops may run in several threads: whatever touches
it holds its lock. A connection (``memory_connection``) carries requests to the broker and what the broker says back,
in order, each in a later callback of the connection's loop. The broker's side of a connection is a MemorySession and
its ServerChannels (``memory_sessions``). Queues are in ``memory_queues``.

It answers as RabbitMQ does where the bus can send the difference; ``tests/contract`` compares the two. There is one
member, one virtual host, direct and topic exchanges alone, and every user may do everything. Messages expire by a timer
of the loop in which they were published, or of the broker's own if it has one. A frozen connection never misses a
heartbeat.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from threading import RLock
from typing import TYPE_CHECKING, Any

from servicebus.configuration import BrokerHost
from servicebus.transport.interface import ConnectionEvents
from servicebus.transport.loop import EventLoop
from servicebus.transport.memory_connection import MemoryConnection
from servicebus.transport.memory_exchanges import Routes
from servicebus.transport.memory_queues import MemoryQueue, Message, QueueConsumer, Refusal, locked, not_found

if TYPE_CHECKING:
    from servicebus.transport.memory_sessions import MemorySession, ServerChannel

__all__ = ["MemoryBroker", "MemoryNetwork"]


class MemoryBroker:
    """One broker. The attributes are faults that a test may set at any time, and what it may look at."""

    def __init__(self, name: str = "memory", *, version: str = "4.0.0", max_message_size: int = 16 << 20):
        self.name = name
        self.version = version
        self.max_message_size = max_message_size
        self.channel_max = 2047
        self.delay_s = 0.0
        """How long everything takes on its way, there and back."""
        self.refuses: tuple[str, str] | None = None
        """Kind and reason with which attempts to connect fail."""
        self.nacks: set[str] = set()
        """Queues that refuse to store."""
        self.holds_confirms = False
        """Stored, but not said: until ``release_confirms()``."""
        self.loses_acks = False  # as if each connection ended before its acks
        self.mute: set[str] = set()
        """Queues for which it does not answer, as one whose member of the cluster is away."""
        self.alternates: dict[str, str] = {}
        """By exchange, the queue that takes what no other takes (an alternate exchange)."""
        self.is_frozen = False
        self.blocked: str | None = None
        self._routes = Routes(self.alternates)
        self.exchanges = self._routes.exchanges
        self.queues: dict[str, MemoryQueue] = {}
        self.connections: list[MemoryConnection] = []
        self.sessions: list[MemorySession] = []
        self.replies: dict[str, ServerChannel] = {}
        """Who waits for direct replies, by address."""
        self.connects = 0
        """Attempts to connect, ever."""
        self.lock = RLock()
        self.loop: EventLoop | None = None
        """For its timers, where loops of connections may end before it does."""
        self._gone: list[MemorySession] = []
        """Their processes have ended, which it finds out when it goes on."""
        self.worked_for: EventLoop | None = None
        """The loop whose thread has the lock and works; see ``working_for()``."""
        self._names = itertools.count(1)

    def __repr__(self) -> str:
        return f"<MemoryBroker {self.name} queues={len(self.queues)} sessions={len(self.sessions)}>"

    def connect(self, loop: EventLoop, host: BrokerHost, events: ConnectionEvents, **how: Any) -> MemoryConnection:
        """Connect to it; the arguments are those of ``interface.Connect``."""
        self.connects += 1
        return MemoryConnection(self, loop, host, events, **how)

    # -- faults ----------------------------------------------------------------------------------------------------

    def refuse(self, kind: str = "refused", reason: str = "connection refused") -> None:
        """Let attempts to connect fail until ``accept()``."""
        self.refuses = kind, reason

    def accept(self) -> None:
        self.refuses = None

    def drop(self, reason: str = "Connection reset by peer") -> None:
        """Cut every connection; what was on its way is lost."""
        with self.lock:
            for session in list(self.sessions):
                session.cut(reason)

    def stop(self, reason: str = "Connection reset by peer") -> None:
        """The process ends: connections are cut and refused, and what is transient is lost; ``accept()`` starts it."""
        with self.lock:
            self.refuse()
            self.drop(reason)
            self._gone.clear()
            self.is_frozen = False
            for queue in list(self.queues.values()):
                if queue.durable:
                    queue.ready = [message for message in queue.ready if message.is_persistent]
                else:
                    self.remove(queue)
            for name in [name for name, exchange in self.exchanges.items() if not exchange.durable]:
                del self.exchanges[name]

    def freeze(self) -> None:
        """Nothing moves any more, in either direction, as when the process is stopped or its network swallows all."""
        self.is_frozen = True

    def thaw(self) -> None:
        self.is_frozen = False
        self._end_gone()
        self._resume()

    def end_process(self, loop: EventLoop, *, is_killed: bool) -> None:
        """The process that runs *loop* has ended, and its sockets with it; *loop* is not needed any more.

        What it has sent before arrives, unless it was killed: then what is on its way is lost.
        """
        with self.lock:
            for connection in [each for each in self.connections if each.loop is loop]:
                connection.vanish(loses_all=is_killed)
            self._gone += [session for session in self.sessions if session.connection.loop is loop]
            if not self.is_frozen:
                self._end_gone()

    def _end_gone(self) -> None:
        with self.lock:
            gone, self._gone = self._gone, []
            for session in gone:
                session.connection.end_vanished()
                session.end()

    def block(self, reason: str = "low on memory") -> None:
        """Raise an alarm: connections that publish are not read any more."""
        self.blocked = reason

    def unblock(self) -> None:
        with self.lock:
            self.blocked = None
            for session in self.sessions:
                session.unblock()
        self._resume()

    def release_confirms(self) -> None:
        with self.lock:
            self.holds_confirms = False
            for session in self.sessions:
                session.send_confirms()

    def forget_queue(self, name: str) -> None:
        """Delete a queue as an operator does: its consumers are cancelled."""
        with self.lock:
            self.remove(self.queues[name])

    def _resume(self) -> None:
        with self.lock:
            for connection in self.connections:
                connection.resume()

    # -- for sessions, with the lock held --------------------------------------------------------------------------

    def working_for(self, loop: EventLoop) -> _Working:
        """Work in the thread of *loop*, which gets the timers that the work needs."""
        return _Working(self, loop)

    def _later(self, delay_s: float, callback: Callable[[], None]) -> None:
        loop = self.loop or self.worked_for
        if loop is not None:

            def due() -> None:
                with self.working_for(loop):
                    callback()

            loop.call_later(max(0.0, delay_s), due)

    def declare_exchange(self, name: str, **how: Any) -> None:
        self._routes.declare(name, **how)

    def declare_queue(
        self,
        name: str,
        session: MemorySession,
        *,
        durable: bool,
        exclusive: bool,
        auto_delete: bool,
        passive: bool,
        arguments: Mapping[str, Any],
    ) -> MemoryQueue:
        now = time.monotonic()
        if passive or name in self.queues:
            queue = self.find(name, session)
            other = queue.has_form(
                durable=durable, auto_delete=auto_delete, is_exclusive=exclusive, arguments=arguments
            )
            if other and not passive:
                raise Refusal(406, f"PRECONDITION_FAILED - inequivalent arg '{other}' for queue '{name}' in vhost '/'")
            queue.used_at = now
            return queue
        name = name or f"amq.gen-{self.name}-{next(self._names)}"
        owner = session if exclusive else None
        queue = MemoryQueue(name, durable=durable, auto_delete=auto_delete, owner=owner, arguments=arguments, now=now)
        self.queues[name] = queue
        self._expire_later(queue)
        return queue

    def find(self, name: str, session: MemorySession) -> MemoryQueue:
        """The queue, for *session*. Raises Refusal: there is none, or it is another's alone."""
        queue = self.queues.get(name)
        if queue is None:
            raise not_found("queue", name)
        if queue.owner not in (None, session):
            raise locked(name)
        return queue

    def bind(self, queue: MemoryQueue, exchange: str, routing_key: str) -> None:
        self._routes.bind(queue.name, exchange, routing_key)

    def unbind(self, queue: MemoryQueue, exchange: str, routing_key: str) -> None:
        self._routes.unbind(queue.name, exchange, routing_key)

    def remove(self, queue: MemoryQueue) -> int:
        """Delete *queue*, its messages and its bindings; returns the number of messages."""
        if self.queues.pop(queue.name, None) is None:
            return 0
        self._routes.forget(queue.name)
        consumers, queue.consumers = queue.consumers, []
        for consumer in consumers:
            consumer.cancelled(consumer)
        count, queue.ready = len(queue.ready), []
        return count

    def route(self, exchange: str, routing_key: str) -> list[MemoryQueue]:
        if not exchange:
            return [self.queues[routing_key]] if routing_key in self.queues else []
        return [self.queues[name] for name in self._routes.queues(exchange, routing_key) if name in self.queues]

    def store(self, message: Message, queues: list[MemoryQueue]) -> bool:
        """Put a copy into each of *queues*; False: one of them refuses it."""
        takers = [each for each in queues if each.name not in self.nacks and not each.is_full_for(message.body)]
        for queue in takers:
            copy = message.copy()
            queue.put(copy, time.monotonic())
            self.deliver(queue)
            if any(each is copy for each in (queue.ready if queue.has_priorities else queue.ready[-1:])):
                self._deliver_later(queue, copy)
        return len(takers) == len(queues)

    def _deliver_later(self, queue: MemoryQueue, message: Message) -> None:
        if message.expires_at is not None:
            self._later(message.expires_at - time.monotonic(), lambda: self.deliver(queue))

    def deliver(self, queue: MemoryQueue) -> None:
        """Hand out what its consumers have room for; what has expired, or does not fit, dies."""
        for message in queue.take_expired(time.monotonic()):
            self.dead_letter(queue, message, "expired")
        while queue.ready and (consumer := queue.next_consumer()) is not None:
            message = queue.ready.pop(0)
            consumer.deliver(queue, message, consumer)
        for message in queue.take_overflow():
            self.dead_letter(queue, message, "maxlen")

    def dead_letter(self, queue: MemoryQueue, message: Message, reason: str) -> None:
        """Send it to the queue's dead-letter exchange; without one it is gone."""
        exchange = queue.arguments.get("x-dead-letter-exchange")
        if exchange is None or (exchange and exchange not in self.exchanges):
            return
        key = queue.arguments.get("x-dead-letter-routing-key", message.routing_key)
        about = message.dead_lettered(reason, queue.name)
        died = Message(exchange, key, message.body, about, message.is_persistent, written=message.written)
        self.store(died, self.route(exchange, key))

    def give_back(self, queue: MemoryQueue, message: Message) -> None:
        """A consumer returns it unacknowledged."""
        if self.queues.get(queue.name) is queue and not queue.give_back(message):
            self.dead_letter(queue, message, "delivery_limit")
        self._deliver_later(queue, message)

    def add_consumer(self, queue: MemoryQueue, consumer: QueueConsumer) -> None:
        if queue.consumers and (consumer.is_exclusive or queue.consumers[0].is_exclusive):
            raise Refusal(403, f"ACCESS_REFUSED - queue '{queue.name}' in vhost '/' in exclusive use")
        queue.consumers.append(consumer)

    def remove_consumer(self, queue: MemoryQueue, consumer: QueueConsumer) -> None:
        if consumer not in queue.consumers:
            return
        queue.consumers.remove(consumer)
        if not queue.consumers:
            queue.used_at = time.monotonic()
            if queue.auto_delete:
                self.remove(queue)
            else:
                self._expire_later(queue)

    def _expire_later(self, queue: MemoryQueue) -> None:
        limit_s = queue.expires_s
        if limit_s is None:
            return

        def look() -> None:
            left_s = queue.used_at + limit_s - time.monotonic()
            if queue.consumers or self.queues.get(queue.name) is not queue:
                return
            if left_s > 0:
                self._later(left_s, look)
            else:
                self.remove(queue)

        self._later(limit_s, look)


class _Working:
    """A context manager by hand: each item that reaches the broker enters one."""

    def __init__(self, broker: MemoryBroker, loop: EventLoop):
        self._broker, self._loop = broker, loop

    def __enter__(self) -> None:
        broker = self._broker
        broker.lock.acquire()
        self._former, broker.worked_for = broker.worked_for, self._loop

    def __exit__(self, *_error: object) -> None:
        self._broker.worked_for = self._former
        self._broker.lock.release()


class MemoryNetwork:
    """Brokers by the address under which a configuration names them; ``connect`` is handed to what connects."""

    def __init__(self, *addresses: str, **how: Any):
        self.brokers = {address: MemoryBroker(address, **how) for address in addresses}

    def __repr__(self) -> str:
        return f"<MemoryNetwork {', '.join(self.brokers)}>"

    def __getitem__(self, address: str) -> MemoryBroker:
        return self.brokers[address]

    def connect(self, loop: EventLoop, host: BrokerHost, events: ConnectionEvents, **how: Any) -> MemoryConnection:
        return self.brokers[host.address].connect(loop, host, events, **how)
