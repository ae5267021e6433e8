"""The queues of a node that store messages: their names, and what they are declared with.

Those that services are given messages and events from have priorities where the configuration says so. A classic queue
needs an argument for that; quorum queues take none, and know two priorities from RabbitMQ 4.0 on.

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
from servicebus.wire.events import EventQueue, is_event_queue

__all__ = [
    "PRIORITY_ARGUMENTS",
    "StoredQueues",
    "has_priorities",
    "stored_arguments",
    "stored_queues",
    "type_arguments",
]

PRIORITY_ARGUMENTS = {"x-max-priority": 9}


def stored_queues(node: str) -> list[str]:
    """Messages, those that wait on each tier, and dead letters."""
    return [messages_queue(node), *(delay_queue(node, tier) for tier in DELAY_TIERS_S), dead_queue(node)]


def type_arguments(config: Configuration) -> dict[str, Any]:
    """For ``queue.declare``: the configured type, and nothing else."""
    # Classic is the broker's default type; naming it would make a queue that an older agent declared a conflict.
    return {} if config.message_queue_type == "classic" else {"x-queue-type": config.message_queue_type}


def has_priorities(config: Configuration, name: str) -> bool:
    """Whether queue *name* of the node is to be a classic one with priorities."""
    if not config.priorities or config.message_queue_type != "classic":
        return False
    return name == messages_queue(config.node_name) or (is_event_queue(name) and not name.endswith(".moving"))


def stored_arguments(config: Configuration, server_version: str, name: str = "") -> dict[str, Any]:
    """For ``queue.declare`` of queue *name*: the configured type, without a delivery limit where the broker has one by
    default, and with priorities where they are wanted."""
    if has_priorities(config, name):
        return dict(PRIORITY_ARGUMENTS)
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
        self._config, self._type = config, type_arguments(config)
        self._arguments = stored_arguments(config, server_version)
        self._on_limited = on_limited
        self._limited: set[str] = set()

    def __repr__(self) -> str:
        return f"<StoredQueues {self._arguments} limited={sorted(self._limited)}>"

    def declare(self, name: str) -> Step:
        """Answers with ``(name, messages, consumers)``; refused by the broker if there is one of another type."""
        if name not in self._limited:
            wanted = PRIORITY_ARGUMENTS if has_priorities(self._config, name) else self._arguments
            return declare_queue(name, durable=True, arguments=wanted)
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
