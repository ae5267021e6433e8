"""The queues of a node that store messages: their names, and what they are declared with.

A quorum queue can have a delivery limit: the broker drops a message that came back more often, because its worker or
the connection died, or because a tool looked at it. From RabbitMQ 4.0 on the limit is 20 unless the queue was declared
with -1, which means none. Earlier versions have no limit by default, and take -1 for 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from servicebus.configuration import Configuration
from servicebus.policy.broker_versions import has_delivery_limit, read_version
from servicebus.policy.retry_schedule import DELAY_TIERS_S
from servicebus.transport.interface import Step
from servicebus.transport.steps import declare_queue
from servicebus.wire.address import dead_queue, delay_queue, is_stored, messages_queue
from servicebus.wire.events import EventQueue

__all__ = ["StoredQueues", "stored_arguments", "stored_queues", "type_arguments"]


def stored_queues(node: str) -> list[str]:
    """Messages, those that wait on each tier, and dead letters."""
    return [messages_queue(node), *(delay_queue(node, tier) for tier in DELAY_TIERS_S), dead_queue(node)]


def type_arguments(config: Configuration) -> dict[str, Any]:
    """For ``queue.declare``: the configured type, and nothing else."""
    # Classic is the broker's default type; naming it would make a queue that an older agent declared a conflict.
    return {} if config.message_queue_type == "classic" else {"x-queue-type": config.message_queue_type}


def stored_arguments(config: Configuration, server_version: str) -> dict[str, Any]:
    """For ``queue.declare``: the configured type, without a delivery limit where the broker has one by default."""
    arguments = type_arguments(config)
    if arguments and has_delivery_limit(read_version(server_version)):
        arguments["x-delivery-limit"] = -1
    return arguments


class StoredQueues:
    """Declares the queues over one pair of connections; the I/O thread's.

    A queue that was declared without the argument keeps its limit and refuses the argument. It is used as it is.

    Args:
        on_limited: called with the name of such a queue, each time it is declared.
    """

    def __init__(self, config: Configuration, server_version: str, on_limited: Callable[[str], None]):
        self.event_queues: Sequence[EventQueue] = ()
        """Of the node's subscriptions to events, if it has any and they have been declared."""
        self._type = type_arguments(config)
        self._arguments = stored_arguments(config, server_version)
        self._on_limited = on_limited
        self._limited: set[str] = set()

    def __repr__(self) -> str:
        return f"<StoredQueues {self._arguments} limited={sorted(self._limited)}>"

    def declare(self, name: str) -> Step:
        """Answers with ``(name, messages, consumers)``; refused by the broker if there is one of another type."""
        if name not in self._limited:
            return declare_queue(name, durable=True, arguments=self._arguments)
        declaration = declare_queue(name, durable=True, arguments=self._type)

        def step(channel: Any, on_done: Callable[[Any], None]) -> None:
            def declared(answer: Any) -> None:
                self._on_limited(name)
                on_done(answer)

            declaration(channel, declared)

        return step

    def is_worth_another_try(self, refused: str) -> bool:
        """Queue *refused* has other arguments: whether it will be declared in another form the next time."""
        if refused in self._limited or self._arguments == self._type or not is_stored(refused):
            self._limited.discard(refused)  # it may be moved meanwhile, so both forms are tried again later
            return False
        self._limited.add(refused)
        return True
