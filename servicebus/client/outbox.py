"""Outbox: what no broker has taken is kept on disk, and delivered in the background when one does.

Theory of operation. Each node has a queue of its own. While messages wait in it, whatever is sent to the node goes to
its end. The queue is delivered in batches, one after the other: the oldest messages are read, published as they were
signed (same id, same bytes), and removed once they are confirmed; while the next batch is read, in the same
transaction. The first batch after a failure is a single message, so that an outage is not found out by the hundred.
A process that dies between the confirm and the removal delivers them again, and the node's journal drops the doubles.
On a full disk nothing can be removed: what is confirmed is noted in room that was taken before, and the queue goes on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from servicebus.client.future import Receipt
from servicebus.client.outbox_file import OutboxFile, Stored
from servicebus.client.outbox_writer import OutboxWriter
from servicebus.client.request import MessageOptions, PendingRequest
from servicebus.client.request_errors import TooLargeForSome, not_kept
from servicebus.errors import EnvelopeError, OutboxFull, OutboxUnavailable, ServiceBusError
from servicebus.transport.loggers import get_logger
from servicebus.transport.loop import EventLoop
from servicebus.transport.ratelimitedlog import RateLimitedLog
from servicebus.wire.address import Address
from servicebus.wire.envelope import Kind
from servicebus.wire.events import EVENTS, EventName
from servicebus.wire.printable import counted

LOG = get_logger(__name__)

_LARGEST_BATCH = 256
_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 5.0
_PURGE_S = 10.0


@dataclass(slots=True)
class _Queue:
    """The messages for one node."""

    node: str
    count: int = 0
    """Stored, or about to be."""
    batch: int = 1
    on_way: int = 0
    is_read: bool = False
    has_failed: bool = False
    delivered: list[int] = field(default_factory=list)
    """Confirmed, and not removed yet."""
    refused: list[tuple[int, str]] = field(default_factory=list)
    """No broker will ever take these, and why; not moved to table ``refused`` yet."""
    too_large: set[int] = field(default_factory=set)
    """Some brokers do not take these, and the others are away: those behind them go first."""
    pause_s: float = _FIRST_PAUSE_S
    next_at: float = 0.0

    @property
    def is_busy(self) -> bool:
        return self.is_read or self.on_way > 0

    def pause(self, now: float) -> None:
        self.batch, self.next_at = 1, now + self.pause_s
        self.pause_s = min(2 * self.pause_s, _LONGEST_PAUSE_S)

    def go_on(self) -> None:
        self.batch = min(2 * self.batch, _LARGEST_BATCH)
        self.pause_s, self.next_at = _FIRST_PAUSE_S, 0.0


class _Step(NamedTuple):
    """What became of a queue in the file."""

    removed: int
    moved: int
    """To table ``refused``."""
    refused: int
    """How many of those that no broker takes need no more care."""
    found: list[Stored]
    is_writable: bool = True


class Outbox:
    """Belongs to the engine's thread, but for ``status()``.

    Args:
        publish: takes a message on its way; it must end soon, and not wait for a path.
        has_way: whether a message to a node could be published now.
        limit_s: how long a confirm may take.
        encode: makes the ``body`` of a message that has none yet.
    """

    def __init__(
        self,
        file: OutboxFile,
        loop: EventLoop,
        publish: Callable[[PendingRequest, float], None],
        has_way: Callable[[str, float], bool],
        limit_s: float,
        encode: Callable[[PendingRequest], None],
    ):
        self._file = file
        self._loop = loop
        self._publish = publish
        self._has_way = has_way
        self._limit_s = limit_s
        self._encode = encode
        self._queues = {node: _Queue(node, count) for node, count in file.counts().items()}
        self._stored = self._delivered = self._expired = self._refused = self._moved = 0
        self._purge_at = 0.0
        self._log = RateLimitedLog(LOG, period_s=60.0, burst=1)
        self._is_closed = False
        self._writer = OutboxWriter(file, loop.post, self._on_expired)
        if file.count:
            LOG.info("outbox %s: an earlier process has left %s", file.path, counted(file.count, "message"))

    def __repr__(self) -> str:
        return f"<Outbox {self._file!r}>"

    @property
    def is_waiting(self) -> bool:
        """Something is to be delivered, or to be written that could not be."""
        return bool(self._queues or self._writer.problem)

    def holds(self, node: str) -> bool:
        """Whether messages to *node* have to wait in its queue."""
        return node in self._queues

    def keep(self, request: PendingRequest, error: ServiceBusError | None = None) -> None:
        """Store *request*, which no broker has taken; it ends when it is on disk. *error* says why none has."""
        options, now_ms = request.options, _now_ms()
        assert options is not None and options.expires_ms is not None, "messages of an outbox expire"
        if request.is_done or request.is_storing:
            return
        if options.expires_ms <= now_ms and error is not None:
            self._expired += 1
            request.fail(error)
            return
        if not request.body:
            try:
                self._encode(request)
            except EnvelopeError as unencodable:
                request.fail(unencodable)
                return
        node = request.address.node
        queue = self._queues.setdefault(node, _Queue(node))
        queue.count += 1
        request.stored()
        target, due_ms, expires_ms = str(request.address), options.due_ms, options.expires_ms
        message = Stored(target, request.event_id, request.id, due_ms, expires_ms, request.body)
        self._writer.ask(lambda file: file.add(node, message, now_ms), partial(self._kept, queue, request, error))

    def keep_all(self, requests: Sequence[PendingRequest]) -> None:
        """The same for all of *requests*, in their order: all are stored, or none."""
        with self._writer.together():
            for request in requests:
                self.keep(request)

    def try_again(self, now: float) -> None:
        """Something has become better."""
        for queue in self._queues.values():
            queue.next_at = 0.0
        self.deliver(now)

    def deliver(self, now: float) -> None:
        """Go on with every queue that can."""
        for queue in list(self._queues.values()):
            self._go_on(queue, now)

    def _go_on(self, queue: _Queue, now: float) -> None:
        if not queue.is_busy and now >= queue.next_at and self._has_way(queue.node, now):
            self._step(queue, queue.batch)

    def tick(self, now: float) -> None:
        """To be called now and then."""
        if not self.is_waiting:
            return
        if now >= self._purge_at:
            self._purge_at = now + _PURGE_S
            now_ms = _now_ms()
            self._writer.ask(lambda file: file.purge(now_ms), lambda _result, _error: None)
        self.deliver(now)

    def status(self) -> dict[str, Any]:
        file = self._file
        problem = {"problem": self._writer.problem} if self._writer.problem else {}
        return {
            "path": str(file.path),
            "messages": sum(queue.count for queue in list(self._queues.values())),
            "bytes": file.bytes,
            "max_messages": file.max_messages,
            "max_bytes": file.max_bytes,
            "stored": self._stored,
            "delivered": self._delivered,
            "expired": self._expired,
            "refused": self._refused,
            "set_aside": self._moved,
            **problem,
        }

    def close(self, on_closed: Callable[[], None]) -> None:
        """Store what was to be kept, and let go of the file."""
        self._is_closed = True
        delivered = [seq for queue in self._queues.values() for seq in queue.delivered]
        self._writer.ask(
            lambda file: file.remove(delivered), lambda _result, _error: None, lambda file: file.note_ended(delivered)
        )
        self._writer.close(on_closed)

    # -- storing -------------------------------------------------------------------------------------------------------

    def _kept(
        self,
        queue: _Queue,
        request: PendingRequest,
        error: ServiceBusError | None,
        is_stored: bool | None,
        problem: OutboxUnavailable | None,
    ) -> None:
        if is_stored:
            self._stored += 1
            request.complete(Receipt(request.event_id, in_outbox=True))
            self._go_on(queue, time.monotonic())
            return
        self._leave(queue, 1)
        request.fail(not_kept(error, problem or self._full(request)))

    def _full(self, request: PendingRequest) -> OutboxFull:
        self._refused += 1
        file = self._file
        full = OutboxFull(str(request.address), str(file.path), file.count, file.bytes)
        self._log.log(logging.ERROR, f"{full}; {self._refused} refused so far")
        return full

    # -- delivering ----------------------------------------------------------------------------------------------------

    def _step(self, queue: _Queue, limit: int) -> None:
        """Remove what was confirmed, and read the next batch."""
        queue.is_read = True
        now_ms, skipped = _now_ms(), list(queue.too_large)
        delivered, refused = list(queue.delivered), list(queue.refused)

        def do(file: OutboxFile) -> _Step:
            removed = file.remove(delivered)
            moved = sum(file.refuse(seq, reason) for seq, reason in refused)
            file.purge(now_ms)
            return _Step(removed, moved, len(refused), file.oldest(queue.node, limit, skipped) if limit else [])

        def or_else(file: OutboxFile) -> _Step:
            removed = file.note_ended(delivered)
            others = (*skipped, *(seq for seq, _ in refused))
            found = file.oldest(queue.node, limit, others, now_ms) if limit else []
            return _Step(removed, 0, 0, found, is_writable=False)

        self._writer.ask(do, partial(self._stepped, queue, len(delivered)), or_else)

    def _stepped(self, queue: _Queue, delivered: int, step: _Step | None, problem: OutboxUnavailable | None) -> None:
        queue.is_read = False
        now = time.monotonic()
        if step is None:
            queue.pause(now)
            return
        del queue.delivered[:delivered]
        del queue.refused[: step.refused]
        self._moved += step.moved
        self._delivered += step.removed
        self._leave(queue, step.removed + step.moved)
        if step.found and not self._is_closed:
            self._send_off(queue, step.found, now)
        elif queue.too_large or not step.is_writable:
            queue.too_large.clear()  # there are no others: another broker may have come back
            queue.pause(now)

    def _send_off(self, queue: _Queue, messages: list[Stored], now: float) -> None:
        queue.on_way, queue.has_failed = len(messages), False
        for request in self._requests(queue.node, messages):
            assert request.options is not None
            request.future().add_done_callback(partial(self._ended, queue, request.options.row, request.id))
            self._publish(request, now)

    def _requests(self, node: str, messages: Iterable[Stored]) -> list[PendingRequest]:
        return [
            PendingRequest(
                message.event_id,
                message.wire_id,
                EventName.parse(message.target) if node == EVENTS else Address.parse(message.target),
                Kind.MESSAGE,
                b"",
                timeout_s=self._limit_s,
                body=message.body,
                options=MessageOptions(message.due_ms, message.expires_ms, message.seq),
            )
            for message in messages
        ]

    def _ended(self, queue: _Queue, seq: int, wire_id: str, future: Future[Any]) -> None:
        if future.exception() is None:
            queue.delivered.append(seq)
        elif isinstance(error := future.exception(), EnvelopeError):
            queue.refused.append((seq, str(error)))
            where = f"it is kept in table 'refused' of {self._file.path}"
            LOG.error("outbox: no broker takes message %s to %s: %s; %s", wire_id, queue.node, error, where)
        elif isinstance(error, TooLargeForSome):
            queue.too_large.add(seq)
            LOG.debug("outbox: not delivered to %s yet: %s", queue.node, error)
        else:
            queue.has_failed = True
            LOG.debug("outbox: not delivered to %s: %s", queue.node, future.exception())
        queue.on_way -= 1
        if queue.on_way == 0 and not self._is_closed:
            self._batch_ended(queue)

    def _batch_ended(self, queue: _Queue) -> None:
        now = time.monotonic()
        if queue.has_failed:
            queue.pause(now)
        elif queue.delivered or queue.refused:
            queue.go_on()
        if queue.delivered or queue.refused:
            self._step(queue, 0 if queue.has_failed else queue.batch)
        else:
            self._leave(queue, 0)

    def _on_expired(self, expired: dict[str, int]) -> None:
        for node, count in expired.items():
            self._expired += count
            LOG.warning("outbox %s: for %s, %s expired", self._file.path, node, counted(count, "message"))
            queue = self._queues.get(node)
            if queue is not None:
                self._leave(queue, count)

    def _leave(self, queue: _Queue, count: int) -> None:
        """*count* messages are not in *queue* any more. An empty queue goes, but not while its confirms are to come.

        They may have expired on their way. A new queue beside this one would deliver the same messages a second time.
        """
        queue.count -= count
        if queue.count <= 0 and not (queue.is_busy or queue.delivered or queue.refused):
            self._queues.pop(queue.node, None)


def _now_ms() -> int:
    return int(time.time() * 1000)
