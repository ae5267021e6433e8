"""AmqpQuestions: the operations on a channel that the broker answers, in pika's words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from servicebus.transport.scripts import ScriptRunner

__all__ = ["AmqpQuestions"]


class AmqpQuestions(ScriptRunner):
    """The part of a BrokerChannel that scripts use, except for the deliveries.

    Args:
        raw: pika's channel.
    """

    def __init__(self, raw: Any):
        super().__init__()
        self._raw = raw
        self._consumed: dict[str, str] = {}
        """The queue of each consumer, by its tag."""

    def declare_exchange(
        self, name: str, *, durable: bool, passive: bool = False, on_done: Callable[[Any], None] | None = None
    ) -> None:
        self._raw.exchange_declare(name, "direct", passive=passive, durable=durable, callback=on_done)
        self.has_unanswered = self.has_unanswered or on_done is None

    def declare_queue(
        self,
        name: str,
        on_done: Callable[[tuple[str, int, int]], None],
        *,
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = False,
        passive: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        def answered(frame: Any) -> None:
            on_done((frame.method.queue, frame.method.message_count, frame.method.consumer_count))

        self._raw.queue_declare(
            name,
            passive=passive,
            durable=durable,
            exclusive=exclusive,
            auto_delete=auto_delete,
            arguments=dict(arguments or {}),
            callback=self._asking(name, answered, is_declaration=not passive),
        )

    def bind_queue(
        self, queue: str, exchange: str, routing_key: str, on_done: Callable[[Any], None] | None = None
    ) -> None:
        callback = None if on_done is None else self._asking(queue, on_done)
        self._raw.queue_bind(queue, exchange, routing_key, callback=callback)
        self.has_unanswered = self.has_unanswered or on_done is None

    def unbind_queue(self, queue: str, exchange: str, routing_key: str, on_done: Callable[[Any], None]) -> None:
        self._raw.queue_unbind(queue, exchange, routing_key, callback=self._asking(queue, on_done))

    def delete_queue(
        self, queue: str, on_done: Callable[[int], None], *, if_unused: bool = False, if_empty: bool = False
    ) -> None:
        def deleted(frame: Any) -> None:
            on_done(frame.method.message_count)

        callback = self._asking(queue, deleted)
        self._raw.queue_delete(queue, if_unused=if_unused, if_empty=if_empty, callback=callback)

    def set_prefetch(self, count: int, on_done: Callable[[Any], None]) -> None:
        self._raw.basic_qos(prefetch_count=count, callback=on_done)

    def cancel(self, consumer_tag: str, on_done: Callable[[Any], None] | None = None) -> None:
        if self.is_open:
            self._consumed.pop(consumer_tag, None)
            self._raw.basic_cancel(consumer_tag, callback=on_done)
