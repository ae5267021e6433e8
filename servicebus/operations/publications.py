"""What a channel waits for: the broker's answers, and whether what was published is stored."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from servicebus.errors import TransportError
from servicebus.transport.confirms import Unconfirmed
from servicebus.transport.interface import Returned
from servicebus.wire.printable import printable

__all__ = ["Publication", "Publications", "Waits"]

_NACK = "the broker refused to store it (nack; is the queue full?)"


class Waits:
    """The Futures of one channel: each ends once. Any thread may begin one; only the loop's ends them.

    Args:
        why_gone: why nothing can be answered any more, for those that have no reason of their own.
    """

    def __init__(self, why_gone: Callable[[], TransportError]):
        self._why_gone = why_gone
        self._futures: set[Future[Any]] = set()

    def begin(self) -> Future[Any]:
        future: Future[Any] = Future()
        self._futures.add(future)
        return future

    def end(self, future: Future[Any], answer: Any) -> None:
        self._futures.discard(future)
        if not future.done():
            future.set_result(answer)

    def fail(self, future: Future[Any], error: TransportError | None = None) -> None:
        self._futures.discard(future)
        if not future.done():
            future.set_exception(error or self._why_gone())

    def fail_all(self) -> None:
        for future in list(self._futures):
            self.fail(future)


class Publication:
    """A message on its way; *then* is called when it is stored, before *stored* ends."""

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


class Publications:
    """Of one channel; the loop's thread."""

    def __init__(self, host_name: str, waits: Waits):
        self._host_name = host_name
        self._waits = waits
        self._unconfirmed: Unconfirmed[Publication] = Unconfirmed()

    def add(self, number: int, publication: Publication) -> None:
        """Published under *number*."""
        self._unconfirmed.add(number, publication)

    def clear(self) -> None:
        """The broker will say nothing more."""
        self._unconfirmed.clear()

    def returned(self, returned: Returned) -> None:
        # The broker returns in the order of publishing, and confirms a returned message right after.
        for publication in self._unconfirmed:
            if publication.is_same(returned) and publication.returned is None:
                publication.returned = returned.reason
                return

    def confirmed(self, number: int, multiple: bool, is_ack: bool) -> None:
        for publication in self._unconfirmed.settled(number, multiple):
            reason = publication.returned or ("" if is_ack else _NACK)
            if reason:
                self.failed(publication, reason)
                continue
            try:
                if publication.then is not None:
                    publication.then()
            except Exception as error:
                self.failed(publication, f"its copy is, but then {type(error).__name__}: {error}")
            else:
                self._waits.end(publication.stored, None)

    def failed(self, publication: Publication, reason: str) -> None:
        """It was not stored, and cost none of the others."""
        self._waits.fail(publication.stored, self._not_stored(publication, reason))

    def _not_stored(self, publication: Publication, reason: str) -> TransportError:
        where = f"{publication.routing_key} by {publication.exchange or 'the default exchange'}"
        return TransportError(
            f"{self._host_name}: a message for {where} was not stored: {printable(reason)};"
            " nothing was lost, the original is where it was"
        )
