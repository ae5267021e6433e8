"""LinkChannels: the two channels of a Sender's connection, one for calls and replies, one for confirmed messages."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from servicebus.client.request import PendingRequest
from servicebus.errors import ConnectFailed, TransportError
from servicebus.protocol.interface import Exchange, OutgoingPublish
from servicebus.transport.confirms import Unconfirmed
from servicebus.transport.failures import ACCESS_REFUSED, NOT_FOUND
from servicebus.transport.interface import BrokerChannel, BrokerConnection, Delivery, Returned, Script
from servicebus.transport.returns import ReturnProbe
from servicebus.transport.steps import consume, declare_exchange, set_prefetch
from servicebus.wire.envelope import DIRECT_REPLY_TO

UNCONFIRMED_AT_ONCE = 300
"""So many messages are on their way to a broker at a time, and the others wait here: the more there are, the more work
it has with each (50 us of its CPU for one of 1,000, 40 us for one of 300)."""

_DENIALS = (403, 404)
"""No right to write to the exchange, or no such exchange."""

_RENEW_AFTER_S = 1.0
"""A channel that was refused is renewed at most this often, however many refusals there are."""


class ChannelEvents(Protocol):
    """What the link is told."""

    def channels_ready(self) -> None: ...
    def channels_broken(self, error: TransportError) -> None: ...
    def messages_denied(self, error: TransportError, unconfirmed: Sequence[PendingRequest]) -> None: ...
    def replied(self, delivery: Delivery) -> None: ...
    def returned(self, returned: Returned) -> None: ...
    def confirmed(self, request: PendingRequest, is_ack: bool) -> None: ...
    def failed(self, request: PendingRequest, error: Exception) -> None: ...


class LinkChannels:
    """Opened with a connection and gone with it. Belongs to the engine's thread.

    Args:
        place: the broker's, for errors.
        exchanges: what is declared first, unless the broker forbids it; then it is seen whether the first of them
            takes what we publish, and returns what no queue takes, before anything is sent.
    """

    def __init__(
        self,
        connection: BrokerConnection,
        place: str,
        exchanges: Sequence[Exchange],
        events: ChannelEvents,
        *,
        may_declare: bool,
    ):
        self.may_declare = may_declare
        """False once the broker has refused it: the agents have declared the exchanges then."""
        self._declared = {"", *(exchange.name for exchange in exchanges)}
        self._unconfirmed: Unconfirmed[PendingRequest] = Unconfirmed()
        self._held: deque[tuple[OutgoingPublish, PendingRequest]] = deque()
        """Messages to be published when others are confirmed, or the channel is renewed."""
        self._has_nacked = False
        """The messages' channel, since it was opened."""
        self.is_renewed = False
        """It is being closed for another one to take its place."""
        self._opened_at = 0.0
        self.connection = connection
        self._exchanges = exchanges
        self._probe = ReturnProbe(place, exchanges[0].name)
        self._events = events
        self.calls: BrokerChannel | None = None
        """For calls, pings and replies."""
        self.sends: BrokerChannel | None = None
        """For messages. None while it is opened, also while it ``is_renewed``."""
        self._open_calls()
        self._open_sends()

    def publish_message(self, outgoing: OutgoingPublish, request: PendingRequest) -> None:
        """Publish a message, now or as soon as few enough are unconfirmed; it ends as a confirm."""
        if self._held or self._has_nacked or len(self._unconfirmed) >= UNCONFIRMED_AT_ONCE:
            self._held.append((outgoing, request))
            if self._has_nacked:
                self._go_on(time.monotonic())
        else:
            self._publish_message(outgoing, request)

    def _publish_message(self, outgoing: OutgoingPublish, request: PendingRequest) -> None:
        assert self.sends is not None
        if outgoing.exchange not in self._declared:
            self._declare_events(self.sends, outgoing.exchange)
        number = self.sends.publish(
            outgoing.exchange,
            outgoing.routing_key,
            outgoing.body,
            message_id=request.id,
            persistent=True,
            headers=outgoing.headers,
            priority=outgoing.priority,
        )
        if not number:  # the channel is closed, and its end not told yet: then it comes back with the others
            self._held.append((outgoing, request))
            return
        self._unconfirmed.add(number, request)
        request.published()

    def _declare_events(self, channel: BrokerChannel, exchange: str) -> None:
        """For the first event over this connection; not for the many Senders that publish none."""
        self._declared.add(exchange)
        if self.may_declare:
            channel.declare_exchange(exchange, kind="topic", durable=True)

    @property
    def unconfirmed(self) -> int:
        """How many messages wait for their confirm, or to be published."""
        return len(self._unconfirmed) + len(self._held)

    def oldest_unconfirmed(self) -> PendingRequest | None:
        """Or the oldest that is held, while the channel is renewed."""
        return next(iter(self._unconfirmed), self._held[0][1] if self._held else None)

    def take_unconfirmed(self) -> list[PendingRequest]:
        """Take out all messages: nothing more will be heard of them."""
        held = [request for _, request in self._held]
        self._held.clear()
        return [*self._unconfirmed.clear(), *held]

    def ask_broker(self, on_answer: Callable[[], None]) -> None:
        """Have the broker say something, if it lives."""
        if self.calls is not None:
            self.calls.run(_question(), on_answer)

    def _open_sends(self) -> None:
        self.connection.open_channel(
            self._sends_open, self._sends_closed, on_returned=self._events.returned, on_confirmed=self._on_confirmed
        )

    def _open_calls(self) -> None:
        self.connection.open_channel(self._calls_open, self._calls_closed, on_returned=self._returned)

    def _calls_open(self, channel: BrokerChannel) -> None:
        channel.run(self._topology(), lambda: self._calls_ready(channel))

    def _topology(self) -> Script:
        if self.may_declare:
            for exchange in self._exchanges:
                yield declare_exchange(exchange.name, durable=exchange.is_durable)
        yield self._probe.publish
        yield consume(DIRECT_REPLY_TO, self._events.replied, no_ack=True)

    def _returned(self, returned: Returned) -> None:
        if not self._probe.returned(returned):
            self._events.returned(returned)

    def _calls_ready(self, channel: BrokerChannel) -> None:
        if self._probe.came_back:
            self._ready(calls=channel)
        else:
            self._events.channels_broken(self._probe.failure())

    def _sends_open(self, channel: BrokerChannel) -> None:
        self._has_nacked, self._opened_at = False, time.monotonic()
        if self.is_renewed:
            self.sends, self.is_renewed = channel, False
            self._publish_held(self._opened_at)
        else:
            self._ready(sends=channel)

    def _ready(self, *, calls: BrokerChannel | None = None, sends: BrokerChannel | None = None) -> None:
        self.calls = calls or self.calls
        self.sends = sends or self.sends
        if self.calls is not None and self.sends is not None:
            self._events.channels_ready()

    def _calls_closed(self, error: TransportError) -> None:
        if error.reply_code == ACCESS_REFUSED and self.may_declare and self.connection.is_open:
            self.may_declare = False
            self._open_calls()
        elif error.reply_code == NOT_FOUND and self.calls is None:
            self._broken(self._probe.no_exchange())
        else:
            self._broken(error)

    def _sends_closed(self, error: TransportError) -> None:
        former, self.sends = self.sends, None
        if self.is_renewed and former is not None and self.connection.is_open:
            self._open_sends()
            return
        if error.reply_code == ACCESS_REFUSED and self.may_declare and len(self._declared) > 1 + len(self._exchanges):
            self.may_declare = False  # the exchange of events, perhaps: an agent that subscribes has declared it
        elif error.reply_code in _DENIALS and (unconfirmed := list(self._unconfirmed)):
            self._events.messages_denied(error, unconfirmed)
        self._broken(error)

    def _broken(self, error: TransportError) -> None:
        # What closes with its connection is the connection's to tell.
        if isinstance(error, ConnectFailed) or self.connection.is_open:
            self._events.channels_broken(error)

    def _on_confirmed(self, number: int, multiple: bool, is_ack: bool) -> None:
        self._has_nacked |= not is_ack
        for request in self._unconfirmed.settled(number, multiple):
            self._events.confirmed(request, is_ack)
        if self._held:
            self._go_on(time.monotonic())

    def _go_on(self, now: float) -> None:
        """Publish what is held; over a new channel if the queue of one was refused over this one.

        A quorum queue refuses on behalf of each channel that it has told of its limit, and does not tell it when the
        limit is taken away (rabbitmq-server, issue 12206).
        """
        if not self._has_nacked or now - self._opened_at < _RENEW_AFTER_S:
            self._publish_held(now)
        elif self.sends is not None and self.sends.is_open and not self._unconfirmed:
            self.is_renewed = True
            self.sends.close()

    @property
    def _can_publish(self) -> bool:
        is_open = self.sends is not None and self.sends.is_open and not self.is_renewed
        return is_open and self.connection.blocked is None

    def _publish_held(self, now: float) -> None:
        while self._held and self._can_publish and len(self._unconfirmed) < UNCONFIRMED_AT_ONCE:
            outgoing, request = self._held.popleft()
            if not request.is_done:
                request.published_late(now)
                try:
                    self._publish_message(outgoing, request)
                except Exception as error:
                    self._events.failed(request, error)


def _question() -> Script:
    yield set_prefetch(0)
