"""AmqpConnection: the transport contract on pika.

pika does what happens once (handshake, topology, heartbeats, closing); its errors are mapped to ours in failures.py and
nowhere else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pika
from pika.adapters import base_connection
from pika.exceptions import NoFreeChannels

from servicebus.configuration import BrokerHost
from servicebus.errors import ConfigurationError, ConnectFailed, ConnectionLost, TransportError
from servicebus.transport.channel import AmqpChannel
from servicebus.transport.failures import connect_failure, connection_failure, too_few_channels
from servicebus.transport.fastpath import FastPath
from servicebus.transport.interface import ConnectionEvents, Returned
from servicebus.transport.loggers import get_logger
from servicebus.transport.loop import EventLoop, nothing
from servicebus.transport.services import ConnectionServices
from servicebus.wire.printable import printable

LOG = get_logger(__name__)

# pika reports every failed attempt several times at ERROR; we report it once, with the host and what to do.
if logging.getLogger("pika").level == logging.NOTSET:
    logging.getLogger("pika").setLevel(logging.CRITICAL)


WHOLE_BYTES = 1 << 20
"""So long a body is kept whole in any case: refused for its length or not, it costs next to nothing."""


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
        most_bytes: int,
        fast: bool = True,
    ):
        """*most_bytes*: a body over this and `WHOLE_BYTES` arrives as its beginning, with its flaw."""
        self.host = host
        self.blocked: str | None = None
        self.loop = loop
        self._events = events
        self._opened = False
        self._ended = False
        self._channels: list[AmqpChannel] = []
        self._timeouts_s = (connect_timeout_s, handshake_timeout_s)
        self._services = ConnectionServices(loop, max(most_bytes, WHOLE_BYTES))
        self.is_fast = fast
        self._pika: Any = None
        stack_timeout_s = connect_timeout_s + handshake_timeout_s
        try:
            parameters = _parameters(host, label, heartbeat_s, connect_timeout_s, stack_timeout_s)
        except ConfigurationError as error:
            # A PEM file that is missing or does not fit is an attempt that failed: the right one may come.
            self._tell_failed(ConnectFailed(host.place, str(error).removeprefix(f"host {host.name}: "), kind="tls"))
            return
        self._pika = _Pika(parameters, self._on_open, self._on_open_error, self._on_close, self._services)
        self._pika.add_on_connection_blocked_callback(self._on_blocked)
        self._pika.add_on_connection_unblocked_callback(self._on_unblocked)

    def __repr__(self) -> str:
        state = "closed" if self._ended else "open" if self._opened else "connecting"
        return f"<AmqpConnection {self.host.place} {state}{' blocked' if self.blocked else ''}>"

    @property
    def is_open(self) -> bool:
        return self._opened and not self._ended

    @property
    def bytes_received(self) -> int:
        return self._services.stream.bytes_received if self._services.stream else 0

    @property
    def bytes_written(self) -> int:
        return self._services.stream.bytes_written if self._services.stream else 0

    @property
    def bytes_acknowledged(self) -> int:
        return self._services.stream.bytes_acknowledged if self._services.stream else 0

    def open_channel(
        self,
        on_open: Callable[[AmqpChannel], None],
        on_closed: Callable[[TransportError], None],
        *,
        on_returned: Callable[[Returned], None] | None = None,
        on_confirmed: Callable[[int, bool, bool], None] | None = None,
    ) -> None:
        if not self.is_open or self._pika.is_closing:
            return  # on_lost was called or is about to be
        try:
            self._channels.append(AmqpChannel(self, self._pika, on_open, on_closed, on_returned, on_confirmed))
        except NoFreeChannels:
            too_few = too_few_channels(self.host, len(self._channels))
            self.loop.post(lambda: on_closed(too_few))

    def forget(self, channel: AmqpChannel) -> None:
        """*channel* is closed."""
        with suppress(ValueError):
            self._channels.remove(channel)

    def close(self) -> None:
        if self._pika is not None and not (self._pika.is_closed or self._pika.is_closing):
            for channel in self._channels:
                channel.flush()
            self._end_channels()
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
            return nothing
        self._tell_end(reason)
        return stream.abandon(reason)

    def _tell_end(self, reason: str) -> None:
        """Told from here, not from pika's callbacks: who waits on a dead connection must not depend on its goodbye."""
        self._ended = True
        self._end_channels()
        if self._opened:
            lost = ConnectionLost(self.host.place, reason, sent=True)
            self.loop.post(lambda: self._events.connection_lost(self, lost))
        else:
            self._tell_failed(ConnectFailed(self.host.place, reason, kind="closed"))

    def _tell_failed(self, failure: ConnectFailed) -> None:
        self._ended = True
        self.loop.post(lambda: self._events.connection_failed(self, failure))

    @property
    def frame_max(self) -> int:
        """The largest frame that was agreed on, in bytes."""
        return int(self._pika.params.frame_max)

    @property
    def channel_max(self) -> int:
        return int(self._pika.params.channel_max)

    @property
    def server_version(self) -> str:
        """The version that the broker reports; empty if it reports none."""
        version = (self._pika.server_properties or {}).get("version", "") if self._pika is not None else ""
        return version if isinstance(version, str) else ""

    def fast_path(self) -> tuple[FastPath, Callable[[bytes], None]]:
        """The fast path, and how to write to its stream; only while open."""
        assert self._services.stream is not None
        assert self._services.fast_path is not None
        return self._services.fast_path, self._services.stream.write

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
        self._end_channels()
        self._events.connection_lost(self, connection_failure(self.host, error))

    def _end_channels(self) -> None:
        for channel in self._channels:
            channel.is_open = False

    def _on_blocked(self, _connection: Any, frame: Any) -> None:
        self._tell_blocked(printable(frame.method.reason or "blocked"))

    def _on_unblocked(self, _connection: Any, _frame: Any) -> None:
        self._tell_blocked(None)

    def _tell_blocked(self, reason: str | None) -> None:
        if not self._ended:
            self.blocked = reason
            self._events.connection_blocked(self, reason)


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
