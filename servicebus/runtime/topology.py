"""What an agent declares on each broker, as scripts for the channels that use it (docs/wire-format, "Topology")."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from servicebus.configuration import Configuration
from servicebus.transport.interface import Delivery, Script, Step
from servicebus.transport.steps import bind_queue, consume, declare_exchange, declare_queue, set_prefetch
from servicebus.wire.address import control_queue, dead_queue, delay_queue, messages_queue, rpc_queue

OnDelivery = Callable[[Delivery], None]

ASIDE_S = 1
"""How long a message steps aside when its service's inbox is full: the shortest rung of the ladder."""

_EXPIRES_MS = 60_000


def control_lane(config: Configuration, on_control: OnDelivery, on_echo: OnDelivery, keep: dict[str, str]) -> Script:
    """Pings and operators' commands, and the exclusive queue through which the watcher hears its own echo."""
    yield declare_exchange(config.exchange_name)
    echo, _, _ = yield declare_queue(exclusive=True, auto_delete=True)
    yield consume(echo, on_echo, no_ack=True, exclusive=True)
    yield from _fleeting_queue(control_queue(config.node_name), config)
    yield consume(control_queue(config.node_name), on_control, no_ack=True)
    keep["echo"] = echo


def calls_lane(config: Configuration, on_call: OnDelivery, keep: dict[str, str]) -> Script:
    """Calls: a queue that exists only while somebody consumes it, so that callers learn at once when nobody does."""
    yield set_prefetch(config.prefetch)
    yield from _fleeting_queue(rpc_queue(config.node_name), config)
    keep["calls"] = yield consume(rpc_queue(config.node_name), on_call)


def messages_lane(config: Configuration, on_message: OnDelivery, keep: dict[str, str]) -> Script:
    """Messages: durable queues that wait for the node, and the places where messages step aside or are buried."""
    yield set_prefetch(config.prefetch)
    yield from _stored_queues(config)
    keep["messages"] = yield consume(messages_queue(config.node_name), on_message)


def declare_again(config: Configuration, unattended: list[str]) -> Script:
    """Everything but the consumers, once more; names in *unattended* those of our queues that nobody consumes."""
    yield declare_exchange(config.exchange_name)
    for queue in (rpc_queue(config.node_name), control_queue(config.node_name)):
        if not (yield from _fleeting_queue(queue, config)):
            unattended.append(queue)
    if not (yield from _stored_queues(config)):
        unattended.append(messages_queue(config.node_name))


def _fleeting_queue(name: str, config: Configuration) -> Generator[Step, Any, int]:
    """Gives the number of its consumers."""
    # Durable, because newer RabbitMQ refuses shared queues that are transient.
    _, _, consumers = yield declare_queue(name, durable=True, auto_delete=True, arguments={"x-expires": _EXPIRES_MS})
    yield bind_queue(name, config.exchange_name, name)
    return int(consumers)


def _stored_queues(config: Configuration) -> Generator[Step, Any, int]:
    """Gives the number of consumers of the node's messages."""
    messages = messages_queue(config.node_name)
    yield declare_queue(dead_queue(config.node_name), durable=True, arguments=_stored(config))
    yield declare_queue(
        delay_queue(config.node_name, ASIDE_S),
        durable=True,
        arguments={
            **_stored(config),
            "x-message-ttl": ASIDE_S * 1000,
            "x-dead-letter-exchange": config.exchange_name,
            "x-dead-letter-routing-key": messages,
        },
    )
    _, _, consumers = yield declare_queue(messages, durable=True, arguments=_stored(config))
    yield bind_queue(messages, config.exchange_name, messages)
    return int(consumers)


def _stored(config: Configuration) -> dict[str, Any]:
    # Classic is the broker's default type; naming it would make a queue that an older agent declared a conflict.
    return {} if config.message_queue_type == "classic" else {"x-queue-type": config.message_queue_type}
