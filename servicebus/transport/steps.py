"""Steps: the broker operations that a Script is made of. Each is asynchronous, and answers through its callback.

With *no_wait* the broker is to say nothing: the script goes on at once, and what follows travels in the same write. It
is done before what follows all the same, and a refusal closes the channel as always.

The channel's transport does the operation (``interface.BrokerChannel``); a step only says which one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from servicebus.transport.interface import BrokerChannel, Delivery, ExchangeKind, Step

OnDone = Callable[[Any], None]


def declare_exchange(
    name: str, *, kind: ExchangeKind = "direct", durable: bool = True, passive: bool = False, no_wait: bool = False
) -> Step:
    def step(channel: BrokerChannel, on_done: OnDone) -> None:
        how = {"durable": durable, "passive": passive}
        channel.declare_exchange(name, kind=kind, on_done=None if no_wait else on_done, **how)
        if no_wait:
            on_done(None)

    return step


def declare_queue(
    name: str = "",
    *,
    durable: bool = False,
    exclusive: bool = False,
    auto_delete: bool = False,
    passive: bool = False,
    arguments: Mapping[str, Any] | None = None,
) -> Step:
    """Answers with ``(name, messages, consumers)``."""
    how = {"durable": durable, "exclusive": exclusive, "auto_delete": auto_delete, "passive": passive}
    return lambda channel, on_done: channel.declare_queue(name, on_done, arguments=arguments, **how)


def bind_queue(queue: str, exchange: str, routing_key: str, *, no_wait: bool = False) -> Step:
    def step(channel: BrokerChannel, on_done: OnDone) -> None:
        channel.bind_queue(queue, exchange, routing_key, None if no_wait else on_done)
        if no_wait:
            on_done(None)

    return step


def unbind_queue(queue: str, exchange: str, routing_key: str) -> Step:
    """Fine if there is no such binding."""
    return lambda channel, on_done: channel.unbind_queue(queue, exchange, routing_key, on_done)


def delete_queue(queue: str, *, if_unused: bool = False, if_empty: bool = False) -> Step:
    """Answers with the number of messages that went with it; fine if there is no such queue."""
    return lambda channel, on_done: channel.delete_queue(queue, on_done, if_unused=if_unused, if_empty=if_empty)


def set_prefetch(count: int) -> Step:
    """Unacknowledged deliveries per consumer of this channel. Always asks the broker something, so also a ping."""
    return lambda channel, on_done: channel.set_prefetch(count, on_done)


def save_acks(at_most: int) -> Step:
    """Let acks wait for a moment on this channel: a broker settles many at once for the price of one."""

    def step(channel: BrokerChannel, on_done: OnDone) -> None:
        channel.save_acks(at_most)
        on_done(None)

    return step


def consume(
    queue: str,
    on_delivery: Callable[[Delivery], None],
    *,
    no_ack: bool = False,
    exclusive: bool = False,
    whole: bool = False,
) -> Step:
    """Answers with the consumer tag."""
    how = {"no_ack": no_ack, "exclusive": exclusive, "whole": whole}
    return lambda channel, on_done: channel.consume(queue, on_delivery, on_done, **how)


def cancel_consumer(consumer_tag: str) -> Step:
    """Stop the deliveries of one consumer; what is unacknowledged stays ours."""
    return lambda channel, on_done: channel.cancel(consumer_tag, on_done)


def get_message(queue: str) -> Step:
    """Answers with the queue's first message, to be acked, or with None: it is empty."""
    return lambda channel, on_done: channel.get(queue, on_done)
