"""Session: one broker, spoken to step by step by a thread that waits: for tools, not for services.

Theory of operation. The connection belongs to the process's client loop, as a Sender's does, so that heartbeats go on
while an operator thinks. Every method here hands its work to that loop and waits for the answer, never without a
deadline. What fails says on which host; after a deadline has passed the connection is cut, because nobody knows any
more what the broker has done of the last request.

A Session is used by one thread. A channel that the broker closes (an unknown queue, another type) takes its own waits
down and no other channel; a connection that is lost takes down all.
"""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from contextlib import suppress
from types import TracebackType
from typing import Any, NamedTuple

from servicebus.configuration import BrokerHost, Configuration
from servicebus.errors import ConnectFailed, ConnectionLost, TransportError
from servicebus.transport.amqp import AmqpConnection
from servicebus.transport.confirms import Unconfirmed
from servicebus.transport.interface import BrokerChannel, BrokerConnection, Delivery, Returned, Script, Step
from servicebus.transport.iothread import client_loop
from servicebus.transport.steps import cancel_consumer, consume, declare_queue, get_message, set_prefetch

__all__ = ["Consumption", "QueueFacts", "Session", "SessionChannel", "open_session"]

ANSWER_S = 10.0
"""How long a broker may take for one answer. A quorum queue that looks for a leader takes some seconds."""
CONFIRM_S = 30.0
_CONNECT_S = 2.0
_CLOSE_S = 2.0


class QueueFacts(NamedTuple):
    """What a broker says of a queue."""

    name: str
    ready: int
    """Messages that nobody holds unacknowledged."""
    consumers: int


def open_session(
    host: BrokerHost, config: Configuration, *, purpose: str = "operator", timeout_s: float | None = None
) -> Session:
    """Connect to *host*; to the first member that answers, if it is a cluster.

    Args:
        purpose: one word or two for the broker's list of connections.
        timeout_s: for the whole of it; the configuration's ``socket_timeout`` by default.

    Raises:
        ConnectFailed: with the kind of the failure; nothing is left behind.
    """
    timeout_s = config.socket_timeout if timeout_s is None else timeout_s
    *others, last = (host.member(turn) for turn in range(max(1, len(host.members))))
    for member in others:
        with suppress(ConnectFailed):
            return Session(member, config, purpose, timeout_s)
    return Session(last, config, purpose, timeout_s)


