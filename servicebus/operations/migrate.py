"""Moves a stored queue to another type (classic, quorum) under the same name, and loses no message by it.

A broker cannot change the type of a queue, so the messages move through a queue beside it, ``NAME.moving``::

    1  NAME.moving is declared                                  messages in NAME
    2  every message is copied there; each is acked in NAME
       only when the broker has confirmed the copy              in both
    3  NAME is unbound, emptied again, and deleted              in NAME.moving
    4  NAME is declared again, with the new type, and bound     in NAME.moving, new ones in NAME
    5  every message is copied back in the same way             in both
    6  NAME.moving is deleted                                   in NAME

At every moment each message is in at least one durable queue, and what is found on the broker says where to go on:
after ``kill -9`` the same command finishes the work. What was copied and not yet acked then is there twice, under one
id, which a node executes once. Between 3 and 4, some milliseconds, the broker gives messages for NAME back to their
senders, who try again or go to another host.

Of a queue of events, NAME.moving is bound as NAME is before that is unbound, and unbound when NAME is again: no event
that is published meanwhile misses the subscription, and one that comes into both has one id as well.

A classic queue is deleted with if-empty and if-unused: the broker looks and deletes in one step. Quorum queues know
neither; there the deletion waits until nothing has come for a while, with a consumer that is still given what does.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from servicebus.configuration import Configuration
from servicebus.errors import ServiceBusError, TransportError
from servicebus.operations.queue_mover import OnMoved, QueueMover
from servicebus.operations.queue_types import LIMITED, declaration_of, type_of, wanted_type
from servicebus.operations.session import Session
from servicebus.operations.session_channel import SessionChannel
from servicebus.transport.interface import ExchangeKind, Step
from servicebus.transport.steps import bind_queue, declare_exchange, delete_queue, unbind_queue
from servicebus.wire.address import messages_queue
from servicebus.wire.events import events_exchange, subscriber_of
from servicebus.wire.printable import counted

__all__ = ["Migration", "MigrationBlocked", "QueueStatus", "look", "look_at_all", "moving_queue"]

QUIET_S = 1.0
"""A quorum queue is deleted when nothing has come for so long."""
LOCK_S = 5.0
"""A run that was killed leaves its lock until the broker has noticed."""
_LOCKED = 405
_LOOK_EVERY_S = 0.1
_ROUNDS = 50
_ROUND = 10_000
"""Messages after which it is tried whether the queue is empty for a moment, though more come all the while."""


class MigrationBlocked(ServiceBusError):
    """Raised when a queue cannot be moved now; everything is as it was, or as far as it says."""


@dataclass(frozen=True)
class QueueStatus:
    """What the broker has of one queue."""

    queue: str
    state: str
    """``fine``, ``other`` (to be moved), ``missing``, or ``unfinished`` (an earlier run was ended in the middle)."""
    current: str
    """Its type, with LIMITED behind it if it has a delivery limit and should have none; ``another`` if it has arguments
    of which we do not know; empty if it does not exist."""
    messages: int
    consumers: int
    moving: int | None
    """Messages in the queue beside it; None if there is none."""

    @property
    def is_done(self) -> bool:
        return self.state in ("fine", "missing")


def moving_queue(name: str) -> str:
    """The queue through which the messages of *name* travel."""
    return f"{name}.moving"


def look_at_all(session: Session, config: Configuration, names: Sequence[str]) -> list[QueueStatus]:
    """What the broker has of each of *names*."""
    return [look(session, config, name) for name in names]


def look(session: Session, config: Configuration, name: str) -> QueueStatus:
    """Whether *name* is as the configuration wants it. Changes nothing."""
    facts = session.facts(name)
    beside = session.facts(moving_queue(name))
    current, is_wanted = type_of(session, config, name) if facts is not None else ("", False)
    if facts is not None and not is_wanted:
        state = "other"
    elif beside is not None:
        state = "unfinished"
    else:
        state = "fine" if facts is not None else "missing"
    return QueueStatus(
        name,
        state,
        current,
        facts.ready if facts is not None else 0,
        facts.consumers if facts is not None else 0,
        beside.ready if beside is not None else None,
    )


class Migration:
    """Moves one queue on one broker to the type that the configuration says.

    Args:
        patterns: of a queue of events: those by which it is to be bound.
    """

    def __init__(
        self,
        session: Session,
        config: Configuration,
        name: str,
        progress: OnMoved | None = None,
        patterns: Sequence[str] = (),
    ):
        self._session = session
        self._config = config
        self._name = name
        self._moving = moving_queue(name)
        self._progress = progress
        self._exchange, self._kind, self._keys = _bindings_of(config, name, patterns)
        self._takes_both = bool(patterns)
        """What is published meanwhile has to come into the queue beside it."""

    def run(self) -> QueueStatus:
        """Do what is left to do; returns what there is afterwards.

        Raises:
            MigrationBlocked: the queue has a consumer, or another run is under way.
            TransportError: the broker failed; the same again goes on from there.
        """
        with self._alone():
            found = look(self._session, self._config, self._name)
            if subscriber_of(self._name, self._config.node_name) and not (self._takes_both or found.is_done):
                raise MigrationBlocked(
                    f"{self._session.host.name}: the patterns of {self._name} are not known on this machine; say each"
                    " by --pattern, or events that come meanwhile would be lost"
                )
            if found.state == "other":
                self._refuse_if_used(found.consumers, found.current)
                self._empty(found.current)
            if not found.is_done:
                self._declare_anew()
                self._bring_back()
            after = look(self._session, self._config, self._name)
        if not after.is_done:
            raise ServiceBusError(
                f"{self._session.host.name}: queue {self._name} was made again and is {after.current} still, where "
                f"the configuration says {wanted_type(self._config, self._name)}; does the virtual host have a default "
                "queue type?"
            )
        return after

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One run at a time on a broker: two would delete under each other's hands."""
        lock = f"{self._moving}.lock"
        give_up_at = time.monotonic() + LOCK_S
        while not (channel := self._locked(lock, is_last=time.monotonic() > give_up_at)):
            time.sleep(_LOOK_EVERY_S)
        with channel:
            try:
                yield
            finally:
                if self._session.is_open and channel.failure is None:
                    channel.run(delete_queue(lock), "the end of the lock")

    def _locked(self, lock: str, *, is_last: bool) -> SessionChannel | None:
        """A channel with the lock; None if another connection has it, and it is not yet the last time to ask."""
        channel = self._session.channel()
        try:
            channel.declare(lock, exclusive=True, auto_delete=False)
        except TransportError as error:
            if error.reply_code != _LOCKED:
                raise
            if is_last:
                raise MigrationBlocked(
                    f"{self._session.host.name}: queue {self._name} is being moved by another process; wait for it"
                ) from error
            return None
        return channel

    def _refuse_if_used(self, consumers: int, current: str) -> None:
        if consumers:
            used = f"queue {self._name} ({current}) still has {counted(consumers, 'consumer')}"
            raise MigrationBlocked(f"{self._session.host.name}: {used}; {self._way_out(current)}")

    def _way_out(self, current: str) -> str:
        node = self._config.node_name
        if current == LIMITED and self._config.message_queue_type == "quorum":  # which the agents take as it is
            return f"stop the agents of node {node}"
        key = "priorities" if "priorities" in wanted_type(self._config, self._name) + current else "queue_type"
        return f"give the agents of node {node} the new {key} first: they then wait for this command"

    # -- from the old queue into the one beside it ---------------------------------------------------------------------

    def _empty(self, current: str) -> None:
        if self._session.facts(self._moving) is None:
            self._declare(self._moving)
        if self._takes_both:
            self._bind(self._moving)
        # What is there now; messages go on coming, and sending them is to be disturbed as late and as short as can be.
        facts = self._session.facts(self._name)
        self._move(self._name, self._moving, facts.ready if facts is not None else 0)
        self._unbind(self._name)
        for _ in range(_ROUNDS):
            self._move(self._name, self._moving, _ROUND)
            if self._delete_empty(self._name) if current.startswith("classic") else self._delete_unwanted(current):
                return
        raise MigrationBlocked(
            f"{self._session.host.name}: messages come into queue {self._name} faster than they can be moved; "
            "nothing is lost, run it again when fewer come"
        )

    def _delete_empty(self, name: str) -> bool:
        """Delete a classic queue, if it is empty; false if it is not, or was not just now."""
        try:
            self._do(delete_queue(name, if_unused=True, if_empty=True), f"the deletion of queue {name}")
        except TransportError as error:
            if error.reply_code != 406:
                raise
            facts = self._session.facts(name)
            if facts is not None and facts.consumers:
                raise MigrationBlocked(
                    f"{self._session.host.name}: queue {name} has a consumer now; nothing is lost, "
                    "stop it and run this again"
                ) from error
            return False
        return True

    def _delete_unwanted(self, current: str) -> bool:
        """Delete a queue of any type into which nothing has come for a while; false if something has.

        It is consumed until it is gone, so that what comes in the last moment is still delivered, and copied.
        """
        with QueueMover(self._session, self._name, self._moving) as mover:
            if mover.move_until_quiet(QUIET_S, at_most=1):
                return False
            facts = self._session.facts(self._name)
            self._refuse_if_used(facts.consumers - 1 if facts is not None else 0, current)
            undelivered = self._do(delete_queue(self._name), f"the deletion of queue {self._name}")
            mover.move_rest()
        if undelivered:
            raise ServiceBusError(
                f"{self._session.host.name}: {counted(undelivered, 'message')} came into queue {self._name} as it was"
                " deleted, past its binding: gone"
            )
        return True

    # -- and back ------------------------------------------------------------------------------------------------------

    def _declare_anew(self) -> None:
        self._declare(self._name)
        self._bind(self._name)
        if self._takes_both:
            self._unbind(self._moving)

    def _bring_back(self) -> None:
        is_classic = type_of(self._session, self._config, self._moving)[0] == "classic"
        while True:
            self._move(self._moving, self._name, _ROUND)
            if self._delete_empty(self._moving) if is_classic else self._delete_unwatched():
                return

    def _delete_unwatched(self) -> bool:
        """Delete the queue beside it if it stays empty; false if it does not.

        No other program writes there, and the lock keeps other runs away: what can still come is what the broker takes
        back from the consumer of a run that was killed.
        """
        quiet_since = time.monotonic()
        while time.monotonic() - quiet_since < QUIET_S:
            facts = self._session.facts(self._moving)
            if facts is None or facts.ready:
                return facts is None
            time.sleep(_LOOK_EVERY_S)
        self._do(delete_queue(self._moving), f"the deletion of queue {self._moving}")
        return True

    # -- inside --------------------------------------------------------------------------------------------------------

    def _bind(self, queue: str) -> None:
        if self._keys:
            self._do(declare_exchange(self._exchange, kind=self._kind), "the declaration of the exchange")
        for key in self._keys:
            self._do(bind_queue(queue, self._exchange, key), f"the binding of queue {queue}")

    def _unbind(self, queue: str) -> None:
        for key in self._keys:
            self._do(unbind_queue(queue, self._exchange, key), f"the unbinding of queue {queue}")

    def _declare(self, name: str) -> None:
        self._do(declaration_of(self._session, self._config, name), f"the declaration of queue {name}")

    def _move(self, source: str, target: str, at_most: int) -> None:
        if at_most:
            with QueueMover(self._session, source, target, self._progress) as mover:
                mover.move_until_quiet(at_most=at_most)

    def _do(self, step: Step, what: str) -> Any:
        with self._session.channel() as channel:
            return channel.run(step, what)


def _bindings_of(config: Configuration, name: str, patterns: Sequence[str]) -> tuple[str, ExchangeKind, Sequence[str]]:
    """The exchange by which messages come into queue *name*, its type, and the keys."""
    if patterns:
        return events_exchange(config.exchange_name), "topic", patterns
    return config.exchange_name, "direct", [name] if name == messages_queue(config.node_name) else []
