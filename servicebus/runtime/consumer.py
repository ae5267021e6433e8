"""NodeConsumer: the I/O side of one worker: its two connections to one broker, from the first attempt to the drain.

Consuming and publishing use two connections: a broker under a memory or disk alarm stops reading from connections that
publish, and must not stop reading our acks. Each time the pair is opened a new *epoch* begins; acks that belong to an
earlier one are dropped, because their tags are not valid any more and the broker redelivers anyway.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from servicebus.configuration import BrokerHost, Configuration
from servicebus.errors import QueueStranded, TransportError
from servicebus.policy.connection import ConnectionState
from servicebus.policy.size_limit import SizeLimit
from servicebus.protocol.interface import AgentProtocol
from servicebus.runtime.broker_notes import BrokerNotes
from servicebus.runtime.control import ControlRequests
from servicebus.runtime.delayed_messages import DelayedMessages
from servicebus.runtime.echo_progress import EchoProgress
from servicebus.runtime.job import PendingDelivery
from servicebus.runtime.maintenance import Maintenance
from servicebus.runtime.outage_log import OutageLog
from servicebus.runtime.pipeline import Pipeline
from servicebus.runtime.plain_hosts import PlainHosts
from servicebus.runtime.publisher import Publisher
from servicebus.runtime.subscriptions import Subscription, Subscriptions
from servicebus.runtime.topology import (
    calls_script,
    control_script,
    declare_again,
    delays_script,
    messages_script,
    own_script,
)
from servicebus.runtime.topology_monitor import TopologyMonitor
from servicebus.runtime.transient_queues import TransientQueues
from servicebus.transport.amqp import AmqpConnection
from servicebus.transport.connection_manager import ConnectionManager, Loss
from servicebus.transport.interface import BrokerChannel, Connect, Delivery, Script
from servicebus.transport.loggers import get_logger
from servicebus.transport.loop import EventLoop
from servicebus.transport.stored import StoredQueues
from servicebus.wire.address import rpc_queue
from servicebus.wire.envelope import Kind

LOG = get_logger(__name__)

_HANDSHAKE_S = 10.0
"""At least: a broker that was just started, with many workers at its door, is slow."""
_ASKED = "asked"  # a reconnect that we requested ourselves; not reported as an outage


class NodeConsumer:
    """Belongs to the I/O thread, but for ``start()``, ``reconnect()`` and the attributes that others only read."""

    def __init__(
        self,
        loop: EventLoop,
        host: BrokerHost,
        config: Configuration,
        pipeline: Pipeline,
        control: ControlRequests,
        connect: Connect = AmqpConnection,
    ):
        self.host = host
        self.node_name, self.plain, self.last_error = config.node_name, PlainHosts(), ""
        self._loop = loop
        self._config = config
        self.pipeline = pipeline
        self._control = control
        self.connections = ConnectionManager(
            loop,
            host,
            config,
            self,
            connect,
            labels=[f"servicebus {config.node_name} {purpose}" for purpose in ("publishes", "consumes")],
            timeout_s=config.socket_timeout,
            handshake_timeout_s=max(config.socket_timeout, _HANDSHAKE_S),
        )
        self._notes = BrokerNotes(host, config)
        self._transient = TransientQueues(config, len(host.members), self._notes.tell_otherwise)
        self.stored: StoredQueues | None = None
        self._publisher: Publisher | None = None
        self._subscriptions: Subscriptions | None = None
        self._monitor: TopologyMonitor | None = None
        self._echo_queue = ""
        self._echo_progress: EchoProgress | None = None
        self._outage_log = OutageLog()
        self._limit = SizeLimit()
        self._extra_subscriptions: list[Subscription] = []
        self.message_protocol: AgentProtocol = control.protocol
        self.protocol_of: Callable[[Delivery], AgentProtocol] = lambda _delivery: self.message_protocol
        self.maintenance = Maintenance(loop, config, host.name, self)

    def __repr__(self) -> str:
        return f"<NodeConsumer {self._config.node_name}@{self.host.name} {self.state.value} epoch={self.epoch}>"

    @property
    def state(self) -> ConnectionState:
        return self.connections.state

    @property
    def epoch(self) -> int:
        return self.connections.epoch

    @property
    def consuming_since(self) -> float | None:
        return self.connections.up_since

    @property
    def blocked(self) -> str | None:
        """The broker's reason while it does not read what we publish, else None; for any thread."""
        return self.connections.blocked

    # -- for any thread ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._loop.post(lambda: self.connections.connect(time.monotonic()))

    def reconnect(self, reason: str) -> None:
        """Replace both connections, now: the broker does not answer on those we have."""
        self._loop.post(lambda: self.connections.lose(Loss(reason, is_silent=True)))

    # -- connecting --------------------------------------------------------------------------------------------------

    def connections_open(self) -> None:
        on_broken = self.connections.in_this_epoch(self.subscription_broken)
        publisher = self._publisher = Publisher(
            self._config, self.host.name, self.pipeline.counters, self._loop.failures, self._limit, on_broken
        )
        self.pipeline.begin(self.epoch, publisher)
        publisher.open(self.connections.connections[0], self._look_for_mark)

    def connection_blocked(self, reason: str | None) -> None:
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
        on_broken = self.connections.in_this_epoch(self.subscription_broken)
        self.maintenance.begin(self.connections.connections[0], on_broken, self._open_subscriptions)

    def _open_subscriptions(self) -> None:
        consumes = self.connections.connections[1]
        stored = self.stored = StoredQueues(self._config, consumes.server_version, self._notes.tell_limited)
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
            lambda reason: self.connections.lose(Loss(reason, keeps_member=True)),
        )
        subscriptions.open(self._consuming)

    def _plan(self, stored: StoredQueues) -> list[Subscription]:
        """The subscriptions that are wanted now: on a broker in maintenance nothing for callers."""
        config, transient, epoch, control = self._config, self._transient, self.epoch, self._control
        delays = DelayedMessages(self._loop, self.pipeline, self.connections, self.protocol_of, config.node_name)

        def take(kind: Kind, protocol: AgentProtocol) -> Callable[[Delivery], None]:
            return partial(self.pipeline.take, epoch=epoch, protocol=protocol, kind=kind)

        on_own, on_control = (partial(self._answer, ask, epoch) for ask in (self._hear, control.answer))
        on_call, on_message = take(Kind.CALL, control.protocol), take(Kind.MESSAGE, self.message_protocol)
        for_callers = [
            Subscription("control", lambda keep: control_script(config, transient, on_control, keep)),
            Subscription("calls", lambda keep: calls_script(config, transient, on_call, keep)),
        ]
        return [
            Subscription("echo", lambda _keep: own_script(config, on_own, self._keep_echo)),
            *([] if self.maintenance.is_asked else for_callers),
            Subscription("messages", lambda keep: messages_script(config, stored, on_message, keep)),
            Subscription("delays", lambda keep: delays_script(config, delays.on_delivery, keep)),
            *self._extra_subscriptions,
        ]

    def _keep_echo(self, queue: str) -> None:
        self._echo_queue = self._transient.own = queue

    def is_worth_another_try(self, refused: str) -> bool:
        return any(each.is_worth_another_try(refused) for each in (self._transient, self.stored) if each is not None)

    def subscription_waits(self, reason: str) -> None:
        self._outage_log.tell(self.connections.member.place, reason, "topology")

    def _consuming(self) -> None:
        self.connections.ready()
        self._transient.try_all_again()
        self._control.connected(self._echo_queue, time.monotonic())
        connections = self.connections.connections
        self._echo_progress = EchoProgress(self._loop, self._control, connections)
        self._control.calls_made_at = self._transient.made_at(rpc_queue(self._config.node_name))
        self._outage_log.end(self._subscription_problem)
        member = f" by {self.connections.member.address}" if self.host.members else ""
        LOG.info("%s: consuming for node %s%s", self.host.name, self._config.node_name, member)
        self._notes.tell(connections[0].server_version)
        self._notes.look(connections[0])
        self.maintenance.subscriptions_open()
        self.plain.begin(self.epoch)
        self.send_echo()

    @property
    def _subscription_problem(self) -> str:
        return self._subscriptions.problem if self._subscriptions is not None else ""

    # -- losing ------------------------------------------------------------------------------------------------------

    def subscription_broken(self, error: TransportError) -> None:
        loss = replace(Loss.of(error), keeps_member=True)
        if isinstance(error, QueueStranded):
            if self._transient.is_spared(error.queue):
                loss = replace(loss, at_once=True)
            else:
                self._transient.try_all_again()
        self.connections.lose(loss)

    def connections_lost(self, loss: Loss) -> None:
        if not (self.state is ConnectionState.CLOSED or self.maintenance.is_asked or loss.kind == _ASKED):
            self._outage_log.tell(self.connections.member.place, loss.reason, loss.kind)
        self.last_error = loss.reason
        if self._echo_progress is not None:
            self._echo_progress.end()
            self._echo_progress = None
        if self._subscriptions is not None:
            self._subscriptions.end()
        self.plain.end()
        self._publisher = self._subscriptions = self._monitor = None
        self.pipeline.end()
        self.maintenance.end()

    # -- control -------------------------------------------------------------------------------------------------------

    def _hear(self, delivery: Delivery) -> tuple[bytes, str] | None:
        answer = self._control.hear(delivery)
        return answer if self._is_settled() else None  # a node that cannot be called here is not found here

    def _answer(self, ask: Callable[[Delivery], tuple[bytes, str] | None], epoch: int, delivery: Delivery) -> None:
        answer = ask(delivery)
        if answer is not None and self._publisher is not None:
            body, reply_to = answer
            self._publisher.reply(PendingDelivery(delivery, epoch, reply_to), body)

    # -- the watcher's questions, asked in the I/O thread --------------------------------------------------------------

    def send_echo(self) -> None:
        if self._publisher is None or self.state not in (ConnectionState.UP, ConnectionState.DRAINING):
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
        return self.state is ConnectionState.UP and not self.maintenance.is_asked

    # -- what the maintenance asks -------------------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        return self.pipeline.is_idle

    def transient_queue(self, name: str) -> str:
        return self._transient.taken(name)

    def refuse_calls(self, is_leaving: bool) -> None:
        self._control.refuse_calls(is_leaving)

    def bind_again(self) -> Script:
        return declare_again(self._config, self._transient, None if self._subscription_problem else self.stored, {})

    def renew(self, reason: str) -> None:
        self.connections.lose(Loss(reason, _ASKED, keeps_member=True, at_once=True))

    # -- draining ----------------------------------------------------------------------------------------------------

    def channel(self, name: str) -> BrokerChannel | None:
        return self._subscriptions.channel(name) if self._subscriptions is not None else None

    def cancel(self, name: str) -> None:
        if self._subscriptions is not None:
            self._subscriptions.cancel(name)

    def stop(self) -> None:
        """No more reconnects; deliveries go on until the drain has cancelled them."""
        self.connections.stop()
        self.plain.take_no_more()

    def close(self) -> None:
        """Close all connections in order."""
        self._control.end_tails()
        self.connections.close()
        self.plain.close()

    @property
    def is_closed(self) -> bool:
        return self.connections.is_gone and self.plain.is_closed

    @property
    def is_whole(self) -> bool:
        """Every subscription is consumed."""
        return self.state is ConnectionState.UP and not self._subscription_problem

    def _what_is_wrong(self) -> str:
        if self.state is ConnectionState.UP:
            return self._subscription_problem or self.pipeline.copies.problem or self.pipeline.outage.reason
        return self.last_error

    def snapshot(self) -> dict[str, Any]:
        """ConnectionState for the status socket; read by the worker's main thread."""
        state = self.state
        maintenance = "" if state in (ConnectionState.DRAINING, ConnectionState.CLOSED) else self.maintenance.state
        return {
            "state": maintenance or ("consuming" if state is ConnectionState.UP else state.value),
            "blocked": self.blocked,
            "last_error": "" if maintenance else self._what_is_wrong(),
            "attempts": self.connections.attempts,
        }
