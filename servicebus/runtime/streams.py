"""NodeStreams: the streams that the services of one worker answer, and what was yielded and is not sent yet.

Theory of operation. A service's thread or task puts the text of each item into the StreamOutput of its request, up to
the credit of the caller; then it waits. The I/O thread publishes what is there as chunks, in order, and behind the last
one the reply. As a stream may last for long, the delivery of its request is acknowledged when it begins: it is not
delivered again. When the connections break, the worker stops, or the caller is silent, the output is *over*: the next
item that is put raises StreamOver, which closes the generator.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from servicebus.errors import EnvelopeError
from servicebus.protocol.encryption import is_secret
from servicebus.runtime.job import Job
from servicebus.runtime.publisher import Publisher
from servicebus.transport.loggers import get_logger
from servicebus.transport.loop import EventLoop
from servicebus.wire.fault import INTERRUPTED, Fault
from servicebus.wire.streams import Credit, StreamTerms, chunk_queue_problem, items_id

LOG = get_logger(__name__)

__all__ = ["NodeStreams", "StreamOutput", "StreamOver"]

ENDING = "the agent there is stopping, or leaves its broker"
CALLER_SILENT_S = 15.0
"""A caller sends a credit every two seconds. One that has not for so long is gone."""
_TICK_S = 1.0
_CHUNK_BYTES = 32 * 1024
_CHUNK_ITEMS = 1000
_PAUSE_S = 0.001
"""After a chunk the next one waits so long, unless the credit is used up: many small items go together."""
_LOOK_S = 0.25
_HEAD_BYTES = 1024
"""Of a chunk, beside its items; at most."""


class StreamOver(BaseException):
    """Raised in a generator's place when nobody takes its items any more; no ``except Exception`` is to hold it up."""


class Connections(Protocol):
    """What a worker has just now; None while its connections are lost."""

    epoch: int | None
    publisher: Publisher | None


