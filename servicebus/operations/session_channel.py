"""SessionChannel: the operations of a Session on a broker; each waits for its answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from types import TracebackType
from typing import Any, NamedTuple, Protocol

from servicebus.configuration import BrokerHost
from servicebus.errors import ConnectionLost, TransportError
from servicebus.operations.consumption import Consumption
from servicebus.operations.publications import Publication, Publications, Waits
from servicebus.transport.headerfit import fitted
from servicebus.transport.interface import BrokerChannel, BrokerConnection, Delivery, Origin, Script, Step
from servicebus.transport.properties import as_stored
from servicebus.transport.steps import consume, declare_queue, get_message, set_prefetch

__all__ = ["CONFIRM_S", "QueueFacts", "SessionChannel"]

ANSWER_S = 10.0
"""How long a broker may take for one answer. A quorum queue that looks for a leader takes some seconds."""
CONFIRM_S = 30.0


class QueueFacts(NamedTuple):
    """What a broker reports of a queue."""

    name: str
    ready: int
    """Messages that no consumer holds unacknowledged."""
    consumers: int


class _Session(Protocol):
    """Session, as its channels use it."""

    @property
    def host(self) -> BrokerHost: ...
    @property
    def failure(self) -> TransportError | None: ...
    def ask(self, future: Future[Any], what: str, timeout_s: float, *, busy_s: float = 0.0) -> Any: ...
    def abort_if_blocked(self) -> bool: ...
    def post(self, callback: Callable[[], None]) -> None: ...
    def adopt(self, channel: SessionChannel, open_it: Callable[[BrokerConnection], None]) -> None: ...
    def forget(self, channel: SessionChannel) -> None: ...


class SessionChannel:
    """One channel of a Session; every method waits, and belongs to the session's thread."""

    def __init__(self, session: _Session, confirms: bool):
        self.session = session
        self.failure: TransportError | None = None
        self._channel: BrokerChannel | None = None
        self._waits = Waits(self._why_gone)
        self._publications = Publications(session.host.name, self._waits)
        self._consumptions: list[Consumption] = []
        self._closed: Future[None] = Future()
        self.is_closing = False
        opened: Future[None] = self._waits.begin()

        def opened_with(channel: BrokerChannel) -> None:
            self._channel = channel
            self._waits.end(opened, None)

        def open_it(connection: BrokerConnection) -> None:
            if confirms:
                publications = self._publications
                connection.open_channel(
                    opened_with, self.broken, on_returned=publications.returned, on_confirmed=publications.confirmed
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

    @property
    def frame_max(self) -> int:
        """The largest frame that was agreed on, in bytes; 0 if it is not known."""
        return self._channel.frame_max if self._channel is not None else 0

    # -- asking --------------------------------------------------------------------------------------------------------

    def run(self, step: Step, what: str, timeout_s: float = ANSWER_S, *, busy_s: float = 0.0) -> Any:
        """Do one of ``transport.steps``; returns its answer. *what* is for the error that says it did not come."""
        answered: Future[Any] = self._waits.begin()

        def script() -> Script:
            self._waits.end(answered, (yield step))

        def start() -> None:
            # After the broker has cancelled a consumption the channel is open still, and of no use.
            if self.failure is None and self._channel is not None and self._channel.is_open:
                self._channel.run(script())
            else:
                self._waits.fail(answered)

        self.session.post(start)
        return self.session.ask(answered, what, timeout_s, busy_s=busy_s)

    def declare(self, name: str, *, busy_s: float = 0.0, **how: Any) -> QueueFacts:
        """As ``steps.declare_queue``. With ``passive=True`` a queue that is not there is a TransportError of 404."""
        found, ready, consumers = self.run(
            declare_queue(name, **how), f"the declaration of queue {name}", busy_s=busy_s
        )
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
        found.tag = self.run(consume(name, found.put, whole=True), f"the consumption of queue {name}")
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
        origin: Origin | None = None,
        then: Callable[[], None] | None = None,
    ) -> Future[None]:
        """Publish, persistent and mandatory; the Future ends when the broker has stored it, or says why it has not.

        The channel must have been opened with *confirms*. ``then()`` is called in the loop's thread, between the
        broker's confirm and the end of the Future: the place for the ack of what was copied.

        Args:
            origin: its other properties are those of the message that was delivered so.

        Raises, in the Future:
            TransportError: it was not stored: no queue takes *routing_key*, or the broker refused it.
            ConnectionLost: it is unknown.
        """
        stored: Future[None] = self._waits.begin()
        publication = Publication(stored, exchange, routing_key, body, then)

        def start() -> None:
            channel = self._channel
            if channel is None or not channel.is_open:
                self._waits.fail(stored)
                return
            fitting = None if headers is None else fitted(headers, channel.frame_max)
            about: dict[str, Any] = {"message_id": message_id, "persistent": True, "headers": fitting}
            try:
                if origin is not None:
                    about = {"properties": as_stored(origin, fitting or {})}
                number = channel.publish(exchange, routing_key, body, **about)
            except Exception as error:  # what it came with cannot be encoded again
                self._publications.failed(publication, f"{type(error).__name__}: {error}")
            else:
                self._publications.add(number, publication)

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

    def close(self) -> None:
        """Close; what is unacknowledged goes back to its place, soon. Fine if it is closed already.

        A broker does not read what a blocked connection sends, not that it closes either: it is cut.
        """
        channel = self._channel
        if channel is None or self.failure is not None:
            return

        def close() -> None:
            self.is_closing = True
            if not self.session.abort_if_blocked():
                channel.close()

        self.session.post(close)
        with suppress(TransportError):  # a connection that is lost meanwhile returns everything as well
            self.session.ask(self._closed, "the end of a channel", CONFIRM_S)

    # -- in the loop's thread ------------------------------------------------------------------------------------------

    def broken(self, error: TransportError) -> None:
        """The channel or its connection is gone."""
        self.failure = self.failure or error
        self.session.forget(self)
        self._publications.clear()
        self._waits.fail_all()
        for consumption in self._consumptions:
            consumption.put(None)
        if not self._closed.done():
            self._closed.set_result(None)

    def _why_gone(self) -> TransportError:
        gone = ConnectionLost(self.session.host.name, "the channel is closed", sent=False)
        return self.failure or self.session.failure or gone
