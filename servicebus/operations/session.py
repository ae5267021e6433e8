"""Session: one broker, used step by step by a thread that waits: for tools, not for services.

Theory of operation. The connection belongs to the process's client loop, as a Sender's does, so that heartbeats go on
while an operator thinks. Every method here hands its work to that loop and waits for the answer, never without a
deadline. Each error names its host. After a deadline has passed the connection is cut, because it is unknown what the
broker has done of the last request.

A Session is used by one thread. A channel that the broker closes (an unknown queue, another type) takes its own waits
down and no other channel; a connection that is lost takes down all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from contextlib import suppress
from types import TracebackType
from typing import Any

from servicebus.configuration import BrokerHost, Configuration
from servicebus.errors import ConnectFailed, ConnectionLost, TransportError
from servicebus.operations.session_channel import QueueFacts, SessionChannel
from servicebus.policy.connection import ConnectionEvent
from servicebus.transport.amqp import AmqpConnection
from servicebus.transport.connection_manager import CONNECT_LIMIT_S, ConnectionManager, Loss
from servicebus.transport.interface import BrokerConnection, Connect
from servicebus.transport.iothread import client_loop

__all__ = ["Session", "on_each_broker", "open_session"]

_CLOSE_S = 2.0


def open_session(
    host: BrokerHost,
    config: Configuration,
    *,
    purpose: str = "operator",
    timeout_s: float | None = None,
    most_bytes: int | None = None,
    connect: Connect = AmqpConnection,
) -> Session:
    """Connect to *host*; to the first member that answers, if it is a cluster.

    Args:
        most_bytes: of a message that is longer only the beginning is read; ``max_envelope_bytes`` by default.
        connect: makes the connection.
        purpose: one word or two for the broker's list of connections.
        timeout_s: for the whole of it; the configuration's ``socket_timeout`` by default.

    Raises:
        ConnectFailed: with the kind of the failure; nothing is left behind.
    """
    timeout_s = config.socket_timeout if timeout_s is None else timeout_s
    *others, last = (host.member(turn) for turn in range(max(1, len(host.members))))
    for member in others:
        with suppress(ConnectFailed):
            return Session(member, config, purpose, timeout_s, most_bytes, connect)
    return Session(last, config, purpose, timeout_s, most_bytes, connect)


def on_each_broker(
    hosts: Sequence[BrokerHost], config: Configuration, work: Callable[[Session, BrokerHost], object], *, purpose: str
) -> dict[str, TransportError]:
    """Do *work* with a session to each of *hosts*, one after the other.

    Returns:
        Why, by the names of those that could not be reached or were lost on the way; the others were gone to.
    """
    failed = {}
    for host in hosts:
        try:
            with open_session(host, config, purpose=purpose) as session:
                work(session, host)
        except TransportError as error:
            failed[host.name] = error
    return failed


class Session:
    """A connection to one broker; made by ``open_session()``."""

    def __init__(
        self,
        host: BrokerHost,
        config: Configuration,
        purpose: str,
        timeout_s: float,
        most_bytes: int | None,
        connect: Connect,
    ):
        self.host = host
        self._loop = client_loop()
        self._channels: list[SessionChannel] = []
        self.failure: TransportError | None = None
        """Why nothing more can be done with it."""
        self._opened: Future[None] = Future()
        self._ended: Future[None] = Future()
        self._manager = ConnectionManager(
            self._loop,
            host,
            config,
            self,
            connect,
            labels=[f"servicebus {purpose}"],
            timeout_s=timeout_s,
            most_bytes=most_bytes,
            after_backoff=ConnectionEvent.STOP,
        )
        self._loop.post(lambda: self._manager.connect(time.monotonic()))
        try:
            self._opened.result(timeout_s + CONNECT_LIMIT_S)
        except NotInTime:
            self.abort("gave up")
            raise ConnectFailed(host.name, f"no connection within {timeout_s:g} s", kind="unreachable") from None
        except BaseException:  # Ctrl-C too
            self.abort("gave up")
            raise

    def __repr__(self) -> str:
        return f"<Session {self.host.name} {self.failure or 'open'}>"

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def is_open(self) -> bool:
        return self.failure is None

    @property
    def server_version(self) -> str:
        """The version that the broker reports; empty if it reports none."""
        connection = self._manager.connection
        return connection.server_version if connection is not None else ""

    @property
    def channel_max(self) -> int:
        """How many channels a connection may have there; 0 if it is not known."""
        connection = self._manager.connection
        return connection.channel_max if connection is not None else 0

    @property
    def blocked(self) -> str | None:
        """The broker's reason while it does not read what we publish."""
        return self._manager.blocked

    def channel(self, *, confirms: bool = False) -> SessionChannel:
        """Open a channel; with *confirms* it may publish."""
        return SessionChannel(self, confirms)

    def facts(self, name: str, *, busy_s: float = 0.0) -> QueueFacts | None:
        """What there is of queue *name*, which may be *busy_s* late, see ask(); None if there is no such queue."""
        with self.channel() as channel:
            try:
                return channel.declare(name, passive=True, busy_s=busy_s)
            except TransportError as error:
                if error.reply_code == 404:
                    return None
                raise

    def close(self) -> None:
        """Say goodbye. What was delivered and not acked goes back to its place."""
        if self.failure is None and self.blocked is None:  # a broker does not read the goodbye of one that is blocked
            self._loop.post(self._say_goodbye)
            with suppress(NotInTime):  # then without its goodbye
                self._ended.result(_CLOSE_S)
        self.abort("the session was closed")

    def abort(self, reason: str) -> None:
        """Cut the connection without a word."""
        self._loop.post(lambda: self._abort(reason))

    def _abort(self, reason: str) -> None:
        self.failure = self.failure or ConnectionLost(self.host.name, reason, sent=True)
        self._manager.lose(Loss(reason))

    def _say_goodbye(self) -> None:
        self._manager.stop()
        for connection in self._manager.connections:
            connection.close()

    # -- what the manager reports, in the loop's thread ----------------------------------------------------------------

    def connections_open(self) -> None:
        self._manager.ready()
        self._opened.set_result(None)

    def connections_lost(self, loss: Loss) -> None:
        failure = self.failure or loss.error or ConnectionLost(self.host.name, loss.reason, sent=True)
        self.failure = failure
        for channel in list(self._channels):
            channel.broken(failure)
        if not self._opened.done():
            self._opened.set_exception(failure)
        if not self._ended.done():
            self._ended.set_result(None)

    def connection_blocked(self, reason: str | None) -> None:
        # Otherwise ``blocked`` is asked for when a wait has failed.
        if any(channel.is_closing for channel in self._channels):
            self.abort_if_blocked()

    # -- for channels --------------------------------------------------------------------------------------------------

    def ask(self, future: Future[Any], what: str, timeout_s: float, *, busy_s: float = 0.0) -> Any:
        """The answer that *future* brings; after *timeout_s* the connection is cut.

        For *busy_s* it is waited for all the same while the broker answers another question: then one queue alone is
        busy, as it is when it takes back a million messages.
        """
        give_up_at = time.monotonic() + busy_s
        while True:
            try:
                return future.result(timeout_s)
            except NotInTime:
                if time.monotonic() < give_up_at:
                    self.channel().close()
                    continue
                blocked = f"; it is blocked by an alarm ({self.blocked})" if self.blocked else ""
                limit_s = max(timeout_s, busy_s)
                lost = ConnectionLost(self.host.name, f"no answer to {what} within {limit_s:g} s{blocked}", sent=True)
                self.failure = self.failure or lost
                self.abort(lost.reason)
                raise lost from None

    def post(self, callback: Callable[[], None]) -> None:
        """Run *callback* in the loop's thread."""
        self._loop.post(callback)

    def adopt(self, channel: SessionChannel, open_it: Callable[[BrokerConnection], None]) -> None:
        """Have *open_it* called with the connection, in the loop's thread, if that still lives."""
        connection = self._manager.connection
        if self.failure is not None or connection is None or not connection.is_open:
            channel.broken(self.failure or ConnectionLost(self.host.name, "the connection is closed", sent=False))
            return
        self._channels.append(channel)
        open_it(connection)

    def abort_if_blocked(self) -> bool:
        """Cut the connection if an alarm of the broker blocks it; whether it does. In the loop's thread."""
        if self.blocked is None:
            return False
        self._abort(f"it is blocked by an alarm ({self.blocked})")
        return True

    def forget(self, channel: SessionChannel) -> None:
        """*channel* is closed."""
        with suppress(ValueError):
            self._channels.remove(channel)
