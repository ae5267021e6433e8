"""Link: a Sender's connection to one broker: two channels, reconnecting, and what was published but not confirmed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import Protocol

from servicebus.client.path import Path
from servicebus.client.request import Request
from servicebus.client.version import Parcel, Version
from servicebus.configuration import BrokerHost, Configuration
from servicebus.errors import ConnectFailed, ConnectionLost, TransportError
from servicebus.policy.backoff import Backoff, cap_for
from servicebus.policy.liveness import PingClock, Verdict
from servicebus.policy.paths import Trust
from servicebus.transport.amqp import AmqpConnection
from servicebus.transport.interface import BrokerChannel, BrokerConnection, Delivery, Returned, Script
from servicebus.transport.loop import EventLoop
from servicebus.transport.steps import consume, declare_exchange, set_prefetch
from servicebus.wire.envelope import DIRECT_REPLY_TO, Kind

CONNECT_LIMIT_S = 2.0
"""At most this long for TCP alone: a SYN that was dropped is repeated by the kernel after 1 s, then only after 3 and
7 s, so a fresh attempt finds a healed network sooner than a patient one."""


HURRY_S = 0.2
"""While somebody waits and has nothing else, a host whose attempts cost nobody anything is tried this often."""

_NOT_TRIED = "not tried yet"


class LinkState(Enum):
    IDLE = "idle"
    CONNECTING = "connecting"
    UP = "up"
    BACKOFF = "backoff"
    CLOSED = "closed"


class LinkEvents(Protocol):
    """What the engine wants to know of its links; called in the loop's thread."""

    def link_up(self, link: Link) -> None: ...
    def link_idle(self, link: Link) -> None: ...
    def link_down(self, link: Link, reason: str, orphans: list[Request]) -> None: ...
    def link_blocked(self, link: Link, reason: str | None) -> None: ...
    def replied(self, link: Link, delivery: Delivery) -> None: ...
    def unroutable(self, link: Link, returned: Returned) -> None: ...
    def confirmed(self, link: Link, request: Request, is_ack: bool) -> None: ...


