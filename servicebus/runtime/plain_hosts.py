"""PlainHosts: consumes the queues of other programs, over connections of their own, apart from the node's.

Theory of operation. Whatever is wrong with a queue of other programs (it is not there, it is declared otherwise, its
broker is away) must not touch the node: so each broker that such queues are on has a pair of connections of its own,
and each queue a channel. A channel that the broker closes is opened again after a pause, and the others go on.

Messages that have failed wait in the node's delay queues and end among its dead letters, on the broker of this worker,
whichever broker they came from; they are acked when these have confirmed that. So nothing is consumed while the
worker's own connections are down: their loss closes the channels, and what they held is delivered again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType

from servicebus._plain import MessageProperties, PlainQueue
from servicebus.configuration import BrokerHost, Configuration
from servicebus.errors import TransportError
from servicebus.policy.backoff import Backoff
from servicebus.policy.connection import ConnectionState
from servicebus.protocol.plain import ErrorReply, PlainProtocol
from servicebus.runtime.pipeline import Pipeline
from servicebus.transport.connection_manager import ConnectionManager, Loss
from servicebus.transport.interface import BrokerChannel, Connect, Delivery, Script
from servicebus.transport.loggers import get_logger
from servicebus.transport.loop import EventLoop
from servicebus.transport.plain_script import plain_script
from servicebus.transport.properties import write_all
from servicebus.transport.ratelimitedlog import RateLimitedLog
from servicebus.transport.steps import declare_queue
from servicebus.wire.envelope import CALL, MESSAGE
from servicebus.wire.printable import printable
from servicebus.wire.signing import Keyring

LOG = get_logger(__name__)

__all__ = ["PlainHosts", "plain_hosts"]

_FULL_S = 0.1
"""After so long a call whose service is full goes back to the broker, for another worker perhaps."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0
_LOOK_S = 10.0
"""So often the broker is asked whether a queue has a consumer."""


class PlainHosts:
    """Belongs to the I/O thread of one worker, but for ``problems``.

    Args:
        shared: how the messages of each queue are read that stand in the node's delay queues, by their subscription.
    """

    def __init__(self, hosts: Sequence[_PlainHost] = (), shared: Mapping[str, PlainProtocol] = MappingProxyType({})):
        self._hosts = hosts
        self._shared = shared

    def __repr__(self) -> str:
        return f"<PlainHosts {self._hosts}>"

    @property
    def problems(self) -> list[str]:
        """What keeps queues from being consumed; for any thread."""
        return [problem for host in self._hosts for problem in host.problems]

    def protocol_of(self, subscription: str) -> PlainProtocol | None:
        """How a message in the node's delay queues is read; None if no service consumes that queue any more."""
        return self._shared.get(subscription)

    def begin(self, epoch: int) -> None:
        """The worker's own connections are up."""
        for host in self._hosts:
            host.begin(epoch)

    def end(self) -> None:
        """They are gone, or the worker takes no more: what is unacknowledged goes to another worker, or comes again."""
        for host in self._hosts:
            host.end()

    def take_no_more(self) -> None:
        for host in self._hosts:
            host.take_no_more()

    def close(self) -> None:
        for host in self._hosts:
            host.connections.close()

    @property
    def is_closed(self) -> bool:
        return all(host.connections.is_gone for host in self._hosts)


