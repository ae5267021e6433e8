"""ExtraHost: a broker that a worker consumes from over connections of its own, apart from the node's.

Theory of operation. Whatever is wrong with such a queue (it is not there, it is declared otherwise, its broker is away)
must not touch the node: so each broker has a pair of connections of its own, and each queue a channel. A channel that
the broker closes is opened again after a pause, and the others go on.

What is stored of such a request, a later attempt or a dead letter, is stored on the broker of this worker, whichever
broker it came from; it is acked when that has confirmed it. So nothing is consumed while the worker's own connections
are down: their loss closes the channels, and what they held is delivered again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from servicebus.configuration import BrokerHost, Configuration
from servicebus.errors import TransportError
from servicebus.policy.backoff import Backoff
from servicebus.policy.connection import ConnectionState
from servicebus.policy.size_limit import SizeLimit
from servicebus.transport.confirmed_channel import ConfirmedChannel, Publish, learn_from
from servicebus.transport.connection_manager import ConnectionManager, Loss
from servicebus.transport.interface import BrokerChannel, Connect, Script
from servicebus.transport.loggers import get_logger
from servicebus.transport.loop import EventLoop
from servicebus.transport.ratelimitedlog import RateLimitedLog
from servicebus.transport.steps import declare_queue
from servicebus.wire.printable import printable

LOG = get_logger(__name__)

__all__ = ["ExtraConsumer", "ExtraHost"]

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0
_LOOK_S = 10.0
"""So often the broker is asked whether a queue has a consumer."""

Keep = Callable[[str], None]
"""Told the consumer tag."""


class ExtraHost:
    """Belongs to the I/O thread, but for ``problems``.

    Args:
        purpose: in the names of its connections.
        what: is consumed, for people.
        level: of the log lines, one a minute for each cause.
    """

    def __init__(
        self,
        loop: EventLoop,
        config: Configuration,
        host: BrokerHost,
        connect: Connect,
        purpose: str,
        what: str,
        level: int = logging.WARNING,
    ):
        self.name, self.consumers = host.name, list[ExtraConsumer]()
        self.epoch: int | None = None
        """Of the worker's own connections; None while nothing is to be consumed."""
        self.is_leaving = False
        self._replies: BrokerChannel | None = None
        self._large: ConfirmedChannel | None = None
        """For answers that may be too large for the broker, since the first one: a refusal costs their channel."""
        self._limit = SizeLimit()
        self._what = f"{what} are not consumed"
        self._loop = loop
        self._reason = "not connected yet"
        self._log, self._level = RateLimitedLog(LOG, host.name, period_s=60.0, burst=1), level
        self.connections = ConnectionManager(
            loop,
            host,
            config,
            self,
            connect,
            labels=[f"servicebus {config.node_name} {purpose} {role}" for role in ("replies", "consumes")],
            timeout_s=config.socket_timeout,
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} {self.connections.state.value} {len(self.consumers)} queues>"

    @property
    def problems(self) -> list[str]:
        """What keeps queues from being consumed."""
        if self.connections.state is ConnectionState.UP:
            return [consumer.problem for consumer in self.consumers if consumer.problem]
        is_over = self.connections.state is ConnectionState.CLOSED
        return [] if is_over else [f"{self.name}: {self._what}: {self._reason}"]

    @property
    def is_up(self) -> bool:
        return self.connections.state is ConnectionState.UP and self.epoch is not None

    def begin(self, epoch: int) -> None:
        """The worker's own connections are up."""
        self.epoch = epoch
        self.consume()

    def consume(self) -> None:
        """Consume what is wanted, as soon as it is connected."""
        if self.connections.state is ConnectionState.IDLE and any(each.is_wanted for each in self.consumers):
            self.connections.connect(time.monotonic())
        for consumer in self.consumers if self.is_up else ():
            consumer.open()

    def end(self) -> None:
        """They are gone: what is unacknowledged goes to another worker, or comes again."""
        self.epoch = None
        for consumer in self.consumers:
            consumer.close()

    def take_no_more(self) -> None:
        """What still comes stays unacknowledged, and so goes to another worker: a caller is not told that we stop."""
        self.is_leaving = True
        for consumer in self.consumers:
            consumer.cancel()

    def close(self) -> None:
        self.connections.close()

    @property
    def is_gone(self) -> bool:
        return self.connections.is_gone

    # -- what the connections report -----------------------------------------------------------------------------------

    def connections_open(self) -> None:
        broken = self._broken()

        def replies_open(channel: BrokerChannel) -> None:
            self._replies = channel
            self.connections.ready()
            self.consume()

        def replies_closed(error: TransportError) -> None:
            learn_from(self._limit, error)
            broken(error)

        self.connections.connections[0].open_channel(replies_open, replies_closed)

    def _broken(self) -> Callable[[TransportError], None]:
        """What ends these connections when one of their channels cannot go on."""
        return self.connections.in_this_epoch(lambda error: self.connections.lose(Loss.of(error)))

    def connections_lost(self, loss: Loss) -> None:
        self._replies = self._large = None
        self._reason = loss.reason
        for consumer in self.consumers:
            consumer.forget()
        if self.connections.state is not ConnectionState.CLOSED:
            self.tell(f"{self._what}: {loss.reason}")

    def connection_blocked(self, reason: str | None) -> None:
        if reason:
            self.tell(f"the broker does not read what we publish ({reason}); answers wait")

    def tell(self, text: str) -> None:
        self._log.log(self._level, text, text)

    # -- answers -------------------------------------------------------------------------------------------------------

    def answer(self, reply_to: str, body: bytes, on_answered: Callable[[str], None], **about: Any) -> None:
        """Publish an answer; nothing while there is no connection, since what it answers is delivered again.

        Args:
            on_answered: of an answer that may be too large for the broker: told why it was refused, or "".
            about: arguments of ``BrokerChannel.publish()``.
        """
        if self._replies is None:
            return
        if len(body) <= self._limit.tracked_bytes:
            self._replies.publish("", reply_to, body, mandatory=False, **about)
            return
        if self._large is None:
            connection, failures = self.connections.connections[0], self._loop.failures
            self._large = ConfirmedChannel(connection, self.name, self._limit, failures, None, self._broken())
            self._large.open(lambda: None)
        self._large.publish(Publish(reply_to, body, on_answered, {**about, "mandatory": False}))

    # -- for its consumers ---------------------------------------------------------------------------------------------

    def open_channel(
        self, on_open: Callable[[BrokerChannel], None], on_closed: Callable[[TransportError], None]
    ) -> None:
        self.connections.connections[1].open_channel(on_open, on_closed)

    def later(self, delay_s: float, callback: Callable[[], None]) -> None:
        self._loop.call_later(delay_s, callback)


