"""LinkChannels: the two channels of a Sender's connection, one for calls and replies, one for confirmed messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from servicebus.client.request import Request
from servicebus.client.version import Exchange, Parcel
from servicebus.errors import ConnectFailed, TransportError
from servicebus.transport.confirms import Unconfirmed
from servicebus.transport.interface import BrokerChannel, BrokerConnection, Delivery, Returned, Script
from servicebus.transport.steps import consume, declare_exchange, set_prefetch
from servicebus.wire.envelope import DIRECT_REPLY_TO


class ChannelEvents(Protocol):
    """What the link is told."""

    def channels_ready(self) -> None: ...
    def channels_broken(self, error: TransportError) -> None: ...
    def replied(self, delivery: Delivery) -> None: ...
    def returned(self, returned: Returned) -> None: ...
    def confirmed(self, request: Request, is_ack: bool) -> None: ...


class LinkChannels:
    """Opened with a connection and gone with it. Belongs to the engine's thread.

    Args:
        exchanges: what is declared first, unless the broker forbids it.
    """

    def __init__(
        self,
        connection: BrokerConnection,
        exchanges: Sequence[Exchange],
        events: ChannelEvents,
        *,
        may_declare: bool,
    ):
        self.may_declare = may_declare
        """False once the broker has refused it: the agents have declared the exchanges then."""
        self.unconfirmed: Unconfirmed[Request] = Unconfirmed()
        self._connection = connection
        self._exchanges = exchanges
        self._events = events
        self._calls: BrokerChannel | None = None
        self._sends: BrokerChannel | None = None
        self._open_calls()
        connection.open_channel(
            self._sends_open, self._broken, on_returned=events.returned, on_confirmed=self._on_confirmed
        )

    @property
    def is_open(self) -> bool:
        return self._calls is not None and self._calls.is_open and self._sends is not None and self._sends.is_open

    def publish_call(
        self, parcel: Parcel, wire_id: str, expiration_ms: int, headers: Mapping[str, Any] | None = None
    ) -> None:
        """Publish a call or a ping; it ends as a reply, as a return, or by its expiration."""
        if self._calls is not None:
            self._calls.publish(
                parcel.exchange,
                parcel.routing_key,
                parcel.body,
                correlation_id=wire_id,
                reply_to=DIRECT_REPLY_TO,
                expiration_ms=expiration_ms,
                headers=headers,
            )

    def publish_message(self, parcel: Parcel, request: Request) -> None:
        assert self._sends is not None
        number = self._sends.publish(
            parcel.exchange,
            parcel.routing_key,
            parcel.body,
            message_id=request.id,
            persistent=True,
            headers=parcel.headers,
        )
        self.unconfirmed.add(number, request)

    def ask_broker(self) -> None:
        """Have the broker say something, if it lives."""
        if self._sends is not None:
            self._sends.run(_pulse())

    def _open_calls(self) -> None:
        self._connection.open_channel(self._calls_open, self._calls_closed, on_returned=self._events.returned)

    def _calls_open(self, channel: BrokerChannel) -> None:
        channel.run(self._topology(), lambda: self._ready(calls=channel))

    def _topology(self) -> Script:
        if self.may_declare:
            for exchange in self._exchanges:
                yield declare_exchange(exchange.name, durable=exchange.is_durable)
        yield consume(DIRECT_REPLY_TO, self._events.replied, no_ack=True)

    def _sends_open(self, channel: BrokerChannel) -> None:
        self._ready(sends=channel)

    def _ready(self, *, calls: BrokerChannel | None = None, sends: BrokerChannel | None = None) -> None:
        self._calls = calls or self._calls
        self._sends = sends or self._sends
        if self._calls is not None and self._sends is not None:
            self._events.channels_ready()

    def _calls_closed(self, error: TransportError) -> None:
        is_forbidden = isinstance(error, ConnectFailed) and " 403 " in f" {error.reason} "
        if is_forbidden and self.may_declare and self._connection.is_open:
            self.may_declare = False
            self._open_calls()
        else:
            self._broken(error)

    def _broken(self, error: TransportError) -> None:
        # What closes with its connection is the connection's to tell.
        if isinstance(error, ConnectFailed) or self._connection.is_open:
            self._events.channels_broken(error)

    def _on_confirmed(self, number: int, multiple: bool, is_ack: bool) -> None:
        for request in self.unconfirmed.settled(number, multiple):
            self._events.confirmed(request, is_ack)


def _pulse() -> Script:
    yield set_prefetch(0)
