"""NodeConsumer: the I/O side of one worker: its two connections to one broker, from the first attempt to the drain.

Consuming and publishing use two connections: a broker under a memory or disk alarm stops reading from connections that
publish, and must not stop reading our acks. Each time the pair is opened a new *generation* begins; acks that belong to
an older one are dropped, because their tags are not valid any more and the broker redelivers anyway.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from servicebus.configuration import BrokerHost, Configuration
from servicebus.errors import ConnectFailed, ConnectionLost, QueueStranded, TransportError
from servicebus.policy.backoff import Backoff, cap_for
from servicebus.policy.connection import Event, State, after
from servicebus.policy.members import MemberRotation
from servicebus.policy.size_limit import SizeLimit
from servicebus.protocol.interface import AgentProtocol
from servicebus.runtime.broker_notes import BrokerNotes
from servicebus.runtime.control import ControlLane
from servicebus.runtime.delayed_messages import DelayedMessages
from servicebus.runtime.echo_progress import EchoProgress
from servicebus.runtime.job import Claim
from servicebus.runtime.maintenance import Maintenance
from servicebus.runtime.outages import Outages
from servicebus.runtime.publisher import Publisher
from servicebus.runtime.settler import Settler
from servicebus.runtime.subscriptions import Subscription, Subscriptions
from servicebus.runtime.topology import (
    calls_script,
    control_script,
    declare_again,
    delays_script,
    echo_script,
    messages_script,
)
from servicebus.runtime.topology_monitor import TopologyMonitor
from servicebus.runtime.transient_queues import TransientQueues
from servicebus.transport.amqp import AmqpConnection
from servicebus.transport.interface import BrokerChannel, BrokerConnection, Connect, Delivery, Script
from servicebus.transport.loggers import get_logger
from servicebus.transport.loop import EventLoop
from servicebus.transport.stored import StoredQueues
from servicebus.wire.address import rpc_queue
from servicebus.wire.envelope import Kind

LOG = get_logger(__name__)

CONNECT_LIMIT_S = 2.0
_ASKED = "asked"
"""The kind of loss that is none: somebody of ours wants the connections opened anew."""


class NodeConsumer:
    """Belongs to the I/O thread, but for ``start()``, ``reconnect()`` and the attributes that others only read."""

    def __init__(
        self,
        loop: EventLoop,
        host: BrokerHost,
        config: Configuration,
        settler: Settler,
        control: ControlLane,
        connect: Connect = AmqpConnection,
    ):
        self.host = host
        self.state = State.IDLE
        self.generation = 0
        self.last_error = ""
        self.consuming_since: float | None = None
        self._loop = loop
        self._make_connection = connect
        self._config = config
        self.settler = settler
        self._control = control
        self._backoff = Backoff()
        self._members = MemberRotation(len(host.members))
        self._transient = TransientQueues(config, len(host.members))
        self._stored: StoredQueues | None = None
        self._connections: list[BrokerConnection] = []
        self._abandoned: list[Callable[[], None]] = []
        self._publisher: Publisher | None = None
        self._subscriptions: Subscriptions | None = None
        self._monitor: TopologyMonitor | None = None
        self._echo_queue = ""
        self._echo_progress: EchoProgress | None = None
        self._opened = 0
        self._is_stopping = False
        self._outages = Outages()
        self._notes = BrokerNotes(host, config)
        self._limit = SizeLimit()
        self._extra_subscriptions: list[Subscription] = []
        self.message_protocol: AgentProtocol = control.protocol
        self.maintenance = Maintenance(loop, config, host.name, self)

    def __repr__(self) -> str:
        return f"<NodeConsumer {self._config.node_name}@{self.host.name} {self.state.value} gen={self.generation}>"

    # -- for any thread ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._loop.post(lambda: self._step(Event.START, self._connect))

    def reconnect(self, reason: str) -> None:
        """Open both connections anew, now: the broker does not answer on those we have."""
        self._loop.post(lambda: self._fell_silent(reason))

    # -- connecting --------------------------------------------------------------------------------------------------

    def _step(self, event: Event, then: Callable[[], None] | None = None) -> None:
        self.state = after(self.state, event)
        if then is not None:
            then()

    def _connect(self) -> None:
        self.generation += 1
        self._opened = 0
        self._publisher = None
        self._connections = [self._open_connection(purpose) for purpose in ("publishes", "consumes")]

    def _open_connection(self, purpose: str) -> BrokerConnection:
        return self._make_connection(
            self._loop,
            self.host.member(self._members.number),
            self,
            label=f"servicebus {self._config.node_name} {purpose} pid {os.getpid()}",
            heartbeat_s=self._config.heartbeat_interval,
            connect_timeout_s=self._members.limit_s(min(self._config.socket_timeout, CONNECT_LIMIT_S)),
            handshake_timeout_s=self._members.limit_s(max(self._config.socket_timeout, 10.0)),
            most_bytes=self._config.max_envelope_bytes,
            fast=self._config.fast_path,
        )

    def connection_opened(self, connection: BrokerConnection) -> None:
        if connection not in self._connections:
            connection.abort("superseded")
            return
        self._opened += 1
        if self._opened == 2:
            self._dismiss_abandoned()
            broken = self._broken_in(self.generation)
            self._publisher = Publisher(
                self._config, self.host.name, self.settler.counters, self._loop.failures, self._limit, broken
            )
            self.settler.begin(self.generation, self._publisher)
            self._publisher.open(self._connections[0], self._look_for_mark)

    def _dismiss_abandoned(self) -> None:
        """The broker can be reached again: tell it that our former connections are dead, before we consume beside them.

        Otherwise every second call would go to a consumer that nobody reads from, for up to twice the heartbeat.
        """
        abandoned, self._abandoned = self._abandoned, []
        for reset in abandoned:
            reset()

    def connection_failed(self, connection: BrokerConnection, error: ConnectFailed) -> None:
        if connection in self._connections:
            self._members.lost()
            self._lost(error.reason, error.kind)

    def connection_lost(self, connection: BrokerConnection, error: ConnectionLost) -> None:
        if connection in self._connections:
            self._members.lost()
            self._lost(error.reason, error.kind)

    @property
    def blocked(self) -> str | None:
        """The broker's reason while it does not read what we publish, else None; for any thread."""
        return next((connection.blocked for connection in self._connections if connection.blocked), None)

    def connection_blocked(self, connection: BrokerConnection, reason: str | None) -> None:
        if connection not in self._connections:
            return  # one that we have given up
        if reason:
            LOG.warning("%s: the broker does not read what we publish (%s); replies wait", self.host.name, reason)
        else:
            LOG.info("%s: the broker reads again", self.host.name)

    def add_subscription(self, subscription: Subscription) -> None:
        """Consume one more queue on a channel of its own; before ``start()``."""
        self._extra_subscriptions.append(subscription)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        self._loop.call_later(delay_s, callback)

    def _look_for_mark(self) -> None:
        self.maintenance.begin(self._connections[0], self._broken_in(self.generation), self._open_subscriptions)

    def _open_subscriptions(self) -> None:
        consumes = self._connections[1]
        stored = self._stored = StoredQueues(self._config, consumes.server_version, self._notes.tell_limited)
        subscriptions = self._subscriptions = Subscriptions(
            self._loop, self.host.name, consumes, lambda: self._plan(stored), self
        )
        self._monitor = TopologyMonitor(
            self._loop,
            self.host.name,
            self._config,
            self._transient,
            stored,
            subscriptions,
            self._is_settled,
            self._unattended,
        )
        subscriptions.open(self._consuming)

    def _plan(self, stored: StoredQueues) -> list[Subscription]:
        """The subscriptions that are wanted now: on a broker in maintenance nothing for callers."""
        config, transient, generation, control = self._config, self._transient, self.generation, self._control
        delays = DelayedMessages(self, config.node_name, generation)

        def take(kind: Kind, protocol: AgentProtocol) -> Callable[[Delivery], None]:
            return partial(self.settler.take, generation=generation, protocol=protocol, lane=kind)

        def on_control(delivery: Delivery) -> None:
            self._answer_control(delivery, generation)

        on_call, on_message = take(Kind.CALL, control.protocol), take(Kind.MESSAGE, self.message_protocol)
        for_callers = [
            Subscription("control", lambda keep: control_script(config, transient, on_control, keep)),
            Subscription("calls", lambda keep: calls_script(config, transient, on_call, keep)),
        ]
        return [
            Subscription("echo", lambda _keep: echo_script(config, control.on_echo, self._keep_echo)),
            *([] if self.maintenance.is_asked else for_callers),
            Subscription("messages", lambda keep: messages_script(config, stored, on_message, keep)),
            Subscription("delays", lambda keep: delays_script(config, delays.on_delivery, keep)),
            *self._extra_subscriptions,
        ]

    def _keep_echo(self, queue: str) -> None:
        self._echo_queue = queue

    def is_worth_another_try(self, refused: str) -> bool:
        return self._stored is not None and self._stored.is_worth_another_try(refused)

    def subscription_waits(self, reason: str) -> None:
        self._complain(reason, "topology")

    def subscription_broken(self, error: TransportError) -> None:
        self._broken(error)

    def _consuming(self) -> None:
        self._step(Event.OPENED)
        self._backoff.reset()
        self._members.opened()
        self._transient.begin_anew()
        self.consuming_since = time.monotonic()
        self._control.connected(self._echo_queue, self.consuming_since)
        self._echo_progress = EchoProgress(self._loop, self._control, self._connections)
        self._control.calls_made_at = self._transient.made_at(rpc_queue(self._config.node_name))
        self._outages.end(self._subscription_problem)
        member = f" by {self._connections[0].host.address}" if self.host.members else ""
        LOG.info("%s: consuming for node %s%s", self.host.name, self._config.node_name, member)
        self._notes.tell(self._connections[0].server_version)
        self._notes.look(self._connections[0])
        self.maintenance.lanes_open()

    @property
    def _subscription_problem(self) -> str:
        return self._subscriptions.problem if self._subscriptions is not None else ""

    # -- losing ------------------------------------------------------------------------------------------------------

    def _broken_in(self, generation: int) -> Callable[[TransportError], None]:
        def broken(error: TransportError) -> None:
            if generation == self.generation:
                self._broken(error)

        return broken

    def _broken(self, error: TransportError) -> None:
        kind = error.kind
        if isinstance(error, QueueStranded):
            kind = "spared" if self._transient.is_spared(error.queue) else "closed"
            if kind == "closed":
                self._transient.begin_anew()
        self._lost(getattr(error, "reason", str(error)), kind)

    def _fell_silent(self, reason: str) -> None:
        self._members.lost()
        self._lost(reason, "closed", is_silent=True)

    def _lost(self, reason: str, kind: str, *, is_silent: bool = False) -> None:
        if self.state not in (State.CONNECTING, State.CONSUMING, State.DRAINING):
            return
        if not (self._is_stopping or self.maintenance.is_asked or kind == _ASKED):
            self._complain(reason, kind)
        self.last_error = reason
        connections, self._connections = self._connections, []
        self._publisher = None
        self.consuming_since = None
        if self._echo_progress is not None:
            self._echo_progress.end()
            self._echo_progress = None
        self.generation += 1  # whatever still refers to the old connections is void from here on
        if self._subscriptions is not None:
            self._subscriptions.end()
            self._subscriptions = self._monitor = None
        self.settler.end()
        self.maintenance.end()
        for connection in connections:
            if is_silent:
                self._abandoned.append(connection.abandon(reason))
            else:
                connection.abort(reason)
        self._step(Event.LOST)
        if not self._is_stopping:
            self._loop.call_later(
                0.0 if kind in ("spared", _ASKED) else self._backoff.next_s(cap_for(kind)), self._retry
            )

    def _retry(self) -> None:
        if self.state is State.BACKOFF:
            self._step(Event.RETRY, self._connect)

    def _complain(self, reason: str, kind: str) -> None:
        self._outages.tell(self._connections[0].host.place if self._connections else self.host.name, reason, kind)

    # -- control -------------------------------------------------------------------------------------------------------

    def _answer_control(self, delivery: Delivery, generation: int) -> None:
        answer = self._control.answer(delivery)
        if answer is not None and self._publisher is not None:
            body, reply_to = answer
            self._publisher.reply(Claim(delivery, generation, reply_to), body)

    # -- the watcher's questions, asked in the I/O thread --------------------------------------------------------------

    def send_echo(self) -> None:
        if self._publisher is None or self.state not in (State.CONSUMING, State.DRAINING):
            return
        if self.blocked:
            self._control.echoed_at = time.monotonic()  # none can come, and that is not the silence of a dead broker
        else:
            self._publisher.echo(self._echo_queue, self._control.echo_body())
            if self._echo_progress is not None:
                self._echo_progress.begin(time.monotonic())

    @property
    def echo_moved_at(self) -> float:
        """When bytes last moved that stand before the echo; any thread may ask."""
        progress = self._echo_progress
        return progress.moved_at if progress is not None else 0.0

    def look_after_topology(self) -> None:
        if self._monitor is not None:
            self._monitor.look()

    def _is_settled(self) -> bool:
        """Nothing that we do ourselves is under way: whatever is missing, others have taken away."""
        return self.state is State.CONSUMING and not self.maintenance.is_asked

    def _unattended(self, reason: str) -> None:
        self._lost(reason, "closed")

    # -- what the maintenance asks -------------------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        return self.settler.is_idle

    def transient_queue(self, name: str) -> str:
        return self._transient.taken(name)

    def turn_calls_away(self, is_leaving: bool) -> None:
        self._control.is_leaving = is_leaving

    def bind_again(self) -> Script:
        return declare_again(self._config, self._transient, None if self._subscription_problem else self._stored, {})

    def renew(self, reason: str) -> None:
        self._lost(reason, _ASKED)

    # -- draining ----------------------------------------------------------------------------------------------------

    def channel(self, name: str) -> BrokerChannel | None:
        return self._subscriptions.channel(name) if self._subscriptions is not None else None

    def cancel(self, name: str) -> None:
        if self._subscriptions is not None:
            self._subscriptions.cancel(name)

    @property
    def node_name(self) -> str:
        return self._config.node_name

    def stop(self) -> None:
        """No more reconnects; deliveries go on until the drain has cancelled them."""
        self._is_stopping = True
        if self.state is not State.CLOSED:
            self._step(Event.STOP)
        if self.state is State.CLOSED:
            self.close()

    def close(self) -> None:
        """Close both connections in order. Each ends by itself: a reset could take its last acks along."""
        if self.state is State.DRAINING:
            self._step(Event.DRAINED)
        for connection in self._connections:
            connection.close() if connection.is_open else connection.abort("stopping")

    @property
    def is_closed(self) -> bool:
        return all(not connection.is_open for connection in self._connections)

    @property
    def is_whole(self) -> bool:
        """Every subscription is consumed."""
        return self.state is State.CONSUMING and not self._subscription_problem

    def _what_is_wrong(self) -> str:
        if self.state is State.CONSUMING:
            return self._subscription_problem or self.settler.copies.problem or self.settler.outage.reason
        return self.last_error

    def snapshot(self) -> dict[str, Any]:
        """State for the status socket; read by the worker's main thread."""
        is_ending = self.state in (State.DRAINING, State.CLOSED)
        maintenance = "" if is_ending else self.maintenance.state
        return {
            "state": maintenance or self.state.value,
            "blocked": self.blocked,
            "last_error": "" if maintenance else self._what_is_wrong(),
            "attempts": self._backoff.attempts,
        }
