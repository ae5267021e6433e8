"""QueueMover: moves the messages of one queue to another; each is in at least one of them at any time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from types import TracebackType

from servicebus.errors import TransportError
from servicebus.operations.sending import plain_origin
from servicebus.operations.session import Session
from servicebus.transport.interface import Delivery
from servicebus.wire.headers import kept_in_copies

__all__ = ["LARGEST_BYTES", "WINDOW", "OnMoved", "QueueMover"]

WINDOW = 100
"""Messages under way at a time; so many may be in both queues after a kill."""
LARGEST_BYTES = 512 * 1024 * 1024
"""RabbitMQ takes no longer message, whatever its configuration."""
NEXT_S = 0.3
"""A queue that delivers nothing for so long is empty, or nearly so."""

_ENDLESS = 1_000_000_000

OnMoved = Callable[[str, int], None]
"""Called with the queue that messages go to, and how many have just been stored there."""


class QueueMover:
    """Consumes *source*; acks a message there when the broker has confirmed its copy in *target*."""

    def __init__(self, session: Session, source: str, target: str, progress: OnMoved | None = None):
        self._target = target
        self._progress = progress
        self._channel = session.channel(confirms=True)
        # A channel of its own: the broker ends it if the source is deleted, and the copies must go on.
        self._source = session.channel()
        self._consumption = self._source.consume(source, prefetch=WINDOW)

    def __enter__(self) -> QueueMover:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(TransportError):  # it went with its queue
            # The queue has taken all acks of a channel before its answer to this; see queue_scan.py.
            self._consumption.cancel()
        self._source.close()
        self._channel.close()

    def move_until_quiet(self, quiet_s: float | None = None, at_most: int = _ENDLESS) -> int:
        """Move until nothing has come for *quiet_s*, or a few more than *at_most* have; returns the number.

        Raises:
            TransportError: a copy was not stored, or that is unknown; its original was not acked.
        """
        quiet_s = NEXT_S if quiet_s is None else quiet_s
        count = 0
        while count < at_most and (delivery := self._consumption.next(quiet_s)) is not None:
            count += self._move_batch(delivery)
        return count

    def move_rest(self) -> int:
        """After the source was deleted: move what had been delivered before."""
        count = 0
        while True:
            try:
                delivery = self._consumption.next(NEXT_S)
            except TransportError:
                return count
            if delivery is None:
                return count
            self._wait([self._move(delivery)])
            count += 1

    def _move_batch(self, first: Delivery) -> int:
        """*first*, and what has come with it."""
        under_way = [self._move(first)]
        while len(under_way) < WINDOW and (delivery := self._consumption.next(0.0)) is not None:
            under_way.append(self._move(delivery))
        self._wait(under_way)
        return len(under_way)

    def _wait(self, under_way: list[Future[None]]) -> None:
        for stored in under_way:
            self._channel.wait_stored(stored)
        if self._progress is not None:
            self._progress(self._target, len(under_way))

    def _move(self, delivery: Delivery) -> Future[None]:
        flaw = delivery.flaw
        if flaw is not None and flaw.reason == "oversized":
            raise TransportError(f"{self._target}: a message cannot be copied: {flaw.detail}")
        # One with unreadable properties goes without them: its node refuses it, or judges it by its body.
        return self._channel.publish(
            "",
            self._target,
            delivery.body,
            message_id=delivery.message_id,
            headers=kept_in_copies(delivery.headers),
            origin=plain_origin(delivery),
            then=partial(delivery.channel.ack, delivery.tag),
        )