class _PlainHost:
    """One broker."""

    def __init__(
        self,
        loop: EventLoop,
        config: Configuration,
        host: BrokerHost,
        keyring: Keyring,
        pipeline: Pipeline,
        queues: Sequence[tuple[str, PlainQueue, int]],
        connect: Connect,
    ):
        self._loop, self._host, self._pipeline = loop, host, pipeline
        self._epoch: int | None = None
        self._is_leaving = False
        self._replies: BrokerChannel | None = None
        self._reason = "not connected yet"
        self._log = RateLimitedLog(LOG, host.name, period_s=60.0, burst=1)
        read = partial(PlainProtocol, config, keyring, host=host)
        self._consumers = [
            _PlainConsumer(self, read(key, queue, partial(self._reply, queue)), most) for key, queue, most in queues
        ]
        self.connections = ConnectionManager(
            loop,
            host,
            config,
            self,
            connect,
            labels=[f"servicebus {config.node_name} plain {purpose}" for purpose in ("replies", "consumes")],
            timeout_s=config.socket_timeout,
        )

    def __repr__(self) -> str:
        return f"<PlainHost {self._host.name} {self.connections.state.value} {len(self._consumers)} queues>"

    @property
    def problems(self) -> list[str]:
        if self.connections.state is ConnectionState.UP:
            return [consumer.problem for consumer in self._consumers if consumer.problem]
        is_over = self.connections.state is ConnectionState.CLOSED
        return [] if is_over else [f"{self._host.name}: queues of other programs are not consumed: {self._reason}"]

    @property
    def epoch(self) -> int | None:
        """Of the worker's own connections; None while nothing is to be consumed."""
        return self._epoch

    @property
    def is_up(self) -> bool:
        return self.connections.state is ConnectionState.UP and self._epoch is not None

    def begin(self, epoch: int) -> None:
        self._epoch = epoch
        if self.connections.state is ConnectionState.IDLE:
            self.connections.connect(time.monotonic())
        elif self.connections.state is ConnectionState.UP:
            self._consume()

    def end(self) -> None:
        self._epoch = None
        for consumer in self._consumers:
            consumer.close()

    def take_no_more(self) -> None:
        """What still comes stays unacknowledged, and so goes to another worker: a caller is not told that we stop."""
        self._is_leaving = True
        for consumer in self._consumers:
            consumer.cancel()

    # -- what the connections report -----------------------------------------------------------------------------------

    def connections_open(self) -> None:
        broken = self.connections.in_this_epoch(lambda error: self.connections.lose(Loss.of(error)))

        def replies_open(channel: BrokerChannel) -> None:
            self._replies = channel
            self.connections.ready()
            self._consume()

        self.connections.connections[0].open_channel(replies_open, broken)

    def connections_lost(self, loss: Loss) -> None:
        self._replies, self._reason = None, loss.reason
        for consumer in self._consumers:
            consumer.forget()
        if self.connections.state is not ConnectionState.CLOSED:
            self.tell(f"queues of other programs are not consumed: {loss.reason}")

    def connection_blocked(self, reason: str | None) -> None:
        if reason:
            self.tell(f"the broker does not read what we publish ({reason}); answers wait")

    def tell(self, text: str) -> None:
        self._log.log(logging.WARNING, text, text)

    def _consume(self) -> None:
        for consumer in self._consumers if self.is_up else ():
            consumer.open()

    # -- deliveries ----------------------------------------------------------------------------------------------------

    def open_channel(
        self, on_open: Callable[[BrokerChannel], None], on_closed: Callable[[TransportError], None]
    ) -> None:
        self.connections.connections[1].open_channel(on_open, on_closed)

    def later(self, delay_s: float, callback: Callable[[], None]) -> None:
        self._loop.call_later(delay_s, callback)

    def take(self, delivery: Delivery, epoch: int, protocol: PlainProtocol) -> None:
        if self._is_leaving:
            return
        if not protocol.is_call(delivery):
            self._pipeline.take(delivery, epoch, protocol, MESSAGE)
            return
        give_back = partial(delivery.channel.reject, delivery.tag, requeue=True)
        self._pipeline.take(delivery, epoch, protocol, CALL, lambda: self.later(_FULL_S, give_back))

    def _reply(self, queue: PlainQueue, delivery: Delivery, body: bytes) -> None:
        """Answer by the rules of plain RPC: to the default exchange, under the caller's correlation id."""
        if self._replies is None or not delivery.reply_to:
            return
        is_error = isinstance(body, ErrorReply)
        properties = MessageProperties(
            "application/json" if is_error else queue.content_type,
            correlation_id=delivery.correlation_id,
            type="error" if is_error else None,
        )
        self._replies.publish("", delivery.reply_to, body, mandatory=False, properties=write_all(properties))