class StreamOutput:
    """One stream. ``put()``, ``put_now()``, ``ready()`` and ``end()`` are for what serves it, the rest for the I/O
    thread.

    ``count`` and ``bytes`` are what was put, ``limit_items`` and ``limit_bytes`` what the caller takes.
    """

    def __init__(self, streams: NodeStreams, job: Job, terms: StreamTerms, is_resumable: bool, max_bytes: int):
        self.job = job
        self.is_resumable = is_resumable
        self.first = self.next = terms.first
        """The numbers of the first item, and of the next one to be sent."""
        self.count = self.bytes = 0
        self.limit_items, self.limit_bytes = terms.items, terms.bytes
        self.chunk_items = max(1, min(_CHUNK_ITEMS, terms.items // 4))
        self.over = ""
        """Why nobody takes items any more."""
        self.heard_at = self.sent_at = time.monotonic()
        self.is_held = False
        """A chunk waits for the broker's confirm, and the next ones behind it."""
        self.is_posted = False
        """The I/O thread will look after it."""
        self.has_ended = False
        self.reply: bytes | None = None
        self.buffer: deque[bytes] = deque()
        self._streams = streams
        self._max_bytes = max_bytes - _HEAD_BYTES
        self._changed = threading.Condition()
        self._on_change: Callable[[], object] | None = None

    def __repr__(self) -> str:
        return f"<StreamOutput {self.job.incoming.id} {self.count}/{self.limit_items}{' over' if self.over else ''}>"

    @property
    def is_exhausted(self) -> bool:
        """The caller takes no more for now."""
        return self.count >= self.limit_items or self.bytes >= self.limit_bytes

    def put(self, text: bytes) -> None:
        """Send the item of JSON *text*; returns when the caller takes the next one. Raises StreamOver."""
        if not self.put_now(text):
            self._streams.look_at(self)
            with self._changed:
                while self.is_exhausted and not self.over:
                    self._changed.wait(_LOOK_S)
            if self.over:
                raise StreamOver(self.over)

    def put_now(self, text: bytes) -> bool:
        """The same without waiting; False: it is to wait until ``ready()``."""
        if self.over:
            raise StreamOver(self.over)
        if len(text) > self._max_bytes:
            raise EnvelopeError("oversized", f"an item of {len(text)} bytes, allowed are {self._max_bytes}")
        self.buffer.append(text)
        self.count += 1
        self.bytes += len(text) + 1
        if not self.is_posted:
            self._streams.look_at(self)
        return self.count < self.limit_items and self.bytes < self.limit_bytes

    async def ready(self) -> None:
        """Wait until the caller takes more; in a task."""
        import asyncio  # a worker without tasks needs none of it

        loop = asyncio.get_running_loop()
        self._streams.look_at(self)
        while self.is_exhausted and not self.over:
            changed = asyncio.Event()
            self._on_change = partial(loop.call_soon_threadsafe, changed.set)
            if self.is_exhausted and not self.over:
                await changed.wait()
        self._on_change = None
        if self.over:
            raise StreamOver(self.over)

    def end(self, reply: bytes | None) -> None:
        """Its service has ended; *reply* goes to the caller, behind the items."""
        self._streams.end(self, reply)

    # -- the I/O thread ------------------------------------------------------------------------------------------------

    def grant(self, credit: Credit) -> None:
        self.limit_items = max(self.limit_items, credit.items)
        self.limit_bytes = max(self.limit_bytes, credit.bytes)
        self._tell()

    def interrupt(self, why: str) -> None:
        self.over = self.over or why
        self.buffer.clear()
        self._tell()

    def take(self) -> list[bytes]:
        """The items of the next chunk."""
        taken: list[bytes] = []
        size = 0
        while self.buffer and len(taken) < self.chunk_items:
            size += len(self.buffer[0]) + 1
            if taken and size > _CHUNK_BYTES:
                break
            taken.append(self.buffer.popleft())
        return taken

    def _tell(self) -> None:
        with self._changed:
            self._changed.notify_all()
        if (on_change := self._on_change) is not None:
            try:
                on_change()
            except RuntimeError:  # the loop is closed
                self._on_change = None


class NodeStreams:
    """Belongs to the I/O thread, but for ``open()``, ``look_at()`` and ``end()``.

    Args:
        own_queue: the name of the worker's own queue on its present connections.
        is_ending: whether the worker stops, or leaves its broker; for any thread.
    """

    def __init__(
        self,
        loop: EventLoop,
        connections: Connections,
        own_queue: Callable[[], str],
        is_ending: Callable[[], bool],
        host_name: str,
        max_bytes: int,
    ):
        self.is_ending = is_ending
        self._loop = loop
        self._connections = connections
        self._own_queue = own_queue
        self._host_name = host_name
        self._max_bytes = max_bytes
        self._open: dict[str, StreamOutput] = {}
        self._is_ticking = False

    def __repr__(self) -> str:
        return f"<NodeStreams open={len(self._open)}>"

    def __len__(self) -> int:
        return len(self._open)

    @property
    def epoch(self) -> int | None:
        """Of the connections that the worker has now; for any thread."""
        return self._connections.epoch

    # -- for what serves a stream --------------------------------------------------------------------------------------

    def open(self, job: Job, is_resumable: bool) -> StreamOutput:
        """The output of *job*, whose service begins now."""
        terms = job.incoming.stream
        assert terms is not None
        # Encrypted it takes a third more.
        most = self._max_bytes if not is_secret(job.incoming) else self._max_bytes * 3 // 4
        output = StreamOutput(self, job, terms, is_resumable, most)
        if job.on_cancel is None:  # else it is a task, which is cancelled
            job.on_cancel = lambda _: output.interrupt("its caller takes no more")
        if job.is_cancelled:
            output.interrupt("its caller takes no more")
        self._loop.post(lambda: self._opened(output))
        return output

    def look_at(self, output: StreamOutput) -> None:
        """There is something to send."""
        output.is_posted = True
        self._loop.post(lambda: self._send(output))

    def end(self, output: StreamOutput, reply: bytes | None) -> None:
        self._loop.post(lambda: self._end(output, reply))

    def let_go(self) -> None:
        """The services end, and the I/O thread may have: no thread is to wait for credit any more."""
        for output in list(self._open.values()):
            output.interrupt(ENDING)

    # -- the I/O thread ------------------------------------------------------------------------------------------------

    def credited(self, credit: Credit) -> None:
        """A caller lets its stream go on, or only says that it lives."""
        output = self._open.get(credit.id)
        if output is None:
            return  # another worker's, or it has ended
        now = time.monotonic()
        output.heard_at = now
        output.grant(credit)
        if not output.buffer and now - output.sent_at > _TICK_S:
            self._publish(output, [])

    def interrupt_all(self, why: str) -> None:
        """The worker stops, leaves its broker, or has lost it: callers are told at once, if that is possible."""
        for output in list(self._open.values()):
            self._interrupt(output, why)

    def _opened(self, output: StreamOutput) -> None:
        job = output.job
        if job.epoch != self._connections.epoch or self._connections.publisher is None:
            output.interrupt(f"the connection to {self._host_name} was lost")
            return  # its request is delivered again, and answered when the generator is closed
        job.delivery.channel.ack(job.delivery.tag)
        job.is_answered = True
        self._open[job.incoming.id] = output
        if chunk_queue_problem(self._own_queue()):
            self._interrupt(output, f"the name of the queue {self._own_queue()!r} cannot be told")
            return
        self._publish(output, [])
        if self.is_ending():
            self._interrupt(output, ENDING)
        if not self._is_ticking:
            self._is_ticking = True
            self._loop.call_later(_TICK_S, self._tick)

    def _tick(self) -> None:
        now = time.monotonic()
        for output in list(self._open.values()):
            deadline = output.job.deadline
            if deadline is not None and now > deadline:
                # No reply: its caller is about to raise CallTimeout, and is not to get this instead.
                self._close(output, "its deadline passed")
            elif now - output.heard_at > CALLER_SILENT_S:
                self._interrupt(output, f"nothing was heard of its caller for {CALLER_SILENT_S:g} s")
        self._is_ticking = bool(self._open)
        if self._is_ticking:
            self._loop.call_later(_TICK_S, self._tick)

    def _send(self, output: StreamOutput) -> None:
        """Publish what was put; soon, if some was published just now and more may follow."""
        now = time.monotonic()
        early_s = output.sent_at + _PAUSE_S - now
        if early_s > 0 and not (output.is_exhausted or output.has_ended) and len(output.buffer) < output.chunk_items:
            self._loop.call_later(early_s, lambda: self._send(output))
            return
        output.is_posted = False
        self._flush(output)

    def _flush(self, output: StreamOutput) -> None:
        while output.buffer and not output.is_held and not output.over:
            self._publish(output, output.take())
        if output.has_ended and not output.is_held:
            self._reply(output)

    def _publish(self, output: StreamOutput, items: list[bytes]) -> None:
        publisher, job = self._connections.publisher, output.job
        if publisher is None or output.over:
            return
        protocol: Any = job.protocol
        body = protocol.encode_chunk(job.incoming, output.next, items, self._own_queue(), output.is_resumable)
        output.next += len(items)
        output.sent_at = time.monotonic()
        id = items_id(job.incoming.given_id)
        output.is_held = publisher.items(job, id, body, lambda why: self._let_go(output, why))

    def _let_go(self, output: StreamOutput, refused: str) -> None:
        """The broker has a large chunk, or has refused it."""
        output.is_held = False
        if refused:
            self._interrupt(output, f"{self._host_name} refused an item: {refused}")
        self._flush(output)

    def _end(self, output: StreamOutput, reply: bytes | None) -> None:
        output.has_ended, output.reply = True, reply
        self._flush(output)

    def _reply(self, output: StreamOutput) -> None:
        if self._open.pop(output.job.incoming.id, None) is None:
            return  # interrupted: its caller knows, or its request comes again
        publisher = self._connections.publisher
        if publisher is not None and output.reply is not None:
            publisher.reply(output.job, output.reply, output.job)

    def _interrupt(self, output: StreamOutput, why: str) -> None:
        self._close(output, why)
        job, publisher = output.job, self._connections.publisher
        reply = job.protocol.encode_fault(job.incoming, Fault(INTERRUPTED, why))
        if publisher is not None and reply is not None and job.epoch == self._connections.epoch:
            publisher.reply(job, reply)

    def _close(self, output: StreamOutput, why: str) -> None:
        job = output.job
        self._open.pop(job.incoming.id, None)
        if not output.over:
            LOG.info("the stream %s of %s ends: %s", job.incoming.id, job.incoming.key, why)
        output.interrupt(why)