class Session:
    """A connection to one broker; made by ``open_session()``."""

    def __init__(self, host: BrokerHost, config: Configuration, purpose: str, timeout_s: float):
        self.host = host
        self._loop = client_loop()
        self._channels: list[SessionChannel] = []
        self.failure: TransportError | None = None
        """Why nothing more can be done with it."""
        self._connection: AmqpConnection | None = None
        self._opened: Future[None] = Future()
        self._ended: Future[None] = Future()

        def connect() -> None:
            self._connection = AmqpConnection(
                self._loop,
                host,
                self,
                label=f"servicebus {purpose} pid {os.getpid()}",
                heartbeat_s=config.heartbeat_interval,
                connect_timeout_s=min(timeout_s, _CONNECT_S),
                handshake_timeout_s=timeout_s,
                fast=config.fast_lane,
            )

        self._loop.post(connect)
        try:
            self._opened.result(timeout_s + _CONNECT_S)
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
    def blocked(self) -> str | None:
        """The broker's reason while it does not read what we publish."""
        return self._connection.blocked if self._connection is not None else None

    def channel(self, *, confirms: bool = False) -> SessionChannel:
        """Open a channel; with *confirms* it may publish."""
        return SessionChannel(self, confirms)

    def facts(self, name: str) -> QueueFacts | None:
        """What there is of queue *name*; None if there is no such queue."""
        with self.channel() as channel:
            try:
                return channel.declare(name, passive=True)
            except TransportError as error:
                if _says(error, 404):
                    return None
                raise

    def close(self) -> None:
        """Say goodbye. What was delivered and not acked goes back to its place."""
        if self.failure is None and self._connection is not None:
            self._loop.post(self._connection.close)
            with suppress(NotInTime):  # then without its goodbye
                self._ended.result(_CLOSE_S)
        self.abort("the session was closed")

    def abort(self, reason: str) -> None:
        """Cut the connection without a word."""
        self._loop.post(lambda: self._abort(reason))

    def _abort(self, reason: str) -> None:
        self.failure = self.failure or ConnectionLost(self.host.name, reason, sent=True)
        if self._connection is not None:
            self._connection.abort(reason)

    # -- what the connection tells, in the loop's thread ---------------------------------------------------------------

    def connection_opened(self, connection: BrokerConnection) -> None:
        self._opened.set_result(None)

    def connection_failed(self, connection: BrokerConnection, error: ConnectFailed) -> None:
        self.failure = error
        if not self._opened.done():
            self._opened.set_exception(error)

    def connection_lost(self, connection: BrokerConnection, error: ConnectionLost) -> None:
        self.failure = self.failure or error
        for channel in list(self._channels):
            channel.broken(self.failure)
        if not self._ended.done():
            self._ended.set_result(None)

    def connection_blocked(self, connection: BrokerConnection, reason: str | None) -> None:
        pass  # ``blocked`` is asked for when a wait has failed

    # -- for channels --------------------------------------------------------------------------------------------------

    def ask(self, future: Future[Any], what: str, timeout_s: float) -> Any:
        """The answer that *future* brings; after *timeout_s* the connection is cut."""
        try:
            return future.result(timeout_s)
        except NotInTime:
            blocked = f"; it is blocked by an alarm ({self.blocked})" if self.blocked else ""
            lost = ConnectionLost(self.host.name, f"no answer to {what} within {timeout_s:g} s{blocked}", sent=True)
            self.failure = self.failure or lost
            self.abort(lost.reason)
            raise lost from None

    def post(self, callback: Callable[[], None]) -> None:
        """Run *callback* in the loop's thread."""
        self._loop.post(callback)

    def adopt(self, channel: SessionChannel, open_it: Callable[[AmqpConnection], None]) -> None:
        """Have *open_it* called with the connection, in the loop's thread, if that still lives."""
        assert self._connection is not None
        if self.failure is not None or not self._connection.is_open:
            channel.broken(self.failure or ConnectionLost(self.host.name, "the connection is closed", sent=False))
            return
        self._channels.append(channel)
        open_it(self._connection)

    def forget(self, channel: SessionChannel) -> None:
        """*channel* is closed."""
        with suppress(ValueError):
            self._channels.remove(channel)


