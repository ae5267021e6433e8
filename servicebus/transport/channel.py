"""AmqpChannel: one channel of an AmqpConnection; the transport contract on pika and the fast path."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pika

from servicebus.errors import TransportError
from servicebus.transport.acks import Acks
from servicebus.transport.cancelled import ask_why_cancelled
from servicebus.transport.failures import channel_failure
from servicebus.transport.frames import Properties, ack_frame, publish_frames, write_properties
from servicebus.transport.interface import Delivery, Flaw, FlawedDelivery, Returned
from servicebus.transport.questions import AmqpQuestions

if TYPE_CHECKING:
    from servicebus.transport.amqp import AmqpConnection

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


class AmqpChannel(AmqpQuestions):
    """One channel of an AmqpConnection; see BrokerChannel for the contract."""

    def __init__(
        self,
        connection: AmqpConnection,
        raw: Any,
        on_open: Callable[[AmqpChannel], None],
        on_closed: Callable[[TransportError], None],
        on_returned: Callable[[Returned], None] | None,
        on_confirmed: Callable[[int, bool, bool], None] | None,
    ):
        self.connection = connection
        self._on_open = on_open
        self._on_closed = on_closed
        self._on_returned = on_returned
        self._on_confirmed = on_confirmed
        self._published = 0
        self._acks = Acks()
        self._acks_at_once = 1
        self._acks_wait = False
        self.frame_max = connection.frame_max
        super().__init__(raw.channel(on_open_callback=self._opened))
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
    ) -> int:
        if not self.is_open:
            return 0
        # What cannot be encoded raises before it is counted: the broker confirms by its own count of what it gets.
        expiration = None if expiration_ms is None else _expiration(expiration_ms)
        flags, properties = write_properties(headers, persistent, correlation_id, reply_to, expiration, message_id)
        if self._is_fast:
            number, frame_max = self._number, self.frame_max
            self._write(publish_frames(number, exchange, routing_key, mandatory, flags, properties, body, frame_max))
        else:
            self._raw.basic_publish(exchange, routing_key, body, _Properties(flags, properties), mandatory=mandatory)
        self._published += 1
        return self._published

    def save_acks(self, at_most: int) -> None:
        """From now on keep acks for a moment, up to *at_most* of them.

        For a consumer that may be given a delivery twice: if the connection ends meanwhile, they come again.
        """
        self._acks_at_once = at_most

    def ack(self, tag: int) -> None:
        waiting = self._acks.add(tag)
        if waiting == self._acks_at_once:
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
        for tag, multiple in self._acks.take():
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
            ask_why_cancelled(self.connection, queue, self._acks.at_work > 0, self._end_cancelled)

    def _end_cancelled(self, reason: TransportError) -> None:
        if self.is_open:
            self._on_closed(reason)

    def _guarded(self, callback: Callable[..., None] | None, *about: Any) -> None:
        """What *callback* raises costs its own frame, not what was read with it."""
        assert callback is not None
        try:
            callback(*about)
        except Exception as error:
            self.connection.loop.failed(callback, error)

    def _returned(self, reason: str, exchange: str, routing_key: str, about: Properties, body: bytes) -> None:
        correlation_id, _, message_id, _ = about
        self._guarded(self._on_returned, Returned(exchange, routing_key, correlation_id, message_id, body, reason))

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
    ) -> None:
        def consuming(frame: Any) -> None:
            on_done(frame.method.consumer_tag)

        callback = self._asking(queue, consuming)
        # The fast path takes the deliveries past pika.
        tag = self._raw.basic_consume(queue, _nothing, auto_ack=no_ack, exclusive=exclusive, callback=callback)
        self._consumed[tag] = queue
        self._take_deliveries(tag, on_delivery, no_ack=no_ack)

    def _take_deliveries(self, consumer_tag: str, on_delivery: Callable[[Delivery], None], *, no_ack: bool) -> None:
        note = self._acks.delivered

        def deliver(tag: int, about: Properties, body: bytes, flaw: Flaw | None = None) -> None:
            if not no_ack:
                note(tag)
            try:
                on_delivery(
                    Delivery(self, tag, body, *about) if flaw is None else FlawedDelivery(flaw, self, tag, body, *about)
                )
            except Exception as error:  # it costs this delivery; what was read with it goes on
                self.connection.loop.failed(on_delivery, error)

        self._fast_path.add_consumer(self._number, consumer_tag, deliver)

    def get(self, queue: str, on_done: Callable[[Delivery | None], None]) -> None:
        def got(tag: int = 0, about: Properties | None = None, body: bytes = b"", flaw: Flaw | None = None) -> None:
            if about is None:
                on_done(None)
                return
            self._acks.delivered(tag)
            on_done(
                Delivery(self, tag, body, *about) if flaw is None else FlawedDelivery(flaw, self, tag, body, *about)
            )

        self._fast_path.add_get(self._number, got)
        self._write(pika.frame.Method(self._number, pika.spec.Basic.Get(queue=queue)).marshal())


def _nothing(*_delivery: Any) -> None:
    return None