class _PlainConsumer:
    """One queue: a channel, which is opened again when it breaks."""

    def __init__(self, host: _PlainHost, protocol: PlainProtocol, most: int):
        self.problem = ""
        """Why it is not consumed; read by any thread."""
        self._host = host
        self._protocol = protocol
        self._most = protocol.queue.prefetch or most
        self._channel: BrokerChannel | None = None
        self._tag = ""
        self._is_over = False
        self._opening = 0
        """How often it was opened: what an earlier channel reports is dropped."""
        self._backoff = Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S)

    def __repr__(self) -> str:
        return f"<PlainConsumer {self._protocol.queue.queue} {self.problem or 'consuming'}>"

    def open(self) -> None:
        epoch = self._host.epoch
        if self._is_over or epoch is None:
            return
        self._opening += 1
        opening = self._opening
        take = partial(self._host.take, epoch=epoch, protocol=self._protocol)

        def opened(channel: BrokerChannel) -> None:
            if opening == self._opening:
                self._channel = channel
                channel.run(plain_script(self._protocol.queue, self._most, take, self._keep), self._consuming)
            else:
                channel.close()

        self._host.open_channel(opened, lambda error: self._broken(error) if opening == self._opening else None)

    def _keep(self, tag: str) -> None:
        self._tag = tag

    def _consuming(self) -> None:
        self.problem = ""
        self._backoff.reset()
        self._look_later()

    def _look_later(self) -> None:
        self._host.later(_LOOK_S, partial(self._look, self._opening))

    def _look(self, opening: int) -> None:
        """Consume again if the broker has forgotten our consumer, of which it does not tell us."""
        channel, queue = self._channel, self._protocol.queue.queue
        if opening != self._opening or channel is None or self._is_over:
            return
        found: list[int] = []

        def ask() -> Script:
            found.append((yield declare_queue(queue, passive=True))[2])

        def looked() -> None:
            if opening != self._opening:
                return
            if found[0]:
                self._look_later()
            else:
                self._host.tell(f"queue {printable(queue)} has no consumer any more; consuming again")
                self.close()
                self.open()

        channel.run(ask(), looked)

    def _broken(self, error: TransportError) -> None:
        self.forget()
        if not self._host.is_up:
            return
        queue = printable(self._protocol.queue.queue)
        self.problem = f"queue {queue} is not consumed: {getattr(error, 'reason', error)}"
        self._host.tell(f"{self.problem}; tried again")
        opening = self._opening
        self._host.later(self._backoff.next_s(), lambda: self.open() if opening == self._opening else None)

    def cancel(self) -> None:
        """Take nothing more; what was delivered stays ours."""
        self._is_over = True
        if self._channel is not None and self._tag:
            self._channel.cancel(self._tag)

    def close(self) -> None:
        """Let go of the queue and of what it has delivered."""
        channel = self._channel
        self.forget()
        if channel is not None:
            channel.close()

    def forget(self) -> None:
        """The channel is gone."""
        self._opening += 1
        self._channel, self._tag = None, ""


def plain_hosts(
    loop: EventLoop,
    config: Configuration,
    home: BrokerHost,
    keyring: Keyring,
    pipeline: Pipeline,
    queues: Sequence[tuple[str, PlainQueue, int]],
    connect: Connect,
) -> PlainHosts:
    """What the worker of broker *home* consumes.

    Args:
        queues: the service (``category.name``), its queue, and how many deliveries it takes at a time.
    """

    def is_mine(queue: PlainQueue, host: BrokerHost) -> bool:
        return queue.host == host.name if host is not home else queue.host in ("", home.name)

    hosts = []
    for host in (home, *config.connections):
        mine = [each for each in queues if is_mine(each[1], host)]
        if mine:
            hosts.append(_PlainHost(loop, config, host, keyring, pipeline, mine, connect))
    shared = [PlainProtocol(config, keyring, key, queue, is_shared=True) for key, queue, _ in queues]
    return PlainHosts(hosts, {protocol.subscription: protocol for protocol in shared})
