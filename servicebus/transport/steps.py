"""Steps: the broker operations that a Script is made of. Each is asynchronous, and answers through its callback.

With *no_wait* the broker is to say nothing: the script goes on at once, and what follows travels in the same write. It
is done before what follows all the same, and a refusal closes the channel as always.

Steps about a queue leave its name in ``channel.asked`` until the answer comes: so it is known what a refusal, or no
answer, is about.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from servicebus.transport.interface import Asked, Delivery, Step


def declare_exchange(name: str, *, durable: bool = True, passive: bool = False, no_wait: bool = False) -> Step:
    def step(channel: Any, on_done: Callable[[Any], None]) -> None:
        callback = None if no_wait else on_done
        channel.raw.exchange_declare(name, "direct", passive=passive, durable=durable, callback=callback)
        if no_wait:
            channel.is_told = True
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

    def step(channel: Any, on_done: Callable[[Any], None]) -> None:
        def answered(frame: Any) -> None:
            on_done((frame.method.queue, frame.method.message_count, frame.method.consumer_count))

        channel.raw.queue_declare(
            name,
            passive=passive,
            durable=durable,
            exclusive=exclusive,
            auto_delete=auto_delete,
            arguments=dict(arguments or {}),
            callback=_asking(channel, name, answered, is_declaration=not passive),
        )

    return step


def bind_queue(queue: str, exchange: str, routing_key: str, *, no_wait: bool = False) -> Step:
    def step(channel: Any, on_done: Callable[[Any], None]) -> None:
        callback = None if no_wait else _asking(channel, queue, on_done)
        channel.raw.queue_bind(queue, exchange, routing_key, callback=callback)
        if no_wait:
            channel.is_told = True
            on_done(None)

    return step


def unbind_queue(queue: str, exchange: str, routing_key: str) -> Step:
    """Fine if there is no such binding."""

    def step(channel: Any, on_done: Callable[[Any], None]) -> None:
        channel.raw.queue_unbind(queue, exchange, routing_key, callback=_asking(channel, queue, on_done))

    return step


def delete_queue(queue: str, *, if_unused: bool = False, if_empty: bool = False) -> Step:
    """Answers with the number of messages that went with it; fine if there is no such queue."""

    def step(channel: Any, on_done: Callable[[Any], None]) -> None:
        def deleted(frame: Any) -> None:
            on_done(frame.method.message_count)

        callback = _asking(channel, queue, deleted)
        channel.raw.queue_delete(queue, if_unused=if_unused, if_empty=if_empty, callback=callback)

    return step


def set_prefetch(count: int) -> Step:
    """Unacknowledged deliveries per consumer of this channel. Always asks the broker something, so also a ping."""

    def step(channel: Any, on_done: Callable[[Any], None]) -> None:
        channel.raw.basic_qos(prefetch_count=count, callback=on_done)

    return step


def save_acks(at_most: int) -> Step:
    """Let acks wait for a moment on this channel: a broker settles many at once for the price of one."""

    def step(channel: Any, on_done: Callable[[Any], None]) -> None:
        channel.save_acks(at_most)
        on_done(None)

    return step


def consume(
    queue: str, on_delivery: Callable[[Delivery], None], *, no_ack: bool = False, exclusive: bool = False
) -> Step:
    """Answers with the consumer tag."""

    def step(channel: Any, on_done: Callable[[Any], None]) -> None:
        def consuming(frame: Any) -> None:
            on_done(frame.method.consumer_tag)

        callback = _asking(channel, queue, consuming)
        # The lane takes the deliveries past pika.
        tag = channel.raw.basic_consume(queue, _nothing, auto_ack=no_ack, exclusive=exclusive, callback=callback)
        channel.consumed[tag] = queue
        channel.take_deliveries(tag, on_delivery, no_ack=no_ack)

    return step


def cancel_consumer(consumer_tag: str) -> Step:
    """Stop the deliveries of one consumer; what is unacknowledged stays ours."""

    def step(channel: Any, on_done: Callable[[Any], None]) -> None:
        channel.consumed.pop(consumer_tag, None)
        channel.raw.basic_cancel(consumer_tag, callback=on_done)

    return step


def get_message(queue: str) -> Step:
    """Answers with the queue's first message, to be acked, or with None: it is empty."""

    def step(channel: Any, on_done: Callable[[Any], None]) -> None:
        channel.get(queue, on_done)

    return step


def _asking(
    channel: Any, queue: str, on_answer: Callable[[Any], None], *, is_declaration: bool = False
) -> Callable[[Any], None]:
    """*on_answer*, and note until then what the broker was asked about."""
    channel.asked = Asked(queue, is_declaration)

    def answered(frame: Any) -> None:
        channel.asked = None
        channel.is_told = False
        on_answer(frame)

    return answered


def _nothing(*_delivery: Any) -> None:
    return None
