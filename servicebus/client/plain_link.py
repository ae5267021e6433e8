"""PlainLink: a connection for what is published in the form of other programs, and the answers to it.

Theory of operation. It is apart from the Sender's connection, since a broker answers a publish to an exchange that is
not there by closing the channel: that must not touch calls and messages. What is given to a link ends with one report:
confirmed, refused, answered (a request), or lost with the connection. Answers come to a queue of the link's own, which
is made for the first request and, for services that answer to an exchange, bound to that by its name.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

from servicebus._plain import MessageProperties, PlainMessage
from servicebus.configuration import BrokerHost, Configuration
from servicebus.errors import TransportError
from servicebus.policy.connection import ConnectionEvent, ConnectionState
from servicebus.policy.size_limit import SizeLimit
from servicebus.transport.confirmed_channel import ConfirmedChannel, Publish
from servicebus.transport.connection_manager import ConnectionManager, Loss
from servicebus.transport.interface import BrokerChannel, Connect, Delivery, Script
from servicebus.transport.loop import EventLoop
from servicebus.transport.properties import plain_message, write_all
from servicebus.transport.steps import bind_queue, consume, declare_queue

__all__ = ["PlainJob", "PlainLink"]


@dataclass(slots=True, eq=False)
class PlainJob:
    """A publish, or a request, on its way."""

    exchange: str
    routing_key: str
    body: bytes = field(repr=False)
    properties: MessageProperties = field(repr=False)
    deadline: float
    """``time.monotonic()``"""
    future: Future[Any]
    hosts: list[str]
    """Those that may take it, in order."""
    mandatory: bool = True
    is_request: bool = False
    resend: bool = False
    """A request that may be run twice."""
    reply_exchange: str = ""
    started_at: float = field(default_factory=time.monotonic)
    tried: list[tuple[str, str]] = field(default_factory=list)
    """Host, and why it did not take it."""
    left: list[str] = field(default_factory=list)
    """Hosts that are still to be tried in this round."""
    is_refused: bool = False
    """By a broker that was reached, in this round."""
    was_published: bool = False
    """The last attempt: whether it arrived is unknown until the broker says so."""
    is_unsure: bool = False
    """A broker whose connection was lost may have it, whatever others say."""

    @property
    def target(self) -> str:
        return f"exchange {self.exchange or '(default)'}, routing key {self.routing_key}"


class PlainEvents(Protocol):
    """What a link reports of the jobs that it was given; in the loop's thread."""

    def confirmed(self, job: PlainJob, host: str) -> None: ...
    def answered(self, job: PlainJob, message: PlainMessage) -> None: ...
    def refused(self, job: PlainJob, host: str, why: str) -> None: ...
    def lost(self, job: PlainJob, host: str, why: str) -> None: ...


