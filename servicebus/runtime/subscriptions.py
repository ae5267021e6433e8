"""Subscriptions: what a worker consumes on one pair of connections; a channel each, opened one after the other.

A subscription whose queue cannot be had just now (its member of the cluster is down, or it is of another type until an
operator moves it) waits and is asked for again; the rest is served meanwhile.

Of a queue whose member is down RabbitMQ 3.10 says so at once. Later versions (seen with 4.0 and 4.3) say nothing for 71
to 76 s, then that it timed out. So a queue that is not answered for in ``ANSWER_S``, while the broker makes another one
on the same connection, is out of reach. If the answer comes all the same, the subscription is open.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

from servicebus.errors import QueueConflict, QueueStranded, TransportError
from servicebus.runtime.topology import Keep
from servicebus.transport.failures import stranded
from servicebus.transport.interface import Asked, BrokerChannel, BrokerConnection, Script
from servicebus.transport.loggers import get_logger
from servicebus.transport.loop import EventLoop
from servicebus.transport.steps import declare_queue, delete_queue
from servicebus.wire.address import is_stored

LOG = get_logger(__name__)

ANSWER_S = 2.0
"""What a broker takes to answer for a queue is milliseconds; more than this is looked into."""
_LOOK_EVERY_S = 0.5
WAITING_AGAIN_S = 5.0
"""How often queues are asked for that are out of reach, or of another type."""
_STORED = ("messages", "delays", "events")
_TRANSIENT = ("control", "calls")


class Subscription(NamedTuple):
    """A queue, or some that belong together, and how they are declared and consumed on a channel."""

    name: str
    script: Callable[[Keep], Script]


@dataclass(slots=True, eq=False)
class _Opening:
    """A subscription that is being opened, or is open."""

    subscription: Subscription
    then: Callable[[], None]
    channel: BrokerChannel | None = None
    is_open: bool = False


class SubscriptionEvents(Protocol):
    """What the consumer is told; in the loop's thread."""

    def is_worth_another_try(self, refused: str) -> bool:
        """Queue *refused* has other arguments: whether the script will declare it in another form now."""

    def subscription_waits(self, reason: str) -> None: ...
    def subscription_broken(self, error: TransportError) -> None: ...


