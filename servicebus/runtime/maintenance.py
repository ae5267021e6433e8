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

A worker that has seen the mark does not report the loss of the broker as an outage. One that connects to a marked
broker consumes messages only. When the mark is gone everything is bound again.

What follows from each answer is in ``_TRANSITIONS``.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Protocol

from servicebus.configuration import Configuration
from servicebus.errors import TransportError
from servicebus.transport.connection_manager import ConnectionManager
from servicebus.transport.interface import BrokerChannel, BrokerConnection, Returned, Script
from servicebus.transport.loggers import get_logger
from servicebus.transport.loop import EventLoop, nothing
from servicebus.transport.steps import declare_queue, unbind_queue
from servicebus.wire.address import control_queue, drained_mark, messages_queue, rpc_queue

LOG = get_logger(__name__)

_ASK_EVERY_S = 2.0
_LEAVING_S = 0.25
_ANSWER_S = 1.0
"""A broker under an alarm does not read what we publish; then the last answer holds."""
_IDLE_LOOKS = 2
"""What the broker counts no more may still be on its way to us: it is looked for once more."""


class MaintenanceState(Enum):
    """What the worker has done about the operator's mark; the value is for the status."""

    NONE = ""
    LEAVING = "leaving"
    DRAINED = "drained"


class _Phase(Enum):
    """How far these connections are."""

    ASKING = "subscriptions wait until it is known whether the mark stands"
    OPENING = "subscriptions are being opened; answers are ignored until there is something to leave"
    OPEN = "subscriptions are open"


class _Event(Enum):
    MARKED = "the mark stands"
    UNMARKED = "there is no mark"
    SILENT = "the broker does not answer"
    OPENED = "the subscriptions are open"
    EMPTIED = "nothing is left that was accepted"


DRAINED = MaintenanceState.DRAINED.value


class MaintainedConsumer(Protocol):
    """The worker's consumer, as the maintenance uses it."""

    @property
    def connections(self) -> ConnectionManager:
        """What is left of former ones is ignored."""

    @property
    def is_idle(self) -> bool:
        """Nothing that was accepted is unfinished."""

    def transient_queue(self, name: str) -> str:
        """The queue that is bound with the routing key *name*."""

    def refuse_calls(self, is_leaving: bool) -> None:
        """Say in pongs whether new calls are taken."""

    def cancel(self, name: str) -> None: ...

    def bind_again(self) -> Script:
        """Everything that is declared and bound."""

    def renew(self, reason: str) -> None:
        """Open the connections again, at once, without reporting an outage."""


