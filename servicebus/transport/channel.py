"""AmqpChannel: one channel of an AmqpConnection; the transport contract on pika and the fast path."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import pika

from servicebus.errors import TransportError
from servicebus.transport.acks import Acks
from servicebus.transport.base_channel import BaseChannel, ChannelConnection
from servicebus.transport.cancelled import ask_why_cancelled
from servicebus.transport.failures import channel_failure
from servicebus.transport.fastpath import FastPath, delivering
from servicebus.transport.frames import ack_frame, publish_frames, write_properties
from servicebus.transport.interface import Delivery, ExchangeKind, Returned
from servicebus.transport.loop import nothing

_LONGEST_EXPIRATION_MS = 2**32 - 1
"""RabbitMQ takes no more, 49 days: a longer one closes the channel (406)."""
_ACKS_WAIT_S = 0.05


@functools.lru_cache(maxsize=1024)
def _expiration(expiration_ms: int) -> str:
    """In AMQP's form. Requests that are made with one timeout mostly have the same."""
    return str(min(expiration_ms, _LONGEST_EXPIRATION_MS))


class _Properties(pika.BasicProperties):  # type: ignore[misc]
    """Written by us: pika cannot write all that it can read."""

    def __init__(self, flags: int, raw: bytes):
        super().__init__()
        self._raw = flags.to_bytes(2, "big") + raw

    def encode(self) -> list[bytes]:
        return [self._raw]


class _Connection(ChannelConnection, Protocol):
    """AmqpConnection, as its channels use it."""

    @property
    def frame_max(self) -> int: ...
    @property
    def is_fast(self) -> bool: ...
    def fast_path(self) -> tuple[FastPath, Callable[[bytes], None]]: ...


