"""Consumption: the deliveries of one queue, handed from the loop's thread to the one that waits."""

from __future__ import annotations

import queue
from typing import Any, Protocol

from servicebus.errors import TransportError
from servicebus.transport.interface import Delivery, Step
from servicebus.transport.steps import cancel_consumer

__all__ = ["Consumption"]


class _Channel(Protocol):
    """SessionChannel, as its consumptions use it."""

    @property
    def failure(self) -> TransportError | None: ...
    def run(self, step: Step, what: str) -> Any: ...


class Consumption:
    """The deliveries of one queue, in order."""

    def __init__(self, channel: _Channel, name: str):
        self.name = name
        self.tag = ""
        self._is_cancelled = False
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
            self._deliveries.put(None)  # for the next call
            assert self._channel.failure is not None
            raise self._channel.failure
        return delivery

    def cancel(self) -> None:
        """No more deliveries; those that came can still be acked. Again, it does nothing."""
        if self._is_cancelled:
            return
        self._is_cancelled = True
        self._channel.run(cancel_consumer(self.tag), f"the end of the consumption of queue {self.name}")
