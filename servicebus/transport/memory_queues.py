"""Queues of a broker in memory: order, limits, expiration, consumers, refusals. Pure: time is an argument."""

from __future__ import annotations

import itertools
from bisect import insort
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from servicebus.transport.frames import Properties
from servicebus.transport.interface import Origin
from servicebus.transport.properties import read_all, write_all

__all__ = ["MemoryQueue", "Message", "QueueConsumer", "Refusal", "locked", "not_found"]

_positions = itertools.count()
_NORMAL = 4
"""The highest priority of a message that is as any other for a quorum queue."""


@dataclass(slots=True)
class Message:
    """One copy of a message, in one queue."""

    exchange: str
    routing_key: str
    body: bytes
    properties: Properties
    is_persistent: bool
    expires_at: float | None = None
    written: tuple[int, bytes] = (0, b"")
    """All of its properties, as its publisher wrote them."""
    position: int = field(default_factory=_positions.__next__)
    """Its place in the order of a queue, also after it was given back."""
    returns: int = 0
    """How often a consumer has given it back."""

    def copy(self) -> Message:
        """For another queue."""
        whole = self.exchange, self.routing_key, self.body, self.properties, self.is_persistent
        return Message(*whole, self.expires_at, self.written)

    def origin(self, about: Properties) -> Origin:
        """Its properties as they are delivered, with *about* in the place of those that the broker has changed."""
        correlation_id, reply_to, message_id, headers = about
        known: dict[str, Any] = {
            "correlation_id": correlation_id,
            "reply_to": reply_to,
            "message_id": message_id,
            "headers": headers,
        }
        return Origin(self.exchange, self.routing_key, *write_all(replace(read_all(*self.written), **known)))

    @property
    def priority(self) -> int:
        return read_all(*self.written).priority or 0

    def dead_lettered(self, reason: str, queue: str) -> Properties:
        """Its properties as a dead letter: with the header that says why it left *queue*."""
        correlation_id, reply_to, message_id, headers = self.properties
        death = {"count": 1, "reason": reason, "queue": queue, "exchange": self.exchange}
        first = {"x-first-death-reason": reason, "x-first-death-queue": queue, "x-first-death-exchange": self.exchange}
        died = {**first, **(headers or {})}
        died["x-death"] = [death, *died.get("x-death", [])]
        return correlation_id, reply_to, message_id, died


@dataclass(slots=True, eq=False)
class QueueConsumer:
    """Who is delivered to."""

    tag: str
    deliver: Callable[[MemoryQueue, Message, QueueConsumer], None]
    cancelled: Callable[[QueueConsumer], None]
    """Told when its queue is gone."""
    prefetch: int
    no_ack: bool
    is_exclusive: bool
    held: int = 0
    """Unacknowledged deliveries."""

    @property
    def has_room(self) -> bool:
        return self.no_ack or not self.prefetch or self.held < self.prefetch