class Link:
    """One broker as the Sender sees it. Belongs to the engine's thread.

    Args:
        versions: what may be spoken there, the newest first.
    """

    def __init__(
        self,
        loop: EventLoop,
        host: BrokerHost,
        config: Configuration,
        versions: Sequence[Version],
        events: LinkEvents,
    ):
        self.host = host
        self.newest = versions[0]
        self.state = LinkState.IDLE
        self.trust = Trust()
        self.paths: dict[str, Path] = {}
        self.is_wanted = False
        """Reconnect after a failure; set while the engine prefers this host or has nothing better."""
        self.last_error = _NOT_TRIED
        self.failure: ConnectFailed | None = None
        """Why the last attempt to connect failed; None once one succeeded."""
        self.connecting_since: float | None = None
        self.up_since = 0.0
        self.used_at = 0.0
        self.calls = 0
        self._loop = loop
        self._config = config
        self._exchanges = [version.exchange for version in versions]
        self._events = events
        self._backoff = Backoff()
        self._tried_at = 0.0
        self._is_cheap = False
        self._connection: AmqpConnection | None = None
        self._calls: BrokerChannel | None = None
        self._sends: BrokerChannel | None = None
        self._ready = 0
        self._unconfirmed: dict[int, Request] = {}
        self._clock = PingClock(config.path_ping_after, config.path_ping_timeout, 0.0)
        self._bytes_heard = -1
        self._may_declare = True

    def __repr__(self) -> str:
        return f"<Link {self.host.name} {self.state.value}>"

    @property
    def is_up(self) -> bool:
        return self.state is LinkState.UP

    @property
    def is_usable(self) -> bool:
        """Up, not blocked, and its channels open: one may have closed before its callback has told us."""
        return (
            self.state is LinkState.UP
            and self.blocked is None
            and self._calls is not None
            and self._calls.is_open
            and self._sends is not None
            and self._sends.is_open
        )

    @property
    def can_start(self) -> bool:
        return self.state is LinkState.IDLE

    @property
    def is_pausing(self) -> bool:
        """In a backoff that may be cut short: the failed attempt cost the broker nothing."""
        return self.state is LinkState.BACKOFF and self._is_cheap

    def can_hurry(self, now: float) -> bool:
        return self.is_pausing and now - self._tried_at >= HURRY_S

    @property
    def blocked(self) -> str | None:
        return self._connection.blocked if self._connection is not None else None

    @property
    def bytes_received(self) -> int:
        return self._connection.bytes_received if self._connection is not None else 0

    def describe(self) -> str:
        """Why this host is of no use now, for error texts."""
        if self.blocked is not None:
            return f"blocked by the broker ({self.blocked})"
        return "connected" if self.is_up else self.last_error

    def path(self, node: str, now: float) -> Path:
        path = self.paths.get(node)
        if path is None:
            path = Path(self, node, PingClock(self._config.path_ping_after, self._config.path_ping_timeout, now))
            self.paths[node] = path
        return path

    # -- life ----------------------------------------------------------------------------------------------------

    def connect(self, now: float) -> None:
        if self.state not in (LinkState.IDLE, LinkState.BACKOFF):
            return
        self.state = LinkState.CONNECTING
        self.connecting_since = self._tried_at = now
        if self.last_error == _NOT_TRIED:
            self.last_error = "no answer to the first attempt yet"
        self._connection = AmqpConnection(
            self._loop,
            self.host,
            self,
            label=f"servicebus sender {self._config.node_name} pid {os.getpid()}",
            heartbeat_s=self._config.heartbeat_interval,
            connect_timeout_s=min(self._config.socket_timeout, CONNECT_LIMIT_S),
            handshake_timeout_s=self._config.socket_timeout,
            fast=self._config.fast_lane,
        )

    def abort(self, reason: str) -> None:
        if self._connection is not None:
            self._connection.abort(reason)

    def rest(self) -> None:
        """Close a connection that nobody needs now; the next ``connect()`` opens it again."""
        self.is_wanted = False
        if self._connection is not None and self.is_up:
            self._connection.close()

    def close(self) -> None:
        self.state = LinkState.CLOSED
        if self._connection is not None:
            self._connection.close() if self._connection.is_open else self._connection.abort("the Sender was closed")

    # What an older connection still has to say concerns nobody any more.

    def connection_opened(self, connection: BrokerConnection) -> None:
        if connection is not self._connection:
            connection.abort("superseded")
            return
        self._ready = 0
        self._open_calls(connection)
        connection.open_channel(
            self._sends_open,
            self._channel_closed,
            on_returned=lambda returned: self._events.unroutable(self, returned),
            on_confirmed=self._on_confirmed,
        )

    def connection_failed(self, connection: BrokerConnection, error: ConnectFailed) -> None:
        if connection is self._connection:
            self.failure = error
            self._down(error.reason, error.kind)

    def connection_lost(self, connection: BrokerConnection, error: ConnectionLost) -> None:
        if connection is self._connection:
            self._down(error.reason, "closed")

    def connection_blocked(self, connection: BrokerConnection, reason: str | None) -> None:
        if connection is self._connection:
            self._events.link_blocked(self, reason)

    def _open_calls(self, connection: BrokerConnection) -> None:
        connection.open_channel(
            self._calls_open,
            self._calls_closed,
            on_returned=lambda returned: self._events.unroutable(self, returned),
        )

    def _calls_open(self, channel: BrokerChannel) -> None:
        self._calls = channel
        channel.run(self._topology(), self._one_ready)

    def _topology(self) -> Script:
        if self._may_declare:
            for exchange in self._exchanges:
                yield declare_exchange(exchange.name, durable=exchange.is_durable)
        yield consume(DIRECT_REPLY_TO, lambda delivery: self._events.replied(self, delivery), no_ack=True)

    def _calls_closed(self, error: TransportError) -> None:
        is_forbidden = isinstance(error, ConnectFailed) and " 403 " in f" {error.reason} "
        if is_forbidden and self._may_declare and self._connection is not None and self._connection.is_open:
            # A Sender may lack the right to declare; the agents have declared the exchange then.
            self._may_declare = False
            self._open_calls(self._connection)
            return
        self._channel_closed(error)

    def _sends_open(self, channel: BrokerChannel) -> None:
        self._sends = channel
        self._one_ready()

    def _one_ready(self) -> None:
        self._ready += 1
        if self._ready < 2 or self.state is not LinkState.CONNECTING:
            return
        self.state = LinkState.UP
        self.connecting_since = None
        self.failure = None
        self._backoff.reset()
        self._events.link_up(self)

    def _channel_closed(self, error: TransportError) -> None:
        if isinstance(error, ConnectFailed):
            self._down(error.reason, error.kind)
        elif self._connection is not None and self._connection.is_open:
            self._down(str(error), "closed")

    def _down(self, reason: str, kind: str) -> None:
        if self.state in (LinkState.IDLE, LinkState.BACKOFF):
            return
        connection, self._connection = self._connection, None
        was_closed = self.state is LinkState.CLOSED
        orphans = self.take_orphans()
        self._calls = self._sends = None
        self.connecting_since = None
        self.last_error = reason
        if connection is not None:
            connection.abort(reason)
        if was_closed:
            return
        self.state = LinkState.BACKOFF
        cap_s = cap_for(kind)
        self._is_cheap = cap_s is not None
        self._loop.call_later(self._backoff.next_s(cap_s), self._backoff_over)
        self._events.link_down(self, reason, orphans)

    def _backoff_over(self) -> None:
        if self.state is LinkState.BACKOFF:
            self.state = LinkState.IDLE
            self._events.link_idle(self)

    def take_orphans(self) -> list[Request]:
        """Every request whose outcome went down with the connection."""
        orphans = list(self._unconfirmed.values())
        self._unconfirmed.clear()
        for path in self.paths.values():
            orphans.extend(path.outstanding.values())
            path.outstanding.clear()
        return orphans

    # -- publishing ------------------------------------------------------------------------------------------------

    def publish(self, request: Request, now: float) -> None:
        """Send *request* on its way, in the version that its path speaks. Only while ``is_usable``.

        Raises:
            EnvelopeError: that version cannot say it; nothing was sent.
        """
        path = self.path(request.address.node, now)
        parcel = path.version.parcel(request)
        path.used_at = now
        request.link = self
        request.version = path.version
        request.published_at = now
        request.returned = False
        self.used_at = now
        if request.kind is Kind.MESSAGE:
            self._publish_message(request, parcel)
        else:
            self._publish_call(request, path, parcel, now)

    def _publish_message(self, request: Request, parcel: Parcel) -> None:
        assert self._sends is not None
        number = self._sends.publish(
            parcel.exchange,
            parcel.routing_key,
            parcel.body,
            message_id=request.id,
            persistent=True,
        )
        self._unconfirmed[number] = request

    def _publish_call(self, request: Request, path: Path, parcel: Parcel, now: float) -> None:
        assert self._calls is not None
        request.path = path
        path.outstanding[request.id] = request
        self.calls += request.kind is Kind.CALL
        self._calls.publish(
            parcel.exchange,
            parcel.routing_key,
            parcel.body,
            correlation_id=request.id,
            reply_to=DIRECT_REPLY_TO,
            expiration_ms=max(1, int((request.deadline - now) * 1000)),
        )

    def publish_control(self, parcel: Parcel, wire_id: str, expiration_ms: int) -> None:
        """Publish a ping; it comes back as any other reply or return does."""
        if self._calls is not None:
            self._calls.publish(
                parcel.exchange,
                parcel.routing_key,
                parcel.body,
                correlation_id=wire_id,
                reply_to=DIRECT_REPLY_TO,
                expiration_ms=expiration_ms,
            )

    def _on_confirmed(self, number: int, multiple: bool, is_ack: bool) -> None:
        numbers = list(self._numbers_up_to(number)) if multiple else [number]
        for each in numbers:
            request = self._unconfirmed.pop(each, None)
            if request is not None:
                self._events.confirmed(self, request, is_ack)

    def _numbers_up_to(self, number: int) -> Iterator[int]:
        for each in self._unconfirmed:  # in the order of publishing
            if each > number:
                return
            yield each

    # -- the broker's own pulse ------------------------------------------------------------------------------------

    def check_pulse(self, now: float, on_dead: Callable[[Link], None]) -> None:
        """Ping the broker when a confirm is overdue; any byte of its counts as an answer."""
        if self.bytes_received != self._bytes_heard:
            self._bytes_heard = self.bytes_received
            self._clock.heard(now)
        oldest = next(iter(self._unconfirmed.values()), None)
        verdict = self._clock.verdict(now, oldest.published_at if oldest else None)
        if verdict is Verdict.PING:
            self._clock.pinged(now)
            self.ask_broker()
        elif verdict is Verdict.DEAD:
            on_dead(self)

    def ask_broker(self) -> None:
        """Have the broker say something, if it lives."""
        if self._sends is not None:
            self._sends.run(_pulse())

    @property
    def unconfirmed(self) -> int:
        return len(self._unconfirmed)

    def is_spare(self, now: float, after_s: float) -> bool:
        """Connected, but neither used nor waited for since *after_s*."""
        is_waited_for = bool(self._unconfirmed) or any(path.outstanding for path in self.paths.values())
        return self.is_up and not is_waited_for and now - max(self.used_at, self.up_since) > after_s

    @property
    def is_gone(self) -> bool:
        return self._connection is None


def _pulse() -> Script:
    yield set_prefetch(0)