class SessionChannel:
    """One channel of a Session; every method waits, and belongs to the session's thread."""

    def __init__(self, session: Session, confirms: bool):
        self.session = session
        self.failure: TransportError | None = None
        self._channel: BrokerChannel | None = None
        self._waits: set[Future[Any]] = set()
        self._unconfirmed: Unconfirmed[_Publication] = Unconfirmed()
        self._consumptions: list[Consumption] = []
        self._closed: Future[None] = Future()
        opened: Future[None] = self._expect()

        def opened_with(channel: BrokerChannel) -> None:
            self._channel = channel
            self._settle(opened, None)

        def open_it(connection: AmqpConnection) -> None:
            if confirms:
                connection.open_channel(
                    opened_with, self.broken, on_returned=self._returned, on_confirmed=self._confirmed
                )
            else:
                connection.open_channel(opened_with, self.broken)

        session.post(lambda: session.adopt(self, open_it))
        session.ask(opened, "the opening of a channel", ANSWER_S)

    def __repr__(self) -> str:
        return f"<SessionChannel of {self.session!r} {self.failure or 'open'}>"

    def __enter__(self) -> SessionChannel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- asking --------------------------------------------------------------------------------------------------------

    def run(self, step: Step, what: str, timeout_s: float = ANSWER_S) -> Any:
        """Do one of ``transport.steps``; gives its answer. *what* is for the error that says it did not come."""
        answered: Future[Any] = self._expect()

        def script() -> Script:
            self._settle(answered, (yield step))

        def start() -> None:
            if self._channel is not None and self._channel.is_open:
                self._channel.run(script())
            else:
                self._settle_failed(answered)

        self.session.post(start)
        return self.session.ask(answered, what, timeout_s)

    def declare(self, name: str, **how: Any) -> QueueFacts:
        """As ``steps.declare_queue``. With ``passive=True`` a queue that is not there is a TransportError of 404."""
        found, ready, consumers = self.run(declare_queue(name, **how), f"the declaration of queue {name}")
        return QueueFacts(found, ready, consumers)

    def get(self, name: str) -> Delivery | None:
        """The first message of a queue, to be acked or rejected; None if the queue is empty."""
        delivery: Delivery | None = self.run(get_message(name), f"a message of queue {name}")
        return delivery

    def consume(self, name: str, *, prefetch: int) -> Consumption:
        """Have the queue's messages delivered, at most *prefetch* of them unacknowledged."""
        self.run(set_prefetch(prefetch), "the size of the window")
        found = Consumption(self, name)
        self._consumptions.append(found)
        found.tag = self.run(consume(name, found.put), f"the consumption of queue {name}")
        return found

    # -- telling -------------------------------------------------------------------------------------------------------

    def publish(
        self,
        exchange: str,
        routing_key: str,
        body: bytes,
        *,
        message_id: str | None = None,
        headers: Mapping[str, Any] | None = None,
        then: Callable[[], None] | None = None,
    ) -> Future[None]:
        """Publish, persistent and mandatory; the Future ends when the broker has stored it, or says why it has not.

        The channel must have been opened with *confirms*. ``then()`` is called in the loop's thread, between the
        broker's confirm and the end of the Future: the place for the ack of what was copied.

        Raises, in the Future:
            TransportError: it was not stored: no queue takes *routing_key*, or the broker refused it.
            ConnectionLost: nobody knows.
        """
        stored: Future[None] = self._expect()
        publication = _Publication(stored, exchange, routing_key, body, then)

        def start() -> None:
            channel = self._channel
            if channel is None or not channel.is_open:
                self._settle_failed(stored)
                return
            number = channel.publish(
                exchange, routing_key, body, message_id=message_id, persistent=True, headers=headers
            )
            self._unconfirmed.add(number, publication)

        self.session.post(start)
        return stored

    def publish_confirmed(self, exchange: str, routing_key: str, body: bytes, **properties: Any) -> None:
        """As ``publish()``, and wait for it."""
        self.wait_stored(self.publish(exchange, routing_key, body, **properties))

    def wait_stored(self, stored: Future[None], timeout_s: float = CONFIRM_S) -> None:
        """Wait for the end of a ``publish()``."""
        self.session.ask(stored, "a publish", timeout_s)

    def ack(self, delivery: Delivery) -> None:
        """Let the broker forget a message. Not waited for: AMQP has no answer to it."""
        self.session.post(lambda: delivery.channel.ack(delivery.tag))

    def reject(self, delivery: Delivery, *, requeue: bool) -> None:
        """Give a message back to its place, or let it go for good."""
        self.session.post(lambda: delivery.channel.reject(delivery.tag, requeue=requeue))

    def settle(self) -> None:
        """Wait until the broker has taken all that was said on this channel, acks included: it reads in order."""
        self.run(set_prefetch(0), "everything before")

    def close(self) -> None:
        """Close; what is unacknowledged goes back to its place, soon. Fine if it is closed already."""
        channel = self._channel
        if channel is None or self.failure is not None:
            return
        self.session.post(channel.close)
        with suppress(TransportError):  # a connection that is lost meanwhile gives everything back as well
            self.session.ask(self._closed, "the end of a channel", CONFIRM_S)

    # -- in the loop's thread ------------------------------------------------------------------------------------------

    def broken(self, error: TransportError) -> None:
        """The channel or its connection is gone."""
        self.failure = self.failure or error
        self.session.forget(self)
        self._unconfirmed.clear()
        for future in list(self._waits):
            self._settle_failed(future)
        for consumption in self._consumptions:
            consumption.put(None)
        if not self._closed.done():
            self._closed.set_result(None)

    def _expect(self) -> Future[Any]:
        future: Future[Any] = Future()
        self._waits.add(future)
        return future

    def _settle(self, future: Future[Any], answer: Any) -> None:
        self._waits.discard(future)
        if not future.done():
            future.set_result(answer)

    def _settle_failed(self, future: Future[Any], error: TransportError | None = None) -> None:
        self._waits.discard(future)
        if not future.done():
            gone = ConnectionLost(self.session.host.name, "the channel is closed", sent=False)
            future.set_exception(error or self.failure or self.session.failure or gone)

    def _returned(self, returned: Returned) -> None:
        # The broker returns in the order of publishing, and confirms a returned message right after.
        for publication in self._unconfirmed:
            if publication.is_same(returned) and publication.returned is None:
                publication.returned = returned.reason
                return

    def _confirmed(self, number: int, multiple: bool, is_ack: bool) -> None:
        for publication in self._unconfirmed.settled(number, multiple):
            reason = publication.returned or ("" if is_ack else "the broker refused to store it")
            if reason:
                self._settle_failed(publication.stored, self._not_stored(publication, reason))
            else:
                if publication.then is not None:
                    publication.then()
                self._settle(publication.stored, None)

    def _not_stored(self, publication: _Publication, reason: str) -> TransportError:
        where = publication.exchange or "the default exchange"
        return TransportError(
            f"{self.session.host.name}: a message for {publication.routing_key} by {where} was not stored: {reason};"
            " nothing was lost, the original is where it was"
        )


