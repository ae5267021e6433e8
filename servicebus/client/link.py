"""Link: a Sender's connection to one broker: when it is opened, when it is given up, and what was on its way then."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from servicebus._context import priority_of, written_priority
from servicebus.client.channels import LinkChannels
from servicebus.client.losses import Losses
from servicebus.client.nodes import Path
from servicebus.client.request import PendingRequest
from servicebus.configuration import BrokerHost, Configuration
from servicebus.errors import ConnectFailed, MessageTooLarge, TransportError
from servicebus.policy.connection import ConnectionEvent, ConnectionState
from servicebus.policy.denials import DENIED, HOLDS_S, Denials
from servicebus.policy.liveness import PingAction, PingClock
from servicebus.policy.paths import Health
from servicebus.policy.size_limit import SizeLimit
from servicebus.protocol.interface import OutgoingPublish, SenderProtocol
from servicebus.transport.amqp import AmqpConnection
from servicebus.transport.connection_manager import ConnectionManager, Loss
from servicebus.transport.interface import Connect, Delivery, Returned
from servicebus.transport.loggers import get_logger
from servicebus.transport.loop import EventLoop
from servicebus.transport.progress import Progress
from servicebus.wire.envelope import CALL, DIRECT_REPLY_TO, MESSAGE
from servicebus.wire.printable import printable

LOG = get_logger(__name__)
_NOT_TRIED = "not tried yet"


class LinkEvents(Protocol):
    """What the engine wants to know of its links; called in the loop's thread."""

    def link_up(self, link: Link) -> None: ...
    def link_idle(self, link: Link) -> None: ...
    def link_down(self, link: Link, reason: str, orphans: list[PendingRequest]) -> None: ...
    def link_blocked(self, link: Link, reason: str | None) -> None: ...
    def link_failed_for(self, request: PendingRequest, error: Exception, handle: Callable[..., object]) -> None: ...


class AnswerEvents(Protocol):
    """Where everything goes that comes back over a link; called in the loop's thread."""

    def replied(self, link: Link, delivery: Delivery) -> None: ...
    def unroutable(self, link: Link, returned: Returned) -> None: ...
    def confirmed(self, link: Link, request: PendingRequest, is_ack: bool) -> None: ...


