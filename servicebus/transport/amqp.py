"""AmqpConnection and AmqpChannel: the transport contract on pika.

pika does what happens once (handshake, topology, heartbeats, closing); its errors are mapped to ours here and
nowhere else.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any

import pika
from pika.adapters import base_connection

from servicebus.configuration import BrokerHost
from servicebus.errors import ConnectFailed, ConnectionLost, TransportError
from servicebus.transport.failures import channel_failure, closing_reason, connect_failure
from servicebus.transport.fastlane import FastLane
from servicebus.transport.frames import Properties, ack_frame, content_frames, publish_frame
from servicebus.transport.interface import ConnectionEvents, Delivery, Returned, Script
from servicebus.transport.loop import EventLoop
from servicebus.transport.services import ConnectionServices

LOG = logging.getLogger(__name__)

# pika reports every failed attempt several times at ERROR; we report it once, with the host and what to do.
if logging.getLogger("pika").level == logging.NOTSET:
    logging.getLogger("pika").setLevel(logging.CRITICAL)

_PERSISTENT = 2


class _Pika(base_connection.BaseConnection):  # type: ignore[misc]
    """pika's connection, on services that are given from outside."""

    @classmethod
    def create_connection(cls, *_args: Any, **_kwargs: Any) -> Any:
        raise NotImplementedError("connections are made one by one, by AmqpConnection")


class AmqpConnection:
    """One connection to one broker. Made in the loop's thread; starts to connect at once."""

    def __init__(
        self,
        loop: EventLoop,
        host: BrokerHost,
        events: ConnectionEvents,
        *,
        label: str,
        heartbeat_s: int,
        connect_timeout_s: float,
        handshake_timeout_s: float,
        fast: bool = True,
    ):
        self.host = host
        self.blocked: str | None = None
        self._loop = loop
        self._events = events
        self._opened = False
        self._ended = False
        self._timeouts_s = (connect_timeout_s, handshake_timeout_s)
        self._services = ConnectionServices(loop, fast=fast)
        parameters = _parameters(host, label, heartbeat_s, connect_timeout_s, connect_timeout_s + handshake_timeout_s)
        self._pika = _Pika(parameters, self._on_open, self._on_open_error, self._on_close, self._services)
        self._pika.add_on_connection_blocked_callback(self._on_blocked)
        self._pika.add_on_connection_unblocked_callback(self._on_unblocked)

    def __repr__(self) -> str:
        state = "closed" if self._ended else "open" if self._opened else "connecting"
        return f"<AmqpConnection {self.host.name} {state}{' blocked' if self.blocked else ''}>"

    @property
    def is_open(self) -> bool:
        return self._opened and not self._ended

    @property
    def bytes_received(self) -> int:
        return self._services.stream.bytes_received if self._services.stream else 0

    def open_channel(
        self,
        on_open: Callable[[AmqpChannel], None],
        on_closed: Callable[[TransportError], None],
        *,
        on_returned: Callable[[Returned], None] | None = None,
        on_confirmed: Callable[[int, bool, bool], None] | None = None,
    ) -> None:
        if not self.is_open:
            return  # on_lost has been told or is on its way
        AmqpChannel(self, self._pika, on_open, on_closed, on_returned, on_confirmed)

    def close(self) -> None:
        if not (self._pika.is_closed or self._pika.is_closing):
            self._pika.close()

    def abort(self, reason: str) -> None:
        if self._ended:
            return
        self._tell_end(reason)
        if self._services.stream is not None:
            self._services.stream.cut(reason)
        else:
            self.close()

    def abandon(self, reason: str) -> Callable[[], None]:
        stream = self._services.stream
        if self._ended or stream is None:
            self.abort(reason)
            return _nothing
        self._tell_end(reason)
        return stream.abandon(reason)

    def _tell_end(self, reason: str) -> None:
        """Told from here, not from pika's callbacks: who waits on a dead connection must not depend on its goodbye."""
        self._ended = True
        if self._opened:
            lost = self.lost(reason)
            self._loop.post(lambda: self._events.connection_lost(self, lost))
        else:
            failed = ConnectFailed(self.host.name, reason, kind="closed")
            self._loop.post(lambda: self._events.connection_failed(self, failed))

    @property
    def frame_max(self) -> int:
        """The largest frame that was agreed on, in bytes."""
        return int(self._pika.params.frame_max)

    def lane(self) -> tuple[FastLane | None, Callable[[bytes], None]]:
        """The fast lane, if this connection has one, and how to write to its stream; only while open."""
        assert self._services.stream is not None
        return self._services.lane, self._services.stream.write

    def lost(self, reason: str) -> ConnectionLost:
        return ConnectionLost(self.host.name, reason, sent=True)

    def _on_open(self, _connection: Any) -> None:
        if self._ended:
            return
        self._opened = True
        self._events.connection_opened(self)

    def _on_open_error(self, _connection: Any, error: BaseException) -> None:
        if self._ended:
            return
        self._ended = True
        failure = connect_failure(self.host, error, *self._timeouts_s)
        failure.__cause__ = error
        self._events.connection_failed(self, failure)

    def _on_close(self, _connection: Any, error: BaseException) -> None:
        if self._ended:
            return
        self._ended = True
        self._events.connection_lost(self, self.lost(closing_reason(error)))

    def _on_blocked(self, _connection: Any, frame: Any) -> None:
        self.blocked = frame.method.reason or "blocked"
        self._events.connection_blocked(self, self.blocked)

    def _on_unblocked(self, _connection: Any, _frame: Any) -> None:
        self.blocked = None
        self._events.connection_blocked(self, None)


def _nothing() -> None:
    return None


