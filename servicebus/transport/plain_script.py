"""How a queue of other programs is declared and consumed, as a script for the channel that does it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from servicebus._plain import PlainQueue
from servicebus.transport.interface import Delivery, Script
from servicebus.transport.steps import bind_queue, consume, declare_exchange, declare_queue, set_prefetch

__all__ = ["plain_script"]


def plain_script(queue: PlainQueue, most: int, take: Callable[[Delivery], None], keep: Callable[[str], None]) -> Script:
    """Declare what is to be declared, and consume."""
    if not queue.passive:
        if queue.exchange:
            kind: Any = queue.exchange_type
            yield declare_exchange(queue.exchange, kind=kind, durable=queue.durable)
        yield declare_queue(queue.queue, durable=queue.durable, arguments=queue.arguments)
        for key in (queue.routing_keys or ("",)) if queue.exchange else ():
            yield bind_queue(queue.queue, queue.exchange, key)
    yield set_prefetch(most)
    keep((yield consume(queue.queue, take, whole=True)))
