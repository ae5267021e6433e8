"""Maintenance: leaves a broker that an operator takes out of service, without an error, and comes back to it.

Theory of operation. The operator's mark is a durable queue on the broker, so that it outlives the broker's restart. The
worker asks for it every two seconds by a mandatory publish to the queue's name: a message that comes back means that
there is no mark. (To declare it passively would close the channel each time, and fill the broker's log.) The queue
keeps nothing of what is published to it.

While the mark stands, the node's queues are unbound from the exchange: what Senders publish comes back to them, and
they go to another broker at once. What is here already is finished. Pings are answered as long as a call is under way,
or its Sender would take the path for dead; they say that no new calls are taken. When nothing is left the calls and
control queues are given up, and with their last consumer they are gone: the worker is *drained*. The queues of messages
are consumed all the same, because what reaches them past the exchange (dead letters that are sent back, attempts that
are due) would lie there until the maintenance is over.

A worker that has seen the mark expects the broker to go down, and takes it calmly. One that connects to a marked broker
consumes messages only. When the mark is gone everything is bound again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from servicebus.configuration import Configuration
from servicebus.errors import TransportError
from servicebus.transport.interface import BrokerChannel, BrokerConnection, Returned, Script
from servicebus.transport.loggers import get_logger
from servicebus.transport.loop import EventLoop
from servicebus.transport.steps import declare_queue, unbind_queue
from servicebus.wire.address import control_queue, drained_mark, messages_queue, rpc_queue

LOG = get_logger(__name__)

_ASK_EVERY_S = 2.0
_LEAVING_S = 0.25
_ANSWER_S = 1.0
"""A broker under an alarm does not read what we publish; then the last answer holds."""

LEAVING = "leaving"
DRAINED = "drained"


class Consumer(Protocol):
    """What is asked of the worker's consumer."""

    @property
    def is_idle(self) -> bool:
        """Nothing that was accepted is unfinished."""

    def transient_queue(self, name: str) -> str:
        """The queue that is bound with the routing key *name*."""

    def turn_calls_away(self, is_leaving: bool) -> None:
        """Say in pongs whether new calls are taken."""

    def cancel(self, name: str) -> None: ...

    def bind_again(self) -> Script:
        """Everything that is declared and bound."""

    def renew(self, reason: str) -> None:
        """Open the connections anew, at once and without a complaint."""