class AmqpChannel(BaseChannel):
    """One channel of an AmqpConnection; see BrokerChannel for the contract."""

    def __init__(
        self,
        connection: _Connection,
        raw: Any,
        on_open: Callable[[AmqpChannel], None],
        on_closed: Callable[[TransportError], None],
        on_returned: Callable[[Returned], None] | None,
        on_confirmed: Callable[[int, bool, bool], None] | None,
    ):
        super().__init__(connection, on_open, on_closed, on_returned, on_confirmed)
        self.frame_max = connection.frame_max
        self._acks = Acks()
        self._acked: list[int] = []
        self._acks_at_once = 1
        self._acks_wait = False
        self._consumed: dict[str, str] = {}
        """The queue of each consumer, by its tag."""
        self._raw = raw.channel(on_open_callback=self._opened)
        self._number = int(self._raw.channel_number)
        self._is_fast = connection.is_fast
        self._fast_path, self._write = connection.fast_path()

    def __repr__(self) -> str:
        return f"<AmqpChannel {self._raw.channel_number} of {self.connection!r}>"

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
        # What cannot be encoded raises before it is counted: the broker confirms by its own count of what it gets.
        if properties is None:
            expiration = None if expiration_ms is None else _expiration(expiration_ms)
            flags, raw = write_properties(
                headers, persistent, correlation_id, reply_to, expiration, message_id, priority
            )
        else:
            flags, raw = properties
        if self._is_fast:
            number, frame_max = self._number, self.frame_max
            self._write(publish_frames(number, exchange, routing_key, mandatory, flags, raw, body, frame_max))
        else:
            self._raw.basic_publish(exchange, routing_key, body, _Properties(flags, raw), mandatory=mandatory)
        self._published += 1
        return self._published

    def save_acks(self, at_most: int) -> None:
        """From now on keep acks for a moment, up to *at_most* of them.

        For a consumer that may be given a delivery twice: if the connection ends meanwhile, they come again.
        """
        self._acks_at_once = at_most

    def ack(self, tag: int) -> None:
        self._acked.append(tag)
        if len(self._acked) == self._acks_at_once:
            self.connection.loop.flush_later(self)
        elif not self._acks_wait:
            self._acks_wait = True
            self.connection.loop.call_later(_ACKS_WAIT_S, self._waited)

    def _waited(self) -> None:
        self._acks_wait = False
        self.flush()

    def flush(self) -> None:
        """Send the acks that wait."""
        if not self.is_open:
            return
        acked, self._acked = self._acked, []
        for tag, multiple in self._acks.frames(acked):
            if self._is_fast:
                self._write(ack_frame(self._number, tag, multiple))
            else:
                self._raw.basic_ack(tag, multiple)

    def reject(self, tag: int, *, requeue: bool) -> None:
        if self.is_open:
            self._acks.settled_otherwise(tag)
            self._raw.basic_reject(tag, requeue=requeue)

    def close(self) -> None:
        if self.is_open:
            self.flush()
            self.is_open = False
            self._raw.close()

    # -- what the broker answers, in pika's words --------------------------------------------------------------------

    def declare_exchange(
        self,
        name: str,
        *,
        kind: ExchangeKind = "direct",
        durable: bool,
        passive: bool = False,
        on_done: Callable[[Any], None] | None = None,
    ) -> None:
        self._raw.exchange_declare(name, kind, passive=passive, durable=durable, callback=on_done)
        self.has_unanswered = self.has_unanswered or on_done is None

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
        def answered(frame: Any) -> None:
            on_done((frame.method.queue, frame.method.message_count, frame.method.consumer_count))

        self._raw.queue_declare(
            name,
            passive=passive,
            durable=durable,
            exclusive=exclusive,
            auto_delete=auto_delete,
            arguments=dict(arguments or {}),
            callback=self._asking(name, answered, is_declaration=not passive),
        )

    def bind_queue(
        self, queue: str, exchange: str, routing_key: str, on_done: Callable[[Any], None] | None = None
    ) -> None:
        callback = None if on_done is None else self._asking(queue, on_done)
        self._raw.queue_bind(queue, exchange, routing_key, callback=callback)
        self.has_unanswered = self.has_unanswered or on_done is None

    def unbind_queue(self, queue: str, exchange: str, routing_key: str, on_done: Callable[[Any], None]) -> None:
        self._raw.queue_unbind(queue, exchange, routing_key, callback=self._asking(queue, on_done))

    def delete_queue(
        self, queue: str, on_done: Callable[[int], None], *, if_unused: bool = False, if_empty: bool = False
    ) -> None:
        def deleted(frame: Any) -> None:
            on_done(frame.method.message_count)

        callback = self._asking(queue, deleted)
        self._raw.queue_delete(queue, if_unused=if_unused, if_empty=if_empty, callback=callback)

    def set_prefetch(self, count: int, on_done: Callable[[Any], None]) -> None:
        self._raw.basic_qos(prefetch_count=count, callback=on_done)

    def cancel(self, consumer_tag: str, on_done: Callable[[Any], None] | None = None) -> None:
        if self.is_open:
            self._consumed.pop(consumer_tag, None)
            self._raw.basic_cancel(consumer_tag, callback=on_done)

    # -- pika's callbacks ----------------------------------------------------------------------------------------

    def _opened(self, channel: Any) -> None:
        self.is_open = self.connection.is_open
        channel.add_on_close_callback(self._closed)
        channel.add_on_cancel_callback(self._cancelled)
        if self._on_returned is not None:
            self._fast_path.add_returns(self._number, self._returned)
        if self._on_confirmed is not None:
            if self._is_fast:
                self._fast_path.add_confirms(self._number, self._fast_confirmed)
            channel.confirm_delivery(self._confirmed, callback=lambda _frame: self._on_open(self))
        else:
            self._on_open(self)

    def _closed(self, _channel: Any, error: BaseException) -> None:
        self.is_open = False
        self.connection.forget(self)
        self._fast_path.remove_channel(self._number)
        self._end_script()
        self._on_closed(channel_failure(self.connection.host, error, self._refused_question()))

    def _cancelled(self, frame: Any) -> None:
        queue = self._consumed.pop(frame.method.consumer_tag, "")
        if queue:
            ask_why_cancelled(self.connection, queue, self._acks.at_work > len(self._acked), self._end_cancelled)

    def _confirmed(self, frame: Any) -> None:
        method = frame.method
        is_ack = isinstance(method, pika.spec.Basic.Ack)
        self._guarded(self._on_confirmed, method.delivery_tag, method.multiple, is_ack)

    def _fast_confirmed(self, number: int, multiple: bool) -> None:
        self._guarded(self._on_confirmed, number, multiple, True)

    # -- deliveries ------------------------------------------------------------------------------------------------

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
        def consuming(frame: Any) -> None:
            on_done(frame.method.consumer_tag)

        callback = self._asking(queue, consuming)
        # The fast path takes the deliveries past pika.
        tag = self._raw.basic_consume(queue, nothing, auto_ack=no_ack, exclusive=exclusive, callback=callback)
        self._consumed[tag] = queue
        deliver = delivering(self, on_delivery, None if no_ack else self._acks.delivered)
        self._fast_path.add_consumer(self._number, tag, deliver, whole=whole)

    def get(self, queue: str, on_done: Callable[[Delivery | None], None]) -> None:
        def got(*delivery: Any) -> None:
            if not delivery:
                on_done(None)
                return
            tag, again, about, body, flaw, origin = delivery
            self._acks.delivered(tag)
            on_done(Delivery._make((self, tag, body, *about, again, flaw, origin)))

        self._fast_path.add_get(self._number, got)
        self._write(pika.frame.Method(self._number, pika.spec.Basic.Get(queue=queue)).marshal())