class Maintenance:
    """One worker's; the I/O thread's, but for ``state``. Lives as long as the worker, over all connections."""

    def __init__(self, loop: EventLoop, config: Configuration, host_name: str, consumer: MaintainedConsumer):
        self._state = MaintenanceState.NONE
        self._phase = _Phase.ASKING
        self._answer = _Event.MARKED
        """To the question that is under way."""
        self._loop = loop
        self._host_name = host_name
        self._consumer = consumer
        self._mark = drained_mark(config.exchange_name)
        self._exchange = config.exchange_name
        self._rpc = rpc_queue(config.node_name)
        self._control = control_queue(config.node_name)
        self._messages = messages_queue(config.node_name)
        self._channel: BrokerChannel | None = None
        self._script: Script | None = None
        """Runs on the channel."""
        self._next_script: Script | None = None
        self._idle_looks = 0
        self._then: Callable[[], None] = nothing

    def __repr__(self) -> str:
        return f"<Maintenance {self._host_name} {self.state or 'none'}>"

    @property
    def state(self) -> str:
        """For the status: ``leaving``, ``drained``, or empty."""
        return self._state.value

    @property
    def is_asked(self) -> bool:
        """The mark stands, as far as we know."""
        return self._state is not MaintenanceState.NONE

    # -- what the consumer reports -------------------------------------------------------------------------------------

    def begin(
        self, connection: BrokerConnection, on_broken: Callable[[TransportError], None], then: Callable[[], None]
    ) -> None:
        """New connections: ``then()`` when it is known whether the mark stands. *connection* may publish."""
        self._channel = self._script = self._next_script = None
        self._phase, self._idle_looks = _Phase.ASKING, 0
        self._then = then
        in_this_epoch = self._consumer.connections.in_this_epoch
        opened, confirmed = in_this_epoch(self._opened), in_this_epoch(self._confirmed)
        connection.open_channel(opened, on_broken, on_returned=self._returned, on_confirmed=confirmed)
        self._loop.call_later(_ANSWER_S, in_this_epoch(lambda: self._happened(_Event.SILENT)))

    def subscriptions_open(self) -> None:
        """The consumer consumes again; of a marked broker only what is stored."""
        self._phase = _Phase.OPEN
        self._happened(_Event.OPENED)

    def end(self) -> None:
        """The connections are gone."""
        self._channel = None

    def _opened(self, channel: BrokerChannel) -> None:
        self._channel = channel
        self._ask()

    def _confirmed(self, _number: int, _multiple: bool, _is_ack: bool) -> None:
        self._happened(self._answer)
        is_soon = self._state is MaintenanceState.LEAVING or self._phase is _Phase.OPENING
        pause_s = _LEAVING_S if is_soon else _ASK_EVERY_S
        self._loop.call_later(pause_s, self._consumer.connections.in_this_epoch(self._ask))

    def _ask(self) -> None:
        if self._channel is not None:
            self._answer = _Event.MARKED
            self._channel.publish("", self._mark, b"", mandatory=True)

    def _returned(self, _returned: Returned) -> None:
        self._answer = _Event.UNMARKED  # its confirm follows

    def _happened(self, event: _Event) -> None:
        """Take the transition for *event*, if there is one."""
        transition = _TRANSITIONS.get((self._phase, self._state, event))
        if transition is not None:
            self._state, act = transition
            act(self)

    # -- what follows --------------------------------------------------------------------------------------------------

    def _open_subscriptions(self) -> None:
        self._phase = _Phase.OPENING
        if self._state is MaintenanceState.NONE:
            self._consumer.refuse_calls(False)
        self._then()

    def _consume_stored_only(self) -> None:
        self._consumer.refuse_calls(True)
        LOG.info("%s: the broker is in maintenance; only stored messages are consumed", self._host_name)
        self._run(self._unbind_messages())

    def _begin_leaving(self) -> None:
        LOG.info("%s: to be drained; new calls and messages go elsewhere", self._host_name)
        self._consumer.refuse_calls(True)
        self._go_on_leaving()

    def _go_on_leaving(self) -> None:
        self._run(self._leave())

    def _keep_unbound(self) -> None:
        """An agent of an older release may have bound them again."""
        self._run(self._unbind_messages())

    def _stay(self) -> None:
        LOG.info("%s: the maintenance is over", self._host_name)
        self._idle_looks = 0
        self._consumer.refuse_calls(False)
        self._run(self._consumer.bind_again())

    def _come_back(self) -> None:
        LOG.info("%s: the maintenance is over", self._host_name)
        self._consumer.renew("the maintenance is over")

    def _give_up_calls(self) -> None:
        for subscription in ("calls", "control"):
            self._consumer.cancel(subscription)
        LOG.info("%s: drained; the broker may be stopped", self._host_name)

    def _leave(self) -> Script:
        """Take nothing new, and give up the last when nothing is left."""
        rpc = self._consumer.transient_queue(self._rpc)
        yield unbind_queue(rpc, self._exchange, self._rpc)
        yield from self._unbind_messages()
        _, calls, _ = yield declare_queue(rpc, passive=True)
        _, messages, _ = yield declare_queue(self._messages, passive=True)
        is_idle = not (calls or messages) and self._consumer.is_idle
        self._idle_looks = self._idle_looks + 1 if is_idle else 0
        if self._idle_looks >= _IDLE_LOOKS:
            yield unbind_queue(self._consumer.transient_queue(self._control), self._exchange, self._control)
            self._happened(_Event.EMPTIED)

    def _unbind_messages(self) -> Script:
        yield unbind_queue(self._messages, self._exchange, self._messages)

    def _run(self, script: Script) -> None:
        """One script at a time: a channel knows no more. The last one that was asked for meanwhile follows."""
        if self._channel is None:
            return
        if self._script is not None:
            self._next_script = script
            return
        self._script = script

        def done() -> None:
            self._script, following, self._next_script = None, self._next_script, None
            if following is not None:
                self._run(following)

        self._channel.run(script, self._consumer.connections.in_this_epoch(done))


_A, _O = _Phase.ASKING, _Phase.OPEN
_NONE, _LEAVING, _DRAINED = MaintenanceState
_TRANSITIONS: dict[tuple[_Phase, MaintenanceState, _Event], tuple[MaintenanceState, Callable[[Maintenance], None]]] = {
    (_A, _NONE, _Event.MARKED): (_LEAVING, Maintenance._open_subscriptions),
    (_A, _LEAVING, _Event.MARKED): (_LEAVING, Maintenance._open_subscriptions),
    (_A, _DRAINED, _Event.MARKED): (_DRAINED, Maintenance._open_subscriptions),
    **{(_A, state, _Event.UNMARKED): (_NONE, Maintenance._open_subscriptions) for state in MaintenanceState},
    **{(_A, state, _Event.SILENT): (state, Maintenance._open_subscriptions) for state in MaintenanceState},
    (_O, _LEAVING, _Event.OPENED): (_DRAINED, Maintenance._consume_stored_only),
    (_O, _DRAINED, _Event.OPENED): (_DRAINED, Maintenance._consume_stored_only),
    (_O, _NONE, _Event.MARKED): (_LEAVING, Maintenance._begin_leaving),
    (_O, _LEAVING, _Event.MARKED): (_LEAVING, Maintenance._go_on_leaving),
    (_O, _LEAVING, _Event.EMPTIED): (_DRAINED, Maintenance._give_up_calls),
    (_O, _LEAVING, _Event.UNMARKED): (_NONE, Maintenance._stay),
    (_O, _DRAINED, _Event.MARKED): (_DRAINED, Maintenance._keep_unbound),
    (_O, _DRAINED, _Event.UNMARKED): (_NONE, Maintenance._come_back),
}
"""The phase of the connections, the state and the event: the next state, and what is done. Others change nothing."""