class AmqpChannel:
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
        self._script: Script | None = None
        self._channel = raw.channel(on_open_callback=self._opened)
        self._number = int(self._channel.channel_number)
        self._lane, self._write = connection.lane()

    def __repr__(self) -> str:
        return f"<AmqpChannel {self._channel.channel_number} of {self.connection!r}>"

    @property
    def is_open(self) -> bool:
        return bool(self._channel.is_open) and self.connection.is_open

    def run(self, script: Script, on_done: Callable[[], None] | None = None) -> None:
        self._script = script
        self._advance(on_done, None)

    def _advance(self, on_done: Callable[[], None] | None, answer: Any) -> None:
        script = self._script
        if script is None or not self.is_open:
            return
        try:
            step = script.send(answer)
        except StopIteration:
            if self._script is script:  # the script's own end may have started the next one
                self._script = None
            if on_done is not None:
                on_done()
            return
        step(self, functools.partial(self._advance, on_done))

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
        self._published += 1
        expiration = None if expiration_ms is None else str(expiration_ms)
        if self._lane is not None:
            self._write(publish_frame(self._number, exchange, routing_key, mandatory))
            self._write(
                content_frames(
                    self._number,
                    body,
                    self.connection.frame_max,
                    correlation_id=correlation_id,
                    reply_to=reply_to,
                    expiration=expiration,
                    message_id=message_id,
                    persistent=persistent,
                    headers=headers,
                )
            )
            return self._published
        properties = pika.BasicProperties(
            correlation_id=correlation_id,
            reply_to=reply_to,
            expiration=expiration,
            message_id=message_id,
            delivery_mode=_PERSISTENT if persistent else None,
            headers=headers,
        )
        self._channel.basic_publish(exchange, routing_key, body, properties, mandatory=mandatory)
        return self._published

    def ack(self, tag: int) -> None:
        if not self.is_open:
            return
        if self._lane is not None:
            self._write(ack_frame(self._number, tag))
        else:
            self._channel.basic_ack(tag)

    def reject(self, tag: int, *, requeue: bool) -> None:
        if self.is_open:
            self._channel.basic_reject(tag, requeue=requeue)

    def cancel(self, consumer_tag: str) -> None:
        if self.is_open:
            self._channel.basic_cancel(consumer_tag)

    def close(self) -> None:
        if self.is_open:
            self._channel.close()

    # -- pika's callbacks ----------------------------------------------------------------------------------------

    def _opened(self, channel: Any) -> None:
        channel.add_on_close_callback(self._closed)
        channel.add_on_cancel_callback(self._cancelled)
        if self._on_returned is not None:
            channel.add_on_return_callback(self._returned)
        if self._on_confirmed is not None:
            if self._lane is not None:
                self._lane.add_confirms(self._number, self._fast_confirmed)
            channel.confirm_delivery(self._confirmed, callback=lambda _frame: self._on_open(self))
        else:
            self._on_open(self)

    def _closed(self, _channel: Any, error: BaseException) -> None:
        if self._lane is not None:
            self._lane.remove_channel(self._number)
        if self._script is not None:
            self._script.close()
            self._script = None
        self._on_closed(channel_failure(self.connection.host, error))

    def _cancelled(self, frame: Any) -> None:
        reason = f"the broker cancelled consumer {frame.method.consumer_tag}; was its queue deleted?"
        self._on_closed(ConnectionLost(self.connection.host.name, reason, sent=False))

    def _returned(self, _channel: Any, method: Any, properties: Any, body: bytes) -> None:
        assert self._on_returned is not None
        self._on_returned(
            Returned(
                method.exchange,
                method.routing_key,
                properties.correlation_id,
                properties.message_id,
                body,
                f"{method.reply_code} {method.reply_text}",
            )
        )

    def _confirmed(self, frame: Any) -> None:
        assert self._on_confirmed is not None
        method = frame.method
        self._on_confirmed(method.delivery_tag, method.multiple, isinstance(method, pika.spec.Basic.Ack))

    def _fast_confirmed(self, number: int, multiple: bool) -> None:
        assert self._on_confirmed is not None
        self._on_confirmed(number, multiple, True)

    # -- for the steps of scripts ------------------------------------------------------------------------------------

    @property
    def raw(self) -> Any:
        """pika's channel; for transport/steps.py only."""
        return self._channel

    def take_deliveries(self, consumer_tag: str, on_delivery: Callable[[Delivery], None]) -> None:
        """Let the fast lane, if there is one, take this consumer's deliveries past pika."""
        if self._lane is None:
            return

        def deliver(tag: int, redelivered: bool, routing_key: str, properties: Properties, body: bytes) -> None:
            on_delivery(
                Delivery(
                    self,
                    tag,
                    body,
                    redelivered=redelivered,
                    routing_key=routing_key,
                    correlation_id=properties.correlation_id,
                    reply_to=properties.reply_to,
                    message_id=properties.message_id,
                    content_type=properties.content_type,
                    headers=properties.headers,
                )
            )

        self._lane.add_consumer(self._number, consumer_tag, deliver)


def _parameters(
    host: BrokerHost, label: str, heartbeat_s: int, connect_timeout_s: float, stack_timeout_s: float
) -> pika.ConnectionParameters:
    context = host.ssl_context()
    return pika.ConnectionParameters(
        host.host,
        host.port,
        host.virtual_host,
        pika.PlainCredentials(host.user, host.password.reveal(), erase_on_connect=True),
        heartbeat=heartbeat_s,
        socket_timeout=connect_timeout_s,
        stack_timeout=stack_timeout_s,
        connection_attempts=1,
        retry_delay=0,
        ssl_options=pika.SSLOptions(context, host.tls.server_name or host.host) if context is not None else None,
        client_properties={"connection_name": label, "product": "servicebus"},
    )
