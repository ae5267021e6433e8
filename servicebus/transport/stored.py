"""The queues of a node that store messages: their names, and what they are declared with."""

from __future__ import annotations

from typing import Any

from servicebus.configuration import Configuration
from servicebus.policy.ladder import RUNGS_S
from servicebus.transport.interface import Step
from servicebus.transport.steps import declare_queue
from servicebus.wire.address import dead_queue, delay_queue, messages_queue

__all__ = ["declare_stored", "stored_arguments", "stored_queues"]


def stored_queues(node: str) -> list[str]:
    """Messages, those that wait on each rung, and dead letters."""
    return [messages_queue(node), *(delay_queue(node, rung) for rung in RUNGS_S), dead_queue(node)]


def stored_arguments(config: Configuration) -> dict[str, Any]:
    """For ``queue.declare``, by the configured type."""
    # Classic is the broker's default type; naming it would make a queue that an older agent declared a conflict.
    return {} if config.message_queue_type == "classic" else {"x-queue-type": config.message_queue_type}


def declare_stored(name: str, config: Configuration) -> Step:
    """Answers with ``(name, messages, consumers)``; refused by the broker if there is one of another type."""
    return declare_queue(name, durable=True, arguments=stored_arguments(config))