class PlainLink:
    """Belongs to the loop's thread."""

    def __init__(self, loop: EventLoop, host: BrokerHost, config: Configuration, events: PlainEvents, connect: Connect):
        self.host = host
        self._loop, self._events = loop, events
        self._limit = SizeLimit()
        self._confirmed: ConfirmedChannel | None = None
        self._replies: BrokerChannel | None = None
        self._reply_queue = ""
        self._is_asking = False
        """A script runs on the channel of replies."""
        self._bound: set[str] = set()
        self._declared: set[str] = set()
        self._jobs: dict[PlainJob, None] = {}
        """Given, and not reported."""
        self._waiting: list[PlainJob] = []
        """For the connection."""
        self._unbound: list[PlainJob] = []
        """Requests that wait for the queue of replies."""
        self._asked: dict[str, PlainJob] = {}
        """Requests by their correlation id."""
        self._ids = itertools.count(1)
        self._moved, self._moved_at, self._was_asked = (0, 0), 0.0, False
        """What the broker has sent, and its end of the connection has taken; since when; and it was asked since."""
        self._ask_after_s = config.path_ping_after
        self._silent_s = config.path_ping_after + config.path_ping_timeout
        self.connections = ConnectionManager(
            loop,
            host,
            config,
            self,
            connect,
            labels=[f"servicebus sender {config.node_name} plain"],
            timeout_s=config.socket_timeout,
            after_backoff=ConnectionEvent.REST,
        )

    def __repr__(self) -> str:
        return f"<PlainLink {self.host.name} {self.connections.state.value} {len(self._jobs)} jobs>"

    @property
    def is_up(self) -> bool:
        return self.connections.state is ConnectionState.UP

    def take(self, job: PlainJob) -> None:
        """Publish *job*, now or when there is a connection."""
        self._jobs[job] = None
        job.was_published = False
        if self.is_up:
            self._begin(job)
            return
        self._waiting.append(job)
        if self.connections.state in (ConnectionState.IDLE, ConnectionState.BACKOFF):
            self.connections.connect(time.monotonic())

    def drop(self, job: PlainJob) -> None:
        """Nobody waits for it any more."""
        self._jobs.pop(job, None)
        for correlation_id in [id for id, each in self._asked.items() if each is job]:
            del self._asked[correlation_id]

    def close(self) -> None:
        self.connections.close()

    def look(self, now: float) -> None:
        """Give up a connection over which the broker is silent, though it was asked."""
        connection = self.connections.connection
        if connection is None or not (self.is_up and self._jobs):
            self._moved_at, self._was_asked = now, False
            return
        moved = connection.bytes_received, connection.bytes_acknowledged
        if moved != self._moved:
            self._moved, self._moved_at, self._was_asked = moved, now, False
        elif self._was_asked and now - self._moved_at > self._silent_s:
            self.connections.lose(Loss(f"silent for {self._silent_s:g} s", kind="silent", is_silent=True))
        elif not self._was_asked and now - self._moved_at > self._ask_after_s and self._confirmed is not None:
            self._was_asked = True
            self._confirmed.ask()

    # -- the connection ------------------------------------------------------------------------------------------------

    def connections_open(self) -> None:
        broken = self.connections.in_this_epoch(lambda error: self.connections.lose(Loss.of(error)))
        self._confirmed = ConfirmedChannel(
            self.connections.connections[0],
            self.host.name,
            self._limit,
            self._loop.failures,
            None,
            broken,
            has_exchanges=True,
        )
        self._confirmed.open(self._ready)

    def _ready(self) -> None:
        if self.connections.state is ConnectionState.CONNECTING:
            self.connections.ready()
            waiting, self._waiting = self._waiting, []
            for job in waiting:
                self._begin(job)

    def connections_lost(self, loss: Loss) -> None:
        if self._confirmed is not None:
            self._confirmed.forget()
        self._confirmed = self._replies = None
        self._reply_queue, self._is_asking = "", False
        self._bound.clear()
        self._declared.clear()
        jobs, self._jobs = self._jobs, {}
        self._waiting, self._unbound = [], []
        self._asked.clear()
        for job in jobs:
            self._events.lost(job, self.host.name, loss.reason)

    def connection_blocked(self, reason: str | None) -> None:
        if reason:  # nothing that is published arrives before the alarm is over; another broker may take it
            self.connections.lose(Loss(f"blocked by the broker ({reason})", kind="blocked"))

    # -- publishing ----------------------------------------------------------------------------------------------------

    def _begin(self, job: PlainJob) -> None:
        if job not in self._jobs:
            return
        if not job.is_request:
            self._publish(job, job.properties)
            return
        self._unbound.append(job)
        self._look_at_replies()

    def _publish(self, job: PlainJob, properties: MessageProperties) -> None:
        confirmed = self._confirmed
        assert confirmed is not None
        try:
            about = {"mandatory": job.mandatory, "properties": write_all(properties)}
            job.was_published = True
            confirmed.publish(Publish(job.routing_key, job.body, partial(self._told, job), about, job.exchange))
        except Exception as error:  # a property that AMQP cannot say
            self._end(job, self._events.refused, f"{type(error).__name__}: {error}")

    def _told(self, job: PlainJob, refused: str) -> None:
        if job not in self._jobs:
            return
        if refused:
            job.was_published = False
            self._end(job, self._events.refused, refused)
        elif not job.is_request:
            self.drop(job)
            self._events.confirmed(job, self.host.name)

    def _end(self, job: PlainJob, report: Callable[[PlainJob, str, str], None], why: str) -> None:
        self.drop(job)
        report(job, self.host.name, why)

    # -- replies -------------------------------------------------------------------------------------------------------

    def _look_at_replies(self) -> None:
        """Publish the requests whose answers have a way back; make that way for the first one that has none."""
        if self._is_asking or not self._unbound:
            return
        if self._replies is None:
            self._is_asking = True
            self.connections.connections[0].open_channel(
                self.connections.in_this_epoch(self._replies_open), self.connections.in_this_epoch(self._replies_closed)
            )
            return
        unbound, self._unbound = self._unbound, []
        for job in unbound:
            if job not in self._jobs:
                continue
            if not job.reply_exchange or job.reply_exchange in self._bound:
                self._ask(job)
            else:
                self._unbound.append(job)
        if self._unbound:
            self._is_asking = True
            exchange = self._unbound[0].reply_exchange
            self._replies.run(self._binding(exchange), self._bound_now)

    def _replies_open(self, channel: BrokerChannel) -> None:
        self._replies = channel
        channel.run(self._queue(), self._bound_now)

    def _queue(self) -> Script:
        self._reply_queue, _, _ = yield declare_queue(exclusive=True, auto_delete=True)
        yield consume(self._reply_queue, self._replied, no_ack=True, whole=True)

    def _binding(self, exchange: str) -> Script:
        yield bind_queue(self._reply_queue, exchange, self._reply_queue)
        self._bound.add(exchange)

    def _bound_now(self) -> None:
        self._is_asking = False
        self._look_at_replies()

    def _replies_closed(self, error: TransportError) -> None:
        """The exchange for replies is not there, say: those that wait for it are refused. Asked ones may be answered
        never."""
        self._replies, self._is_asking = None, False
        self._bound.clear()
        why = str(getattr(error, "reason", error))
        unbound, self._unbound = self._unbound, []
        asked, self._asked = self._asked, {}
        for job in unbound:
            self._end(job, self._events.refused, why)
        for job in asked.values():
            self._end(job, self._events.lost, why)

    def _ask(self, job: PlainJob) -> None:
        # The caller's own correlation id is the caller's; replies are matched by one that no other request has.
        correlation_id = f"{self._reply_queue}-{next(self._ids)}"
        self._asked[correlation_id] = job
        remaining_ms = max(1, int((job.deadline - time.monotonic()) * 1000))
        properties = replace(
            job.properties,
            correlation_id=correlation_id,
            reply_to=self._reply_queue,
            expiration=job.properties.expiration or str(remaining_ms),
        )
        self._publish(job, properties)

    def _replied(self, delivery: Delivery) -> None:
        job = self._asked.pop(delivery.correlation_id or "", None)
        if job is None:
            return
        if delivery.flaw is not None:
            self._end(job, self._events.lost, f"its answer cannot be read: {delivery.flaw.detail}")
            return
        self.drop(job)
        self._events.answered(job, plain_message(delivery))
