"""ConnectionManager: the connections of one owner to one broker: opened together, lost together, and opened again.

Theory of operation. A Sender and a tool have one connection to a broker, a worker has two. When one of them is lost, or
the owner gives them up, all of them are closed. The state follows the table of ``policy.connection``; what ends a
backoff is the owner's choice. Each attempt begins a new *epoch*, and so does each loss. What a connection of an earlier
epoch reports is dropped here, and so is a callback that was bound to one (``in_this_epoch()``).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import ParamSpec, Protocol

from servicebus.configuration import BrokerHost, Configuration
from servicebus.errors import ConnectFailed, ConnectionLost, TransportError
from servicebus.policy.backoff import Backoff, cap_for
from servicebus.policy.connection import TRANSITIONS, ConnectionEvent, ConnectionState
from servicebus.policy.members import MemberRotation
from servicebus.policy.transitions import after
from servicebus.transport.interface import BrokerConnection, Connect
from servicebus.transport.loop import EventLoop, Timer
from servicebus.wire.printable import printable

__all__ = ["CONNECT_LIMIT_S", "HURRY_S", "ConnectionManager", "ConnectionOwner", "Loss"]

P = ParamSpec("P")

CONNECT_LIMIT_S = 2.0
"""At most this long for TCP alone: a SYN that was dropped is repeated by the kernel after 1 s, then only after 3 and
7 s, so a fresh attempt finds a healed network sooner than a patient one."""

HURRY_S = 0.2
"""While a request waits and has no other host, one whose attempts cost the broker nothing is tried this often."""

_ACTIVE = (ConnectionState.CONNECTING, ConnectionState.UP, ConnectionState.DRAINING)


@dataclass(frozen=True, slots=True)
class Loss:
    """Why the connections are given up."""

    reason: str
    kind: str = "closed"
    error: TransportError | None = None
    keeps_member: bool = False
    """The next attempt goes to the same member of the cluster."""
    is_silent: bool = False
    """The network swallows packets: the broker is told when it can be reached again."""
    at_once: bool = False
    """The next attempt waits for no backoff."""

    @classmethod
    def of(cls, error: TransportError) -> Loss:
        # The broker's words, some of them, or a network's: from here they go everywhere.
        return cls(printable(str(getattr(error, "reason", error))), error.kind, error)


class ConnectionOwner(Protocol):
    """What is reported to the owner, in the loop's thread, of the current connections only."""

    def connections_open(self) -> None:
        """All of them are open. The owner opens its channels, then calls ``ready()``."""

    def connections_lost(self, loss: Loss) -> None:
        """They are gone, with a new epoch; the manager pauses already, or is closed."""

    def connection_blocked(self, reason: str | None) -> None:
        """The broker does not read what one of them publishes; with None it reads again."""


