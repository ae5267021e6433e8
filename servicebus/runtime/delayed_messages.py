"""DelayedMessages: holds the messages of the delay queues until they are due; a long delay goes on to the next tier."""

from __future__ import annotations

import time
from collections.abc import Callable

from servicebus.policy.connection import ConnectionState
from servicebus.policy.retry_schedule import hold_s
from servicebus.protocol.interface import AgentProtocol, RequestRefused
from servicebus.runtime.job import Disposition, Job, PendingDelivery, later_attempt
from servicebus.runtime.pipeline import Pipeline
from servicebus.runtime.validator import DUE_S
from servicebus.transport.connection_manager import ConnectionManager
from servicebus.transport.interface import Delivery
from servicebus.transport.loop import EventLoop
from servicebus.wire.envelope import Kind


class DelayedMessages:
    """Belongs to the I/O thread, and to one epoch of a consumer's connections.

    What it holds is unacknowledged: when the worker ends or loses the broker, it stands in its queue again.
    """

    def __init__(
        self,
        loop: EventLoop,
        pipeline: Pipeline,
        connections: ConnectionManager,
        protocol_of: Callable[[Delivery], AgentProtocol],
        node: str,
    ):
        self._loop = loop
        self._pipeline = pipeline
        self._connections = connections
        self._protocol_of = protocol_of
        self._node = node
        self._epoch = connections.epoch

    def __repr__(self) -> str:
        return f"<DelayedMessages node {self._node} epoch={self._epoch}>"

    def on_delivery(self, tier: int) -> Callable[[Delivery], None]:
        """What takes the messages of one tier's queue."""

        def arrived(delivery: Delivery) -> None:
            pending, due_ms = self._read(delivery)
            wait_s = hold_s(tier, _remaining_s(due_ms))
            if wait_s > DUE_S:
                self._loop.call_later(wait_s, lambda: self._held_long_enough(pending, due_ms))
            else:
                self._held_long_enough(pending, due_ms)

        return arrived

    def _read(self, delivery: Delivery) -> tuple[PendingDelivery, int]:
        """When *delivery* is due, as far as it is signed; what says nothing is due at once."""
        protocol = self._protocol_of(delivery)
        try:
            incoming = protocol.decode_request(delivery)
        except RequestRefused:
            return PendingDelivery(delivery, self._epoch, ""), 0
        return Job(delivery, self._epoch, "", incoming, protocol), incoming.due_ms

    def _held_long_enough(self, pending: PendingDelivery, due_ms: int) -> None:
        is_leaving = self._connections.state in (ConnectionState.DRAINING, ConnectionState.CLOSED)
        if self._epoch != self._connections.epoch or is_leaving:
            return  # the broker gives it to another worker when this connection ends
        remaining_s = _remaining_s(due_ms)
        if remaining_s > DUE_S:
            self._pipeline.settle(
                Disposition([pending], None, later_attempt(remaining_s, pending.stamps.wait.attempts))
            )
        else:
            protocol = self._protocol_of(pending.delivery)
            self._pipeline.take(pending.delivery, self._epoch, protocol, Kind.MESSAGE)


def _remaining_s(due_ms: int) -> float:
    return due_ms / 1000 - time.time()
