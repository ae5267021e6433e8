"""The contract between the bus and whatever carries its frames, written out.

Everything here belongs to the thread of the loop that the connection was made with. Callbacks are called in that
thread, never before the call that caused them has returned.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from servicebus.configuration import BrokerHost
from servicebus.errors import ConnectFailed, ConnectionLost, TransportError
from servicebus.transport.loop import EventLoop

__all__ = [
    "Asked",
    "BrokerChannel",
    "BrokerConnection",
    "Connect",
    "ConnectionEvents",
    "Delivery",
    "Flaw",
    "Origin",
    "Returned",
    "Script",
    "Step",
]


@dataclass(frozen=True, slots=True)
class Flaw:
    """Why a delivery is not to be executed, whatever its body says."""

    reason: str
    """``unreadable``: its AMQP properties cannot be read. ``oversized``: its body is longer than we take."""
    detail: str


class Origin(NamedTuple):
    """Where a message was published to, and its properties as they were written."""

    exchange: str
    routing_key: str
    flags: int
    """Which properties there are."""
    properties: bytes


class Delivery(NamedTuple):
    """One message as the broker delivered it."""

    channel: BrokerChannel
    tag: int
    """Only valid on ``channel``."""
    body: bytes
    correlation_id: str | None = None
    reply_to: str | None = None
    message_id: str | None = None
    headers: Mapping[str, Any] | None = None
    redelivered: bool = False
    """It was on its way to a consumer before, this one or another, which may have seen it."""
    flaw: Flaw | None = None
    """What could not be read, or not be kept, is settled as any other, but never executed.

    Properties that cannot be read are None. Of a body that is too long there is the beginning.
    """
    origin: Origin | None = None
    """Of what was consumed whole, or asked for by ``get()``."""

    def __repr__(self) -> str:
        return f"<Delivery {self.tag} of {len(self.body)} bytes>"  # and no more: what it says may be secret


@dataclass(frozen=True, slots=True)
class Returned:
    """A mandatory message that the broker could not route to any queue."""

    exchange: str
    routing_key: str
    correlation_id: str | None
    message_id: str | None
    body: bytes
    reason: str


class Asked(NamedTuple):
    """What a script waits for: the queue that the broker was asked about, and nothing else is unanswered."""

    queue: str
    is_declaration: bool
    """It is to be made if it is not there."""


ExchangeKind = Literal["direct", "topic", "fanout", "headers"]

Step = Callable[["BrokerChannel", Callable[[Any], None]], None]
"""One asynchronous broker operation: ``step(channel, on_done)``."""

Script = Generator[Step, Any, None]
"""Broker operations one after another: yields steps, receives each one's answer. A channel that closes ends it."""