class Subscriptions:
    """Belongs to the I/O thread, and to one epoch of a consumer's connections.

    Args:
        plan: the subscriptions that are wanted now.
        connection: the one that consumes.
    """

    def __init__(
        self,
        loop: EventLoop,
        host_name: str,
        connection: BrokerConnection,
        plan: Callable[[], list[Subscription]],
        events: SubscriptionEvents,
    ):
        self._loop = loop
        self._host_name = host_name
        self._connection = connection
        self._plan = plan
        self._events = events
        self._channels: dict[str, BrokerChannel] = {}
        self._tags: dict[str, list[str]] = {}
        self._waiting: dict[str, str] = {}
        self._unanswered: set[str] = set()
        """Those that wait and are asked for still."""
        self._asked_again = ""
        """Why subscriptions waited that are being asked for again just now."""
        self._is_over = False

    def __repr__(self) -> str:
        return f"<Subscriptions {self._host_name} {', '.join(self._channels)} waiting={', '.join(self._waiting)}>"

    @property
    def problem(self) -> str:
        """Why a subscription waits; empty if none does."""
        return next(iter(self._waiting.values()), self._asked_again)

    def channel(self, name: str) -> BrokerChannel | None:
        return self._channels.get(name)

    def open(self, then: Callable[[], None]) -> None:
        """Consume all of them; ``then()`` when that is done, as far as it can be."""

        def opened() -> None:
            self._ask_for_waiting_later()
            then()

        self._open_each(self._plan(), opened)

    def cancel(self, name: str) -> None:
        """Take nothing more from a subscription; what it has delivered stays ours."""
        channel = self._channels.get(name)
        for tag in self._tags.pop(name, ()):
            if channel is not None:
                channel.cancel(tag)

    def consume_again(self, names: Collection[str]) -> None:
        """Open some subscriptions again, on other channels.

        A broker that has lost count of its consumers may miscount again if one is cancelled that it does not know. What
        the closed channels had delivered comes again, and joins what runs already.
        """
        former = [self._channels.pop(name) for name in names if name in self._channels]
        for name in names:
            self._tags.pop(name, None)

        def close_former() -> None:
            for channel in former:
                channel.close()

        self._open_each([subscription for subscription in self._plan() if subscription.name in names], close_former)

    def end(self) -> None:
        """The connections are gone."""
        self._is_over = True
        self._channels.clear()
        self._tags.clear()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _open_each(self, subscriptions: list[Subscription], then: Callable[[], None]) -> None:
        if self._is_over:
            return
        if not subscriptions:
            then()
            return
        subscription, rest = subscriptions[0], subscriptions[1:]
        if subscription.name in _STORED and self._waiting:
            self._waiting[subscription.name] = self.problem
            self._open_each(rest, then)
        else:
            self._open(subscription, lambda: self._open_each(rest, then))

    def _open(self, subscription: Subscription, then: Callable[[], None]) -> None:
        opening = _Opening(subscription, then)
        self._connection.open_channel(partial(self._opened, opening), partial(self._broken, opening))

    def _opened(self, opening: _Opening, channel: BrokerChannel) -> None:
        name = opening.subscription.name
        opening.channel = self._channels[name] = channel
        script = opening.subscription.script(lambda tag: self._tags.setdefault(name, []).append(tag))
        channel.run(script, partial(self._ready, opening))
        self._watch(channel, lambda: not opening.is_open, partial(self._silent, opening))

    def _ready(self, opening: _Opening) -> None:
        opening.is_open = True
        name = opening.subscription.name
        if name in self._unanswered:
            self._unanswered.discard(name)
            self._waiting.pop(name, None)
        else:
            opening.then()

    def _silent(self, opening: _Opening, queue: str) -> None:
        name, error = opening.subscription.name, stranded(self._host_name, queue)
        if _can_wait(name, error):
            self._unanswered.add(name)
            self._let_wait(name, error)
            opening.then()
        else:
            self._events.subscription_broken(error)

    def _broken(self, opening: _Opening, error: TransportError) -> None:
        name, is_open = opening.subscription.name, opening.is_open
        was_replaced = is_open and self._channels.get(name) is not opening.channel
        if self._is_over or was_replaced:
            return
        refused = error.queue if isinstance(error, QueueConflict) and not is_open else ""
        if refused and self._events.is_worth_another_try(refused):
            self._open(opening.subscription, opening.then)
        elif name in self._unanswered and not is_open:
            self._unanswered.discard(name)  # it waits, and is asked for again
        elif not is_open and _can_wait(name, error):
            self._let_wait(name, error)
            opening.then()
        else:
            self._events.subscription_broken(error)

    def _watch(self, channel: BrokerChannel, is_waited_for: Callable[[], bool], silent: Callable[[str], None]) -> None:
        """Call *silent* with the queue for which alone the broker does not answer."""

        def look(before: Asked | None, looks: int) -> None:
            asked = channel.asked
            if self._is_over or not (is_waited_for() and channel.is_open):
                return
            looks = looks + 1 if asked is before else 0
            if asked is None or looks * _LOOK_EVERY_S < ANSWER_S:
                self._loop.call_later(_LOOK_EVERY_S, lambda: look(asked, looks))
            else:
                self._when_it_makes_a_queue(lambda: silent(asked.queue) if channel.asked is asked else None)

        look(None, 0)

    def _when_it_makes_a_queue(self, then: Callable[[], None]) -> None:
        """Have the broker make a queue, on the member that we are connected to; ``then()`` when it has."""

        def opened(channel: BrokerChannel) -> None:
            def done() -> None:
                channel.close()
                if not self._is_over:
                    then()

            channel.run(_a_queue(), done)

        self._connection.open_channel(opened, lambda _error: None)

    def _let_wait(self, name: str, error: TransportError) -> None:
        self._channels.pop(name, None)
        reason = self._waiting[name] = getattr(error, "reason", str(error))
        self._events.subscription_waits(reason)

    def _ask_for_waiting_later(self) -> None:
        def ask() -> None:
            if not self._is_over:
                self._asked_again = self.problem
                subscriptions = [
                    subscription
                    for subscription in self._plan()
                    if subscription.name in self._waiting.keys() - self._unanswered
                ]
                for subscription in subscriptions:
                    del self._waiting[subscription.name]
                self._open_each(subscriptions, self._ask_for_waiting_later)

        self._asked_again = ""
        if self._waiting:
            self._loop.call_later(WAITING_AGAIN_S, ask)


def _a_queue() -> Script:
    name, _, _ = yield declare_queue(exclusive=True, auto_delete=True)
    yield delete_queue(name)


def _can_wait(subscription: str, error: TransportError) -> bool:
    """Whether the other subscriptions are of use without this one, which has just been refused."""
    if isinstance(error, QueueStranded):
        return subscription not in _TRANSIENT
    return isinstance(error, QueueConflict) and is_stored(error.queue)