class ConnectionManager:
    """Belongs to the loop's thread; other threads may read its attributes.

    Args:
        labels: one for each connection, for the broker's list of them.
        timeout_s: for the handshake, and up to ``CONNECT_LIMIT_S`` for TCP.
        handshake_timeout_s: for the handshake, if it is another.
        most_bytes: of a message that is longer only the beginning is read; ``max_envelope_bytes`` by default.
        after_backoff: ``RETRY`` to connect again, ``REST`` to wait for the next ``connect()``, ``STOP`` for no further
            attempt, whatever other members the host has.
        on_rest: called when a backoff has ended in ``REST``.
    """

    opened: int
    """How often they were up."""
    lost: int
    """How often they were given up, after that or before."""
    lost_at: float
    """``time.monotonic()`` of when they were given up last."""

    def __init__(
        self,
        loop: EventLoop,
        host: BrokerHost,
        config: Configuration,
        owner: ConnectionOwner,
        connect: Connect,
        *,
        labels: Sequence[str],
        timeout_s: float,
        handshake_timeout_s: float | None = None,
        most_bytes: int | None = None,
        after_backoff: ConnectionEvent = ConnectionEvent.RETRY,
        on_rest: Callable[[], None] | None = None,
    ):
        self.state = ConnectionState.IDLE
        self.epoch = self.opened = self.lost = 0
        self.connections: tuple[BrokerConnection, ...] = ()
        self.member = host
        """Which was dialled last, if the host is a cluster."""
        self.tried_at = self.lost_at = 0.0
        self.up_since: float | None = None
        """None while they are not up."""
        self._loop = loop
        self._host = host
        self._config = config
        self._owner = owner
        self._connect = connect
        self._labels = labels
        self._connect_timeout_s = min(timeout_s, CONNECT_LIMIT_S)
        self._handshake_timeout_s = timeout_s if handshake_timeout_s is None else handshake_timeout_s
        self._most_bytes = config.max_envelope_bytes if most_bytes is None else most_bytes
        self._after_backoff = after_backoff
        self._on_rest = on_rest
        self._backoff = Backoff()
        self._members = MemberRotation(1 if after_backoff is ConnectionEvent.STOP else len(host.members))
        self._opened = 0
        self._was_cheap = False
        self._timer: Timer | None = None
        self._abandoned: list[Callable[[], None]] = []

    def __repr__(self) -> str:
        return f"<ConnectionManager {self._host.name} {self.state.value} epoch={self.epoch}>"

    @property
    def connection(self) -> BrokerConnection | None:
        """The first of them."""
        return self.connections[0] if self.connections else None

    @property
    def blocked(self) -> str | None:
        """The broker's reason while it does not read what one of them publishes, else None."""
        return next((connection.blocked for connection in self.connections if connection.blocked), None)

    @property
    def attempts(self) -> int:
        """Failures in a row."""
        return self._backoff.attempts

    @property
    def connecting_since(self) -> float | None:
        return self.tried_at if self.state is ConnectionState.CONNECTING else None

    @property
    def is_gone(self) -> bool:
        """No connection is left, not even one that is being closed."""
        return not self.connections

    @property
    def is_pausing(self) -> bool:
        """In a backoff that may be cut short: the failed attempt cost the broker nothing."""
        return self.state is ConnectionState.BACKOFF and self._was_cheap

    def can_hurry(self, now: float) -> bool:
        return self.is_pausing and now - self.tried_at >= HURRY_S

    def in_this_epoch(self, callback: Callable[P, None]) -> Callable[P, None]:
        """*callback*, which is not called any more once the current connections are gone."""
        epoch = self.epoch

        @wraps(callback)
        def report(*args: P.args, **kwargs: P.kwargs) -> None:
            if epoch == self.epoch:
                callback(*args, **kwargs)

        return report

    # -- what the owner wants ------------------------------------------------------------------------------------------

    def connect(self, now: float) -> None:
        """Open the connections, from ``IDLE`` or in a backoff.

        Raises LifecycleError in any other state.
        """
        self._step(ConnectionEvent.RETRY if self.state is ConnectionState.BACKOFF else ConnectionEvent.START)
        self._forget_timer()
        self.epoch += 1
        self.tried_at = now
        if self._after_backoff is not ConnectionEvent.STOP:
            self.member = self._host.member(self._members.number)
        self._opened = 0
        self.connections = tuple(self._open(label) for label in self._labels)

    def ready(self) -> None:
        """The owner's channels are open: the connections are up."""
        self._step(ConnectionEvent.OPENED)
        self.opened += 1
        self.up_since = time.monotonic()
        self._backoff.reset()
        self._members.opened()

    def lose(self, loss: Loss) -> None:
        """Give the connections up; ``connections_lost()`` is called at once. Without an effect if there are none."""
        if self.state not in _ACTIVE:
            return
        self._step(ConnectionEvent.LOST)
        self.lost += 1
        self.lost_at = time.monotonic()
        for connection in self._forget():
            if loss.is_silent:
                self._abandoned.append(connection.abandon(loss.reason))
            else:
                connection.abort(loss.reason)
        if not loss.keeps_member:
            self._members.lost()
        if self.state is ConnectionState.BACKOFF:
            self._pause(loss)
        self._owner.connections_lost(loss)

    def abort(self, reason: str) -> None:
        """Cut the connections; their loss is reported in a later callback."""
        for connection in self.connections:
            connection.abort(reason)

    def rest(self) -> None:
        """Close what is not used now; the next ``connect()`` opens it again."""
        if self.state is ConnectionState.UP:
            self._step(ConnectionEvent.REST)
            for connection in self._forget():
                connection.close()

    def stop(self) -> None:
        """No more attempts; connections that are up stay so, for what is to be finished, until ``close()``."""
        if self.state is not ConnectionState.CLOSED:
            self._step(ConnectionEvent.STOP)
        if self.state is ConnectionState.CLOSED:
            self.close()

    def close(self) -> None:
        """Close the connections in order. Each ends by itself: a reset could take its last acks along."""
        if self.state not in (ConnectionState.DRAINING, ConnectionState.CLOSED):
            self._step(ConnectionEvent.STOP)
        if self.state is ConnectionState.DRAINING:
            self._step(ConnectionEvent.DRAINED)
        self._forget_timer()
        self._dismiss_abandoned()  # there will be no new ones
        for connection in self.connections:
            connection.close() if connection.is_open else connection.abort("closing")

    # -- what the connections report -----------------------------------------------------------------------------------

    def connection_opened(self, connection: BrokerConnection) -> None:
        if connection not in self.connections:
            connection.abort("superseded")
            return
        self._opened += 1
        if self._opened == len(self._labels):
            self._dismiss_abandoned()
            self._owner.connections_open()

    def connection_failed(self, connection: BrokerConnection, error: ConnectFailed) -> None:
        self._ended(connection, error)

    def connection_lost(self, connection: BrokerConnection, error: ConnectionLost) -> None:
        self._ended(connection, error)

    def connection_blocked(self, connection: BrokerConnection, reason: str | None) -> None:
        if connection in self.connections:
            self._owner.connection_blocked(reason)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _step(self, event: ConnectionEvent) -> None:
        self.state = after(TRANSITIONS, self.state, event)

    def _open(self, label: str) -> BrokerConnection:
        return self._connect(
            self._loop,
            self.member,
            self,
            label=f"{label} pid {os.getpid()}",
            heartbeat_s=self._config.heartbeat_interval,
            connect_timeout_s=self._members.limit_s(self._connect_timeout_s),
            handshake_timeout_s=self._members.limit_s(self._handshake_timeout_s),
            most_bytes=self._most_bytes,
            fast=self._config.fast_path,
        )

    def _ended(self, connection: BrokerConnection, error: ConnectFailed | ConnectionLost) -> None:
        if connection not in self.connections:
            return
        if self.state is ConnectionState.CLOSED:
            self.connections = tuple(each for each in self.connections if each is not connection)
        else:
            self.lose(Loss.of(error))

    def _forget(self) -> tuple[BrokerConnection, ...]:
        """The connections, which are none of ours from here on."""
        connections, self.connections = self.connections, ()
        self.epoch += 1
        self.up_since = None
        return connections

    def _pause(self, loss: Loss) -> None:
        cap_s = cap_for(loss.kind)
        self._was_cheap = cap_s is not None
        if self._after_backoff is ConnectionEvent.STOP:
            self._step(ConnectionEvent.STOP)
            return
        pause_s = 0.0 if loss.at_once else self._backoff.next_s(cap_s)
        self._timer = self._loop.call_later(pause_s, self._backoff_over)

    def _backoff_over(self) -> None:
        if self._after_backoff is ConnectionEvent.RETRY:
            self.connect(time.monotonic())
            return
        self._step(ConnectionEvent.REST)
        if self._on_rest is not None:
            self._on_rest()

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _dismiss_abandoned(self) -> None:
        """The broker can be reached again: tell it that our former connections are dead, before new ones are used.

        Otherwise every second call would go to a consumer that nothing reads from, for up to twice the heartbeat.
        """
        abandoned, self._abandoned = self._abandoned, []
        for reset in abandoned:
            reset()
