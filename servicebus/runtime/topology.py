"""What an agent declares on each broker, as scripts for the channels that use it (docs/wire-format, "Topology")."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any

from servicebus.configuration import Configuration
from servicebus.policy.retry_schedule import DELAY_TIERS_S
from servicebus.runtime.transient_queues import TransientQueues
from servicebus.transport.interface import Delivery, Script, Step
from servicebus.transport.steps import (
    bind_queue,
    consume,
    declare_exchange,
    declare_queue,
    save_acks,
    set_prefetch,
    unbind_queue,
)
from servicebus.transport.stored import StoredQueues
from servicebus.wire.address import (
    DISCOVERY_KEY,
    cancel_key,
    control_queue,
    dead_queue,
    delay_queue,
    messages_queue,
    rpc_queue,
)
from servicebus.wire.events import events_exchange, is_event_queue

OnDelivery = Callable[[Delivery], None]
Keep = Callable[[str], None]
"""Told the consumer tag."""

_ACKS_AT_ONCE = 32
_DELAYS_WINDOW = 64
"""Messages of one tier that a worker holds; in a tier the first is due first, so more would only wait here."""


def own_script(config: Configuration, on_delivery: OnDelivery, keep_echo: Keep) -> Script:
    """The worker's own queue: the watcher hears its echo through it, and each worker gets cancellations and what all
    nodes are asked."""
    yield declare_exchange(config.exchange_name)
    echo, _, _ = yield declare_queue(exclusive=True, auto_delete=True)
    yield from _bind_own(config, echo)
    yield consume(echo, on_delivery, no_ack=True, exclusive=True)
    keep_echo(echo)


def control_script(config: Configuration, transient: TransientQueues, on_control: OnDelivery, keep: Keep) -> Script:
    """Pings and operators' commands."""
    queue = yield from transient.take(control_queue(config.node_name))
    keep((yield consume(queue, on_control, no_ack=True)))


def calls_script(config: Configuration, transient: TransientQueues, on_call: OnDelivery, keep: Keep) -> Script:
    """Calls: a queue that exists only while it is consumed, so that callers learn at once when it is not."""
    yield from window(config)
    queue = yield from transient.take(rpc_queue(config.node_name))
    keep((yield consume(queue, on_call)))


def messages_script(config: Configuration, stored: StoredQueues, on_message: OnDelivery, keep: Keep) -> Script:
    """Messages: durable queues that wait for the node, and the places where messages are delayed or dead-lettered."""
    yield from window(config)
    yield from _stored_queues(config, stored)
    keep((yield consume(messages_queue(config.node_name), on_message)))


def delays_script(config: Configuration, on_delayed: Callable[[int], OnDelivery], keep: Keep) -> Script:
    """Messages that wait: for a delay that their sender asked for, for another attempt, or for room.

    They are consumed and held until they are due. A time to live and a dead-letter exchange would be simpler, but the
    broker moves such messages without a confirm: one that is killed meanwhile loses them.
    """
    yield set_prefetch(_DELAYS_WINDOW)
    for tier in DELAY_TIERS_S:
        keep((yield consume(delay_queue(config.node_name, tier), on_delayed(tier), whole=True)))


def declare_again(
    config: Configuration, transient: TransientQueues, stored: StoredQueues | None, consumers: dict[str, int]
) -> Script:
    """Everything but the consumers, once more; counts in *consumers* those that each queue has, of all workers.

    Without *stored* the queues that store messages are left alone.
    """
    yield declare_exchange(config.exchange_name, no_wait=True)
    for queue in _transient(config):
        consumers[queue] = yield from transient.declare_again(queue)
    if stored is not None:
        consumers |= yield from _stored_queues(config, stored)
        yield from declare_event_queues(config, stored, consumers)


def declare_all_again(
    config: Configuration, transient: TransientQueues, stored: StoredQueues | None, consumers: dict[str, int]
) -> Script:
    """The same, and the bindings of the worker's own queue, which is exclusive to the connection that consumes."""
    yield from declare_again(config, transient, stored, consumers)
    yield from _bind_own(config, transient.own)


def count_consumers(
    config: Configuration, transient: TransientQueues, stored: StoredQueues | None, consumers: dict[str, int]
) -> Script:
    """Counts in *consumers* those of the queues that callers publish to; a queue that is gone is there again."""
    for queue in _transient(config):
        consumers[queue] = yield from transient.declare_again(queue, with_binding=False)
    if stored is not None:
        messages = messages_queue(config.node_name)
        _, _, consumers[messages] = yield stored.declare(messages)
        for events in stored.event_queues:
            _, _, consumers[events.name] = yield stored.declare(events.name)


def declare_event_queues(config: Configuration, stored: StoredQueues, consumers: dict[str, int]) -> Script:
    """A durable queue for each subscription, bound by its patterns alone; counts in *consumers* those of each."""
    if not stored.event_queues:
        return
    exchange = events_exchange(config.exchange_name)
    yield declare_exchange(exchange, kind="topic", no_wait=True)
    for queue in stored.event_queues:
        _, _, consumers[queue.name] = yield stored.declare(queue.name)
        for pattern in queue.patterns:
            yield bind_queue(queue.name, exchange, pattern)
        for pattern in queue.former:  # after those: what has been renamed is never without a binding
            yield unbind_queue(queue.name, exchange, pattern)


def subscription_counts(node: str, consumers: Mapping[str, int]) -> dict[str, int]:
    """Consumers by subscription instead of queue; for delays and events those of the queue with the fewest."""
    subscriptions = {rpc_queue(node): "calls", control_queue(node): "control", messages_queue(node): "messages"}
    counts: dict[str, int] = {}
    for queue, count in consumers.items():
        subscription = subscriptions.get(queue, "events" if is_event_queue(queue) else "delays")
        counts[subscription] = min(count, counts.get(subscription, count))
    return counts


def _bind_own(config: Configuration, queue: str) -> Script:
    """A refusal closes the channel, as always; what follows is answered after it."""
    for key in (cancel_key(config.node_name), DISCOVERY_KEY, queue):
        yield bind_queue(queue, config.exchange_name, key, no_wait=True)


def window(config: Configuration) -> Script:
    """What may be unacknowledged. What is done with and not acked yet comes again at worst: the journal knows it."""
    yield set_prefetch(config.prefetch)
    yield save_acks(max(1, min(_ACKS_AT_ONCE, config.prefetch // 8)))


def _transient(config: Configuration) -> tuple[str, str]:
    return rpc_queue(config.node_name), control_queue(config.node_name)


def _stored_queues(config: Configuration, stored: StoredQueues) -> Generator[Step, Any, dict[str, int]]:
    """The number of consumers of each that should have one."""
    messages = messages_queue(config.node_name)
    yield stored.declare(dead_queue(config.node_name))
    consumers: dict[str, int] = {}
    for queue in (messages, *(delay_queue(config.node_name, tier) for tier in DELAY_TIERS_S)):
        _, _, consumers[queue] = yield stored.declare(queue)
    yield bind_queue(messages, config.exchange_name, messages)
    return consumers
