"""DelayLane: holds the messages of the delay queues until they are due; a long delay goes on to the next rung."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from servicebus.policy.connection import State
from servicebus.policy.ladder import hold_s
from servicebus.runtime.job import Claim, Postponement, Settlement
from servicebus.transport.interface import Delivery
from servicebus.wire import headers
from servicebus.wire.envelope import Kind

if TYPE_CHECKING:
    from servicebus.runtime.consumer import NodeConsumer

_DUE_S = 0.01
"""What is due within a moment is due."""


class DelayLane:
    """Belongs to the I/O thread, and to one generation of a consumer's connections.

    What it holds is unacknowledged: when the worker ends or loses the broker, it stands in its queue again.
    """

    def __init__(self, consumer: NodeConsumer, node: str, generation: int):
        self._consumer = consumer
        self._node = node
        self._generation = generation

    def __repr__(self) -> str:
        return f"<DelayLane node {self._node} gen={self._generation}>"

    def on_delivery(self, rung: int) -> Callable[[Delivery], None]:
        """What takes the messages of one rung's queue."""

        def arrived(delivery: Delivery) -> None:
            wait_s = hold_s(rung, _remaining_s(delivery))
            if wait_s > _DUE_S:
                self._consumer.call_later(wait_s, lambda: self._held_long_enough(delivery))
            else:
                self._held_long_enough(delivery)

        return arrived

    def _held_long_enough(self, delivery: Delivery) -> None:
        is_leaving = self._consumer.state in (State.DRAINING, State.CLOSED)
        if self._generation != self._consumer.generation or is_leaving:
            return  # the broker gives it to somebody else when this connection ends
        remaining_s = _remaining_s(delivery)
        if remaining_s > _DUE_S:
            attempts = headers.number(delivery.headers, headers.ATTEMPTS)
            claim = Claim(delivery, self._generation, "")
            self._consumer.settler.settle(Settlement([claim], postponement=Postponement(remaining_s, attempts)))
        else:
            self._consumer.settler.take(delivery, self._generation, self._consumer.message_dialect, Kind.MESSAGE)


def _remaining_s(delivery: Delivery) -> float:
    return headers.number(delivery.headers, headers.DUE) / 1000 - time.time()