class Link:
    """One broker as the Sender sees it. Belongs to the engine's thread.

    Args:
        protocols: the versions that may be used there, the newest first.
        connect: makes the connections.
    """

    active: dict[str, Path]
    """The paths that ticks look at: new, or used since they were found quiet (``IdleNodes``)."""
    calls: int
    """How many were published here, ever."""
    is_wanted: bool
    """Reconnect after a failure; set while the engine prefers this host or has nothing better."""
    failure: ConnectFailed | None
    """Why the last attempt to connect failed; None once one succeeded."""
    has_moved: bool
    """At the last look: the broker's answer is late because the link is slow."""

    def __init__(
        self,
        loop: EventLoop,
        host: BrokerHost,
        config: Configuration,
        protocols: Sequence[SenderProtocol],
        events: LinkEvents,
        answers: AnswerEvents,
        connect: Connect = AmqpConnection,
    ):
        self.host = host
        self.newest = protocols[0]
        self.replied: Callable[[Delivery], None] = partial(answers.replied, self)
        self._config, self._events, self._answers = config, events, answers
        self._exchanges = [protocol.exchange for protocol in protocols]
        # What is known of the broker.
        self.health, self.size_limit, self.denials, self.losses = Health(), SizeLimit(), Denials(), Losses()
        self.paths: dict[str, Path] = {}
        self.active, self.calls, self.used_at = {}, 0, 0.0
        self.last_error, self.failure = _NOT_TRIED, None
        # Its connection, and whether that lives.
        self.is_wanted, self.has_moved, self._may_declare = False, False, True
        self.connections = ConnectionManager(
            loop,
            host,
            config,
            self,
            connect,
            labels=[f"servicebus sender {config.node_name}"],
            timeout_s=config.socket_timeout,
            after_backoff=ConnectionEvent.REST,
            on_rest=lambda: events.link_idle(self),
        )
        self._channels: LinkChannels | None = None
        self._progress: Progress | None = None
        self._clock = PingClock(config.path_ping_after, config.path_ping_timeout, 0.0)
        self._bytes_heard = -1

    def __repr__(self) -> str:
        return f"<Link {self.host.name} {self.state.value}>"

    @property
    def state(self) -> ConnectionState:
        return self.connections.state

    @property
    def is_up(self) -> bool:
        return self.connections.state is ConnectionState.UP

    @property
    def is_usable(self) -> bool:
        """Calls can be published, and messages now or in a moment: a channel may have closed before it has told us."""
        if (channels := self._channels) is None or channels.calls is None or not channels.calls.is_open:
            return False
        is_open = channels.is_renewed or (channels.sends is not None and channels.sends.is_open)
        return is_open and channels.connection.blocked is None

    @property
    def can_start(self) -> bool:
        return self.connections.state is ConnectionState.IDLE

    @property
    def bytes_received(self) -> int:
        connection = self.connections.connection
        return connection.bytes_received if connection is not None else 0

    def describe(self) -> str:
        """Why this host is of no use now, for error texts."""
        if (blocked := self.connections.blocked) is not None:
            return f"blocked by the broker ({blocked})"
        return "connected" if self.is_up else self.last_error

    def status(self, *, is_preferred: bool) -> dict[str, Any]:
        """What an operator wants to see; callable from any thread."""
        return {
            "name": self.host.name,
            "state": self.state.value,
            "usable": self.is_usable,
            "preferred": is_preferred,
            "reason": self.describe(),
            "calls": self.calls,
            "unconfirmed": self.unconfirmed,
            "dead_paths": sum(not path.health.is_healthy for path in list(self.paths.values())),
            "connections_opened": self.connections.opened,
            "connections_lost": self.connections.lost,
            **self.losses.status(),
        }

    def refuses(self, request: PendingRequest, now: float) -> bool:
        """Whether the broker has said that it takes nothing as large as *request*."""
        return self.size_limit.refuses(request.size, now) is not None

    def denies(self, request: PendingRequest, now: float) -> str:
        """Why the broker takes no message like *request* now; empty if it does, as far as is known."""
        if request.kind is not MESSAGE:
            return ""
        return self.denials.why(now, is_delayed=request.due_ms is not None)

    def path(self, node: str, now: float) -> Path:
        path = self.paths.get(node)
        if path is None:
            path = Path(self, node, PingClock(self._config.path_ping_after, self._config.path_ping_timeout, now))
            self.paths[node] = self.active[node] = path
        return path

    def watch(self, node: str) -> None:
        """Have ticks look at the path to *node*, if there is one."""
        path = self.paths.get(node)
        if path is not None:
            self.active[node] = path

    # -- its connection ----------------------------------------------------------------------------------------------

    def connect(self, now: float) -> None:
        if self.state not in (ConnectionState.IDLE, ConnectionState.BACKOFF):
            return
        # So that the first look hears the new connection. Every handshake brings as many bytes: a connection that died
        # before it brought more would else leave its unanswered ping to all that follow, and they would die of it.
        self._bytes_heard = -1
        if self.last_error == _NOT_TRIED:
            self.last_error = "no answer to the first attempt yet"
        self.connections.connect(now)

    def rest(self) -> None:
        """Close a connection that is not needed now; the next ``connect()`` opens it again."""
        self.is_wanted = False
        self._channels = None
        self.connections.rest()

    def close(self) -> None:
        self._channels = None
        self.connections.close()

    def connections_open(self) -> None:
        connection = self.connections.connections[0]
        self._channels = LinkChannels(connection, self.host.place, self._exchanges, self, may_declare=self._may_declare)
        self._progress = Progress(connection, self._channels.ask_broker)

    def connection_blocked(self, reason: str | None) -> None:
        self._events.link_blocked(self, reason)

    def connections_lost(self, loss: Loss) -> None:
        orphans = self.take_orphans()
        if self._channels is not None:
            self._may_declare = self._channels.may_declare
            self._channels = None
        if isinstance(loss.error, ConnectFailed):
            self.failure = loss.error
        reason, member = loss.reason, self.connections.member
        self.last_error = f"member {member.address}: {reason}" if member.members else reason
        self._events.link_down(self, self.last_error, orphans)

    # -- what the channels tell --------------------------------------------------------------------------------------

    def channels_ready(self) -> None:
        if self.state is ConnectionState.CONNECTING:
            self.failure = None
            self.connections.ready()
            self._events.link_up(self)

    def channels_broken(self, error: TransportError) -> None:
        if isinstance(error, MessageTooLarge):
            self.size_limit.learn(error.limit, time.monotonic())
        self.connections.lose(Loss.of(error))

    def messages_denied(self, error: TransportError, unconfirmed: Sequence[PendingRequest]) -> None:
        # Confirms come in order, so it is the oldest that was refused; what followed on the channel was ignored.
        now, refused = time.monotonic(), unconfirmed[0]
        why = f"{DENIED}: {printable(str(getattr(error, 'reason', error)))}"
        self.denials.learn(why, now, is_delayed=refused.due_ms is not None)
        LOG.error("%s %s; they go to other brokers for %g s", self.host.name, why, HOLDS_S)
        for request in unconfirmed:
            request.tried(self.host.name, why)
        if len(unconfirmed) == 1:
            refused.not_run()  # of several, some may have been stored before

    def returned(self, returned: Returned) -> None:
        self._answers.unroutable(self, returned)

    def confirmed(self, request: PendingRequest, is_ack: bool) -> None:
        try:
            self._answers.confirmed(self, request, is_ack)
        except Exception as error:
            self._events.link_failed_for(request, error, self.confirmed)

    def failed(self, request: PendingRequest, error: Exception) -> None:
        self._events.link_failed_for(request, error, self.publish)

    def take_orphans(self) -> list[PendingRequest]:
        """Every request whose outcome went down with the connection."""
        orphans = self._channels.take_unconfirmed() if self._channels is not None else []
        for path in self.active.values():
            orphans.extend(path.outstanding.values())
            path.outstanding.clear()
        return orphans

    # -- publishing ------------------------------------------------------------------------------------------------

    def publish(self, request: PendingRequest, now: float, *, is_hedge: bool = False) -> None:
        """Send *request* on its way, in the version of its path. Only while ``is_usable``.

        Args:
            is_hedge: beside the attempt that travels elsewhere, in the same version.

        Raises:
            EnvelopeError: that version cannot carry it; nothing was sent.
        """
        path = self.paths.get(request.address.node) or self.path(request.address.node, now)
        is_message = request.kind is MESSAGE
        if is_hedge:
            request.travels_twice(path)
        else:
            request.travels(path, now)
        try:
            outgoing = path.protocol.encode_request(request)
        except Exception:  # raised again: only noted that this attempt of a call went nowhere
            if not is_message:
                request.not_run()
            raise
        path.used_at = self.used_at = now
        self.active[path.node] = path
        if request.context:
            outgoing = outgoing._replace(priority=written_priority(request.context))
        elif is_message and request.options is not None and request.options.row:  # all that is known is its body
            outgoing = outgoing._replace(priority=priority_of(outgoing.body))
        if is_message:
            assert self._channels is not None
            self._channels.publish_message(outgoing, request)
            return
        path.outstanding[request.id] = request
        if request.kind is CALL:
            path.calls += 1
            self.calls += 1
        self.publish_control(outgoing, request.id, max(1, int((request.deadline - now) * 1000)))

    def publish_control(self, outgoing: OutgoingPublish, wire_id: str, expiration_ms: int) -> None:
        """Publish a ping, or a call; it ends as a reply, as a return, or by its expiration."""
        if self._channels is not None and self._channels.calls is not None:
            self._channels.calls.publish(
                outgoing.exchange,
                outgoing.routing_key,
                outgoing.body,
                correlation_id=wire_id,
                reply_to=DIRECT_REPLY_TO,
                expiration_ms=expiration_ms,
                priority=outgoing.priority,
            )

    # -- the broker's own heartbeat ------------------------------------------------------------------------------------

    def check_heartbeat(self, now: float, on_dead: Callable[[Link], None]) -> None:
        """Ping the broker when a confirm is overdue; any byte of its counts as an answer."""
        if self.bytes_received != self._bytes_heard or self.has_moved:
            self._bytes_heard = self.bytes_received
            self._clock.heard(now)
            self.health.heard()
        oldest = self._channels.oldest_unconfirmed() if self._channels is not None else None
        action = self._clock.action(now, oldest.published_at if oldest else None)
        if action is PingAction.PING:
            self._clock.pinged(now)
            self.ask_broker()
        elif action is PingAction.SUSPECT:
            self.health.suspect()
        elif action is PingAction.DEAD:
            on_dead(self)

    def ask_broker(self) -> None:
        """Have the broker say something, if it lives."""
        if self._progress is not None:
            self._progress.begin()

    def look(self) -> None:
        """See whether bytes have moved for which the broker's answer waits."""
        self.has_moved = self._progress is not None and self._progress.has_moved()

    @property
    def unconfirmed(self) -> int:
        return self._channels.unconfirmed if self._channels is not None else 0