class ExtraConsumer:
    """One queue: a channel, which is opened again when it breaks.

    Args:
        script: declares and consumes it, given the epoch of the worker's own connections.
        is_looked_after: it is asked for its consumers from time to time; not a queue that the broker names.
    """

    def __init__(
        self,
        host: ExtraHost,
        queue: str,
        script: Callable[[int, Keep], Script],
        *,
        is_wanted: bool = True,
        is_looked_after: bool = True,
    ):
        self.problem = ""
        """Why it is not consumed; read by any thread."""
        self.is_wanted = is_wanted
        self._host, self._queue, self._script = host, queue, script
        self._is_looked_after = is_looked_after
        self._channel: BrokerChannel | None = None
        self._tag = ""
        self._is_over = self._is_open = False
        self._opening = 0
        """How often it was opened: what an earlier channel reports is dropped."""
        self._backoff = Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S)

    def __repr__(self) -> str:
        return f"<ExtraConsumer {self._queue} {self.problem or 'consuming'}>"

    def open(self) -> None:
        """If it is wanted, and not open already."""
        epoch = self._host.epoch
        if self._is_over or self._is_open or not self.is_wanted or epoch is None:
            return
        self._is_open = True
        self._opening += 1
        opening = self._opening

        def opened(channel: BrokerChannel) -> None:
            if opening == self._opening:
                self._channel = channel
                channel.run(self._script(epoch, self._keep), self._consuming)
            else:
                channel.close()

        self._host.open_channel(opened, partial(self._broken, opening))

    def _keep(self, tag: str) -> None:
        self._tag = tag

    def _consuming(self) -> None:
        self.problem = ""
        self._backoff.reset()
        self._look_later()

    def _look_later(self) -> None:
        if self._is_looked_after:
            self._host.later(_LOOK_S, partial(self._look, self._opening))

    def _look(self, opening: int) -> None:
        """Consume again if the broker has forgotten our consumer, of which it does not tell us."""
        channel = self._channel
        if opening != self._opening or channel is None or self._is_over:
            return
        found: list[int] = []

        def ask() -> Script:
            found.append((yield declare_queue(self._queue, passive=True))[2])

        def looked() -> None:
            if opening != self._opening:
                return
            if found[0]:
                self._look_later()
            else:
                self._host.tell(f"queue {printable(self._queue)} has no consumer any more; consuming again")
                self.close()
                self.open()

        channel.run(ask(), looked)

    def _broken(self, opening: int, error: TransportError) -> None:
        if opening != self._opening:
            return
        self.forget()
        if not self._host.is_up:
            return
        self.problem = f"queue {printable(self._queue)} is not consumed: {getattr(error, 'reason', error)}"
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
        self._channel, self._tag, self._is_open = None, "", False