class BrokerChannel(Protocol):
    """One AMQP channel. After ``on_closed`` nothing on it has any effect."""

    @property
    def is_open(self) -> bool: ...

    @property
    def frame_max(self) -> int:
        """The largest frame that was agreed on, in bytes; 0 for no limit."""

    @property
    def asked(self) -> Asked | None:
        """The queue whose answer the script waits for; None if it is about no queue."""

    def run(self, script: Script, on_done: Callable[[], None] | None = None) -> None:
        """Run *script* step by step; ``on_done()`` after the last. A closed channel ends it without ``on_done``."""

    def publish(
        self,
        exchange: str,
        routing_key: str,
        body: bytes,
        *,
        correlation_id: str | None = None,
        reply_to: str | None = None,
        expiration_ms: int | None = None,
        message_id: str | None = None,
        persistent: bool = False,
        headers: Mapping[str, Any] | None = None,
        mandatory: bool = True,
        priority: int | None = None,
        properties: tuple[int, bytes] | None = None,
    ) -> int:
        """Publish; returns the publish sequence number that a confirm will name (0 without confirms).

        Args:
            priority: from 0 to 255; queues without ``x-max-priority`` do not look at it.
            properties: flags and bytes, as of ``Origin``, in place of those that have an argument of their own.
        """

    def ack(self, tag: int) -> None: ...

    def save_acks(self, at_most: int) -> None:
        """From now on keep acks for a moment, up to *at_most* of them."""

    def reject(self, tag: int, *, requeue: bool) -> None: ...

    def close(self) -> None: ...

    # What the broker answers. Without *on_done* it is to say nothing. One question at a time: a script's (``run()``).
    # A question about a queue is in ``asked`` until the answer comes: so it is known what a refusal, or no answer, is
    # about.

    def declare_exchange(
        self,
        name: str,
        *,
        kind: ExchangeKind = "direct",
        durable: bool,
        passive: bool = False,
        on_done: Callable[[Any], None] | None = None,
    ) -> None: ...

    def declare_queue(
        self,
        name: str,
        on_done: Callable[[tuple[str, int, int]], None],
        *,
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = False,
        passive: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Answers with ``(name, messages, consumers)``; without a name the broker chooses one."""

    def bind_queue(
        self, queue: str, exchange: str, routing_key: str, on_done: Callable[[Any], None] | None = None
    ) -> None: ...

    def unbind_queue(self, queue: str, exchange: str, routing_key: str, on_done: Callable[[Any], None]) -> None: ...

    def delete_queue(
        self, queue: str, on_done: Callable[[int], None], *, if_unused: bool = False, if_empty: bool = False
    ) -> None:
        """Answers with the number of messages that went with it."""

    def set_prefetch(self, count: int, on_done: Callable[[Any], None]) -> None:
        """Unacknowledged deliveries for each consumer that follows; 0 for no limit."""

    def consume(
        self,
        queue: str,
        on_delivery: Callable[[Delivery], None],
        on_done: Callable[[str], None],
        *,
        no_ack: bool = False,
        exclusive: bool = False,
        whole: bool = False,
    ) -> None:
        """Answers with the consumer tag.

        Args:
            whole: each delivery has its ``origin``.
        """

    def cancel(self, consumer_tag: str, on_done: Callable[[Any], None] | None = None) -> None:
        """Stop the deliveries of one consumer; what is unacknowledged stays ours."""

    def get(self, queue: str, on_done: Callable[[Delivery | None], None]) -> None:
        """Answers with the queue's first message, to be acked, or with None: it is empty."""


class BrokerConnection(Protocol):
    """One connection to one broker."""

    @property
    def host(self) -> BrokerHost:
        """With the address of one member, if it is a cluster."""

    @property
    def loop(self) -> EventLoop: ...

    @property
    def server_version(self) -> str:
        """The version that the broker reports; empty if it reports none."""

    @property
    def channel_max(self) -> int:
        """How many channels it may have, as was agreed on."""

    @property
    def is_open(self) -> bool: ...

    @property
    def blocked(self) -> str | None:
        """The broker's reason while it does not read what we publish, else None."""

    @property
    def bytes_received(self) -> int:
        """Grows with every byte of the broker's, heartbeats included: the proof of life of the link."""

    @property
    def bytes_written(self) -> int:
        """What was to be sent until now, sent or not."""

    @property
    def bytes_acknowledged(self) -> int:
        """What of it the other end's kernel has."""

    def open_channel(
        self,
        on_open: Callable[[BrokerChannel], None],
        on_closed: Callable[[TransportError], None],
        *,
        on_returned: Callable[[Returned], None] | None = None,
        on_confirmed: Callable[[int, bool, bool], None] | None = None,
    ) -> None:
        """Open a channel; with *on_confirmed* ``(number, multiple, is_ack)`` it is put into confirm mode first.

        Nothing is opened, and nothing told, once ``close()`` was called or the connection has ended.
        """

    def close(self) -> None:
        """Say goodbye and close; ``on_lost`` follows."""

    def abort(self, reason: str) -> None:
        """Close the socket hard, now; ``on_lost`` follows with *reason*. For brokers that fell silent."""

    def abandon(self, reason: str) -> Callable[[], None]:
        """As ``abort()``, but the broker gets its reset only when the returned function is called.

        For a consumer whose network swallows packets: a reset sent into it is lost, and when the network is back, the
        broker would go on to deliver to the dead connection until its heartbeat finds out.
        """


class ConnectionEvents(Protocol):
    """What a connection reports to its owner: one of opened and failed first, lost at most once after opened."""

    def connection_opened(self, connection: BrokerConnection) -> None: ...
    def connection_failed(self, connection: BrokerConnection, error: ConnectFailed) -> None: ...
    def connection_lost(self, connection: BrokerConnection, error: ConnectionLost) -> None: ...
    def connection_blocked(self, connection: BrokerConnection, reason: str | None) -> None: ...


class Connect(Protocol):
    """Makes a connection, in the loop's thread; it starts to connect at once."""

    def __call__(
        self,
        loop: EventLoop,
        host: BrokerHost,
        events: ConnectionEvents,
        *,
        label: str,
        heartbeat_s: int,
        connect_timeout_s: float,
        handshake_timeout_s: float,
        most_bytes: int,
        fast: bool = True,
    ) -> BrokerConnection:
        """*most_bytes*: the beginning of a longer body is delivered, with its flaw."""