class Maintenance:
    """One worker's; the I/O thread's, but for ``state``. Lives as long as the worker, over all connections."""

    def __init__(self, loop: EventLoop, config: Configuration, host_name: str, consumer: Consumer):
        self.is_asked = False
        """The mark stands, as far as we know."""
        self._has_left = False
        self._loop = loop
        self._host_name = host_name
        self._consumer = consumer
        self._mark = drained_mark(config.exchange_name)
        self._exchange = config.exchange_name
        self._rpc = rpc_queue(config.node_name)
        self._control = control_queue(config.node_name)
        self._messages = messages_queue(config.node_name)
        self._life = 0
        """Counts the connections, so that what is left of a former one is not listened to."""
        self._channel: BrokerChannel | None = None
        self._came_back = False
        self._is_open = False
        """The subscriptions are."""
        self._is_busy = False
        self._was_idle = False
        self._then: Callable[[], None] | None = None

    def __repr__(self) -> str:
        return f"<Maintenance {self._host_name} {self.state or 'none'}>"

    @property
    def state(self) -> str:
        """For the status: ``leaving``, ``drained``, or empty."""
        if not self.is_asked:
            return ""
        return DRAINED if self._has_left else LEAVING

    # -- what the consumer tells ---------------------------------------------------------------------------------------

    def begin(
        self, connection: BrokerConnection, on_broken: Callable[[TransportError], None], then: Callable[[], None]
    ) -> None:
        """New connections: ``then()`` when it is known whether the mark stands. *connection* may publish."""
        self._life += 1
        self._channel = None
        self._is_open = self._is_busy = self._was_idle = False
        self._then = then
        life = self._life

        def opened(channel: BrokerChannel) -> None:
            if life == self._life:
                self._channel = channel
                self._ask(life)

        def confirmed(_number: int, _multiple: bool, _is_ack: bool) -> None:
            if life == self._life:
                self._answered(life, is_asked=not self._came_back)

        connection.open_channel(opened, on_broken, on_returned=self._returned, on_confirmed=confirmed)
        self._loop.call_later(_ANSWER_S, lambda: self._no_answer(life))

    def lanes_open(self) -> None:
        """The consumer consumes again; of a marked broker only what is stored."""
        self._is_open = True
        if self.is_asked:
            self._has_left = True
            self._consumer.turn_calls_away(True)
            LOG.info("%s: the broker is in maintenance; only stored messages are consumed", self._host_name)
            self._run(self._unbind_messages())

    def end(self) -> None:
        """The connections are gone."""
        self._life += 1
        self._channel = None
        self._then = None

    # -- asking --------------------------------------------------------------------------------------------------------

    def _ask(self, life: int) -> None:
        if life != self._life or self._channel is None:
            return
        self._came_back = False
        self._channel.publish("", self._mark, b"", mandatory=True)

    def _returned(self, _returned: Returned) -> None:
        self._came_back = True  # its confirm follows

    def _answered(self, life: int, *, is_asked: bool) -> None:
        was_asked, self.is_asked = self.is_asked, is_asked
        then, self._then = self._then, None
        pause_s = _LEAVING_S if self.state == LEAVING else _ASK_EVERY_S
        self._loop.call_later(pause_s, lambda: self._ask(life))
        if then is not None:
            self._begin_subscriptions(then)
        elif not self._is_open:
            self.is_asked = was_asked  # asked again when there is something to leave
        elif is_asked and not self._has_left:
            if not was_asked:
                LOG.info("%s: to be drained; new calls and messages go elsewhere", self._host_name)
                self._consumer.turn_calls_away(True)
            self._run(self._leave())
        elif is_asked:
            self._run(self._unbind_messages())  # an agent of an older release may have bound them again
        elif was_asked:
            self._come_back()

    def _no_answer(self, life: int) -> None:
        if life == self._life and self._then is not None:
            then, self._then = self._then, None
            self._begin_subscriptions(then)

    def _begin_subscriptions(self, then: Callable[[], None]) -> None:
        if not self.is_asked:
            self._has_left = False
            self._consumer.turn_calls_away(False)
        then()

    # -- leaving -------------------------------------------------------------------------------------------------------

    def _leave(self) -> Script:
        """Take nothing new, and give up the last when nothing is left."""
        rpc = self._consumer.transient_queue(self._rpc)
        yield unbind_queue(rpc, self._exchange, self._rpc)
        yield from self._unbind_messages()
        _, calls, _ = yield declare_queue(rpc, passive=True)
        _, messages, _ = yield declare_queue(self._messages, passive=True)
        # Twice: what the broker counts no more may still be on its way to us.
        was_idle, self._was_idle = self._was_idle, not (calls or messages) and self._consumer.is_idle
        if not (was_idle and self._was_idle):
            return
        yield unbind_queue(self._consumer.transient_queue(self._control), self._exchange, self._control)
        self._has_left = True
        for subscription in ("calls", "control"):
            self._consumer.cancel(subscription)
        LOG.info("%s: drained; the broker may be stopped", self._host_name)

    def _unbind_messages(self) -> Script:
        yield unbind_queue(self._messages, self._exchange, self._messages)

    def _come_back(self) -> None:
        LOG.info("%s: the maintenance is over", self._host_name)
        self._was_idle = False
        if self._has_left:
            self._consumer.renew("the maintenance is over")
            return
        self._consumer.turn_calls_away(False)
        self._run(self._consumer.bind_again())

    def _run(self, script: Script) -> None:
        """One script at a time: a channel knows no more."""
        if self._channel is None or self._is_busy:
            script.close()
            return
        self._is_busy = True
        life = self._life

        def done() -> None:
            if life == self._life:
                self._is_busy = False

        self._channel.run(script, done)