class MemoryQueue:
    """A classic or quorum queue: the two differ in the headers of what is delivered again."""

    def __init__(
        self,
        name: str,
        *,
        durable: bool,
        auto_delete: bool,
        owner: object | None,
        arguments: Mapping[str, Any],
        now: float,
    ):
        self.name = name
        self.durable = durable
        self.auto_delete = auto_delete
        self.owner = owner
        """The connection that alone may use it; None for all."""
        self.arguments = dict(arguments)
        self.ready: list[Message] = []
        self.consumers: list[QueueConsumer] = []
        self.used_at = now
        self.has_priorities = self.is_quorum or "x-max-priority" in self.arguments

    def __repr__(self) -> str:
        return f"<MemoryQueue {self.name} ready={len(self.ready)} consumers={len(self.consumers)}>"

    @property
    def is_quorum(self) -> bool:
        return self.arguments.get("x-queue-type") == "quorum"

    def has_form(self, *, durable: bool, auto_delete: bool, is_exclusive: bool, arguments: Mapping[str, Any]) -> str:
        """The first attribute in which it is declared otherwise; empty if there is none."""
        for what, mine, theirs in (
            ("durable", self.durable, durable),
            ("auto_delete", self.auto_delete, auto_delete),
            ("exclusive", self.owner is not None, is_exclusive),
        ):
            if mine != theirs:
                return what
        names = sorted({*self.arguments, *arguments})
        return next((name for name in names if self.arguments.get(name) != arguments.get(name)), "")

    # -- what comes in ---------------------------------------------------------------------------------------------

    def is_full_for(self, body: bytes) -> bool:
        """Whether its publisher is refused. Of other full queues the oldest message goes (``overflow()``)."""
        return self.arguments.get("x-overflow") == "reject-publish" and self._exceeds(1, len(body))

    def put(self, message: Message, now: float) -> None:
        ttl_ms = self.arguments.get("x-message-ttl")
        if ttl_ms is not None:
            limit = now + ttl_ms / 1000
            message.expires_at = limit if message.expires_at is None else min(limit, message.expires_at)
        if self.has_priorities:
            insort(self.ready, message, key=self._place)
        else:
            self.ready.append(message)

    def give_back(self, message: Message) -> bool:
        """Put *message* in its old place; False: it came back more often than the queue allows."""
        message.returns += 1
        limit = self.arguments.get("x-delivery-limit", -1)
        if self.is_quorum and 0 <= limit < message.returns:
            return False
        insort(self.ready, message, key=self._place)
        return True

    def _place(self, message: Message) -> tuple[int, int]:
        """Quorum queues know two priorities, as those of RabbitMQ 4; there a low one gets a turn in between."""
        if not self.has_priorities:
            return 0, message.position
        level = int(message.priority > _NORMAL) if self.is_quorum else message.priority
        return -min(level, self.arguments.get("x-max-priority", 1)), message.position

    # -- what goes out ---------------------------------------------------------------------------------------------

    def take(self) -> Message | None:
        return self.ready.pop(0) if self.ready else None

    def take_expired(self, now: float) -> list[Message]:
        """Only from the head: a message expires when all before it have left."""
        expired = []
        while self.ready and (at := self.ready[0].expires_at) is not None and at <= now:
            expired.append(self.ready.pop(0))
        return expired

    def take_overflow(self) -> list[Message]:
        dropped = []
        while self.ready and self._exceeds(0, 0):
            dropped.append(self.ready.pop(0))
        return dropped

    def headers_of(self, message: Message) -> Mapping[str, Any] | None:
        """As the broker delivers them."""
        headers = message.properties[3]
        return (
            {**(headers or {}), "x-delivery-count": message.returns} if self.is_quorum and message.returns else headers
        )

    def next_consumer(self) -> QueueConsumer | None:
        """One that has room; each in turn."""
        for consumer in self.consumers:
            if consumer.has_room:
                self.consumers.remove(consumer)
                self.consumers.append(consumer)
                return consumer
        return None

    @property
    def expires_s(self) -> float | None:
        """For how long it lives unused."""
        expires_ms = self.arguments.get("x-expires")
        return None if expires_ms is None else expires_ms / 1000

    def _exceeds(self, more: int, more_bytes: int) -> bool:
        most, most_bytes = self.arguments.get("x-max-length"), self.arguments.get("x-max-length-bytes")
        if most is not None and len(self.ready) + more > most:
            return True
        return most_bytes is not None and sum(len(each.body) for each in self.ready) + more_bytes > most_bytes


class Refusal(Exception):
    """Raised when the broker closes a channel instead of an answer, in RabbitMQ's codes and words."""

    def __init__(self, code: int, text: str):
        super().__init__(f"{code} {text}")
        self.code = code
        self.text = text


def not_found(kind: str, name: str) -> Refusal:
    return Refusal(404, f"NOT_FOUND - no {kind} '{name}' in vhost '/'")


def locked(queue: str) -> Refusal:
    return Refusal(405, f"RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{queue}' in vhost '/'")