class Consumption:
    """The deliveries of one queue, in order."""

    def __init__(self, channel: SessionChannel, name: str):
        self.name = name
        self.tag = ""
        self._channel = channel
        self._deliveries: queue.SimpleQueue[Delivery | None] = queue.SimpleQueue()

    def __repr__(self) -> str:
        return f"<Consumption of {self.name}>"

    def put(self, delivery: Delivery | None) -> None:
        """In the loop's thread: one more; None for the end of the channel."""
        self._deliveries.put(delivery)

    def next(self, timeout_s: float) -> Delivery | None:
        """The next message, to be acked or rejected; None if none comes in time.

        Raises:
            TransportError: the channel is gone, or the broker has cancelled the consumption.
        """
        try:
            delivery = self._deliveries.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if delivery is None:
            self._deliveries.put(None)  # for whoever asks again
            assert self._channel.failure is not None
            raise self._channel.failure
        return delivery

    def cancel(self) -> None:
        """No more deliveries; those that came can still be acked."""
        self._channel.run(cancel_consumer(self.tag), f"the end of the consumption of queue {self.name}")


class _Publication:
    __slots__ = ("body", "exchange", "returned", "routing_key", "stored", "then")

    def __init__(
        self, stored: Future[None], exchange: str, routing_key: str, body: bytes, then: Callable[[], None] | None
    ):
        self.stored = stored
        self.exchange = exchange
        self.routing_key = routing_key
        self.body = body
        self.then = then
        self.returned: str | None = None

    def is_same(self, returned: Returned) -> bool:
        return (self.exchange, self.routing_key, self.body) == (returned.exchange, returned.routing_key, returned.body)


def _says(error: TransportError, code: int) -> bool:
    return f" {code} " in f" {getattr(error, 'reason', error)} "
