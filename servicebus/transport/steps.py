"""Steps: the broker operations that a Script is made of. Each is asynchronous, and answers through its callback."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from servicebus.transport.interface import Delivery, Step


def declare_exchange(name: str, *, durable: bool = True, passive: bool = False) -> Step:
    def step(channel: Any, on_done: Callable[[Any], None]) -> None:
        channel.raw.exchange_declare(name, "direct", passive=passive, durable=durable, callback=on_done)

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
            callback=answered,
        )

    return step


def bind_queue(queue: str, exchange: str, routing_key: str) -> Step:
    def step(channel: Any, on_done: Callable[[Any], None]) -> None:
        channel.raw.queue_bind(queue, exchange, routing_key, callback=on_done)

    return step


def set_prefetch(count: int) -> Step:
    """Unacknowledged deliveries per consumer of this channel. Always asks the broker something, so also a ping."""

    def step(channel: Any, on_done: Callable[[Any], None]) -> None:
        channel.raw.basic_qos(prefetch_count=count, callback=on_done)

    return step


def consume(
    queue: str, on_delivery: Callable[[Delivery], None], *, no_ack: bool = False, exclusive: bool = False
) -> Step:
    """Answers with the consumer tag."""

    def step(channel: Any, on_done: Callable[[Any], None]) -> None:
        def delivered(_channel: Any, method: Any, properties: Any, body: bytes) -> None:
            on_delivery(
                Delivery(
                    channel,
                    method.delivery_tag,
                    body,
                    redelivered=method.redelivered,
                    routing_key=method.routing_key,
                    correlation_id=properties.correlation_id,
                    reply_to=properties.reply_to,
                    message_id=properties.message_id,
                    content_type=properties.content_type,
                    headers=properties.headers,
                )
            )

        tag = channel.raw.basic_consume(
            queue,
            delivered,
            auto_ack=no_ack,
            exclusive=exclusive,
            callback=lambda frame: on_done(frame.method.consumer_tag),
        )
        channel.take_deliveries(tag, on_delivery)

    return step
