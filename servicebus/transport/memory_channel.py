"""MemoryChannel: one channel of a MemoryConnection; see ``interface.BrokerChannel`` for the contract."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from servicebus.errors import ConnectionLost, TransportError
from servicebus.transport.base_channel import BaseChannel, ChannelConnection
from servicebus.transport.cancelled import ask_why_cancelled
from servicebus.transport.contents import cut_off
from servicebus.transport.failures import channel_refused
from servicebus.transport.frames import Properties, read_properties, write_properties
from servicebus.transport.interface import Delivery, ExchangeKind, Returned
from servicebus.transport.memory_queues import Message
from servicebus.transport.memory_sessions import MemorySession, ServerChannel
from servicebus.transport.properties import read_all

__all__ = ["MemoryChannel"]


class _ClientConnection(ChannelConnection, Protocol):
    """MemoryConnection, as its channels use it."""

    most_bytes: int

    @property
    def session(self) -> MemorySession: ...
    def send(self, arrive: Callable[[], None], size: int = 8, *, is_publish: bool = False) -> None: ...


class MemoryChannel(BaseChannel):
    """Belongs to the loop's thread, as the connection does."""

    connection: _ClientConnection

    frame_max = 131072

    def __init__(
        self,
        connection: _ClientConnection,
        on_open: Callable[[MemoryChannel], None],
        on_closed: Callable[[TransportError], None],
        on_returned: Callable[[Returned], None] | None,
        on_confirmed: Callable[[int, bool, bool], None] | None,
    ):
        super().__init__(connection, on_open, on_closed, on_returned, on_confirmed)
        self._unsettled: set[int] = set()
        self._consumers: dict[str, tuple[str, Callable[[Delivery], None], bool, bool]] = {}
        """Queue, callback, whether nothing is acknowledged, and whether it wants the origin, by consumer tag."""
        self._tags = itertools.count(1)
        self._server: ServerChannel | None = None
        connection.send(self._open)

    def __repr__(self) -> str:
        return f"<MemoryChannel of {self.connection!r} {'open' if self.is_open else 'closed'}>"

    # -- what goes out ---------------------------------------------------------------------------------------------

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
        if not self.is_open:
            return 0
        # As AMQP encodes them: what it cannot, raises before it is counted.
        if properties is None:
            known = correlation_id, reply_to, None, message_id, priority
            flags, raw = write_properties(headers, persistent, *known)
        else:
            flags, raw = properties
            expiration = read_all(flags, raw).expiration
            expiration_ms = None if expiration is None else int(expiration)
        about = read_properties(raw, 0, len(raw), flags)
        message = Message(exchange, routing_key, bytes(body), about, persistent, written=(flags, raw))
        self._send(
            lambda server: server.publish(message, expiration_ms, time.monotonic(), mandatory=mandatory),
            len(raw) + len(body),
            is_publish=True,
        )
        self._published += 1
        return self._published

    def save_acks(self, at_most: int) -> None:
        """Nothing is gained in memory."""

    def ack(self, tag: int) -> None:
        self._unsettled.discard(tag)
        self._send(lambda server: server.ack(tag))

    def reject(self, tag: int, *, requeue: bool) -> None:
        self._unsettled.discard(tag)
        self._send(lambda server: server.reject(tag, requeue=requeue))

    def close(self) -> None:
        if self.is_open:
            self._send(lambda server: server.close())
            self.is_open = False

    # -- questions -------------------------------------------------------------------------------------------------

    def declare_exchange(
        self,
        name: str,
        *,
        kind: ExchangeKind = "direct",
        durable: bool,
        passive: bool = False,
        on_done: Callable[[Any], None] | None = None,
    ) -> None:
        how = {"durable": durable, "passive": passive}
        self._ask(lambda server: server.declare_exchange(name, kind=kind, **how), on_done)

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
        how = {"durable": durable, "exclusive": exclusive, "auto_delete": auto_delete, "passive": passive}
        answered = self._asking(name, on_done, is_declaration=not passive)
        self._ask(lambda server: server.declare_queue(name, arguments=dict(arguments or {}), **how), answered, name)

    def bind_queue(
        self, queue: str, exchange: str, routing_key: str, on_done: Callable[[Any], None] | None = None
    ) -> None:
        answered = None if on_done is None else self._asking(queue, on_done)
        self._ask(lambda server: server.bind_queue(queue, exchange, routing_key), answered, queue)

    def unbind_queue(self, queue: str, exchange: str, routing_key: str, on_done: Callable[[Any], None]) -> None:
        answered = self._asking(queue, on_done)
        self._ask(lambda server: server.unbind_queue(queue, exchange, routing_key), answered, queue)

    def delete_queue(
        self, queue: str, on_done: Callable[[int], None], *, if_unused: bool = False, if_empty: bool = False
    ) -> None:
        answered = self._asking(queue, on_done)
        self._ask(lambda server: server.delete_queue(queue, if_unused=if_unused, if_empty=if_empty), answered, queue)

    def set_prefetch(self, count: int, on_done: Callable[[Any], None]) -> None:
        self._ask(lambda server: server.set_prefetch(count), on_done)

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
        tag = f"ctag{next(self._tags)}"
        self._consumers[tag] = queue, on_delivery, no_ack, whole
        answered = self._asking(queue, on_done)
        self._ask(lambda server: server.consume(queue, tag=tag, no_ack=no_ack, exclusive=exclusive), answered, queue)
        self._send(lambda server: server.begin_deliveries(tag))

    def cancel(self, consumer_tag: str, on_done: Callable[[Any], None] | None = None) -> None:
        self._ask(lambda server: server.cancel(consumer_tag), on_done)

    def get(self, queue: str, on_done: Callable[[Delivery | None], None]) -> None:
        def got(found: tuple[int, bool, Properties, Message] | None) -> None:
            on_done(None if found is None else self._delivery(*found, no_ack=False, whole=True))

        self._ask(lambda server: server.get(queue), got, queue)

    def _ask(
        self, question: Callable[[ServerChannel], Any], on_done: Callable[[Any], None] | None, queue: str = ""
    ) -> None:
        """Send *question*; its value is the answer. A queue may be one for which the broker does not answer."""

        def do(server: ServerChannel) -> None:
            if queue and queue in server.broker.mute:
                return
            answer = question(server)
            if on_done is not None:
                server.session.send(lambda: self._while_open(on_done, answer))

        self._send(do)
        self.has_unanswered = self.has_unanswered or on_done is None

    def _send(self, do: Callable[[ServerChannel], None], size: int = 0, *, is_publish: bool = False) -> None:
        if self.is_open:

            def arrive() -> None:
                server = self._server
                if server is not None and not server.is_over:
                    server.attempt(do)

            self.connection.send(arrive, 8 + size, is_publish=is_publish)

    # -- what comes in ---------------------------------------------------------------------------------------------

    def _open(self) -> None:
        server = self._server = ServerChannel(self.connection.session, self, confirms=self._on_confirmed is not None)
        server.session.send(self._opened)

    def _opened(self) -> None:
        self.is_open = self.connection.is_open
        self._on_open(self)

    def take(self, consumer_tag: str, tag: int, again: bool, about: Properties, message: Message) -> None:
        """A delivery has come."""
        _, on_delivery, no_ack, whole = self._consumers[consumer_tag]
        self._guarded(on_delivery, self._delivery(tag, again, about, message, no_ack=no_ack, whole=whole))

    def _delivery(
        self, tag: int, again: bool, about: Properties, message: Message, *, no_ack: bool, whole: bool
    ) -> Delivery:
        if not no_ack:
            self._unsettled.add(tag)
        most_bytes, body = self.connection.most_bytes, message.body
        origin = message.origin(about) if whole else None
        if len(body) <= most_bytes:
            return Delivery(self, tag, body, *about, again, None, origin)
        flaw, beginning = cut_off(body, most_bytes)
        return Delivery(self, tag, beginning, *about, again, flaw, origin)

    def come_back(self, exchange: str, routing_key: str, about: Properties, body: bytes) -> None:
        self._returned("312 NO_ROUTE", exchange, routing_key, about, body)

    def confirm(self, number: int, multiple: bool, is_ack: bool) -> None:
        self._guarded(self._on_confirmed, number, multiple, is_ack)

    def become_cancelled(self, consumer_tag: str) -> None:
        """The broker has ended a consumer."""
        queue, *_ = self._consumers.pop(consumer_tag)
        ask_why_cancelled(self.connection, queue, bool(self._unsettled), self._end_cancelled)

    def become_closed(self, code: int, text: str) -> None:
        """The broker has closed the channel, as it was asked to (200) or because it refuses something."""
        host, said = self.connection.host, f"{code} {text}"
        if code == 200:
            self.end(ConnectionLost(host.place, f"closed: {said}", sent=True))
        else:
            self.end(channel_refused(host, code, said, self._refused_question()))

    def end(self, error: TransportError) -> None:
        """Nothing comes any more."""
        self.is_open = False
        self.connection.forget(self)
        self._end_script()
        self._on_closed(error)

    def _while_open(self, callback: Callable[[Any], None], answer: Any) -> None:
        if self.is_open:
            callback(answer)
