"""Sending: messages on their way from one queue into another one, each confirmed there before it leaves the first."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any

from servicebus._plain import is_plain_key
from servicebus.operations.session import Session
from servicebus.operations.session_channel import CONFIRM_S, SessionChannel
from servicebus.transport.interface import Delivery, Origin
from servicebus.wire import headers

__all__ = ["Sending", "plain_origin"]


def plain_origin(delivery: Delivery) -> Origin | None:
    """Of another program's message that a worker has stored: all its properties, which a copy keeps. None of others."""
    subscription = (delivery.headers or {}).get(headers.SUBSCRIPTION)
    return delivery.origin if isinstance(subscription, str) and is_plain_key(subscription) else None


class Sending:
    """Into one queue of a broker.

    Args:
        most: publishes that wait for their confirm.
    """

    def __init__(self, session: Session, queue: str, most: int):
        self._session = session
        self._queue = queue
        self._most = most
        self._on_their_way: deque[Future[None]] = deque()

    def __repr__(self) -> str:
        return f"<Sending into {self._queue}: {len(self._on_their_way)}>"

    @property
    def unsettled(self) -> int:
        """Messages that may or may not be stored."""
        return sum(not stored.done() or stored.exception() is not None for stored in self._on_their_way)

    def send(
        self,
        channel: SessionChannel,
        delivery: Delivery,
        marks: Mapping[str, Any],
        queue: str | None = None,
    ) -> None:
        """Publish; *delivery* is acked once the broker has confirmed that. Waits while too many are on their way.

        Args:
            queue: another one than most go to.

        Raises:
            TransportError: one could not be stored; then none after it could.
        """
        forget = partial(delivery.channel.ack, delivery.tag)
        about: dict[str, Any] = {"message_id": delivery.message_id, "headers": marks, "origin": plain_origin(delivery)}
        stored = channel.publish("", queue or self._queue, delivery.body, **about, then=forget)
        self._on_their_way.append(stored)
        while self._on_their_way and (len(self._on_their_way) >= self._most or self._on_their_way[0].done()):
            self._wait_for_first()

    def wait(self) -> None:
        """Until all are stored."""
        while self._on_their_way:
            self._wait_for_first()

    def _wait_for_first(self) -> None:
        self._session.ask(self._on_their_way[0], "the publish of a dead letter", CONFIRM_S)
        self._on_their_way.popleft()
