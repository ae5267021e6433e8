"""Streams: the calls of a Sender that are answered by many items, and what the engine does about each.

Theory of operation. A stream is a call (StreamRequest) that is not sent again once anything has come of it. Chunks have
a correlation id of their own, so that replies cost nothing more; their numbers show gaps and doubles. The engine
puts them into a StreamInbox, from which a reader takes them (``streaming.py``), and grants as much again as was taken.
A credit is also the sign of life of the caller, and is answered by one of the worker: without either the stream ends.
"""

from __future__ import annotations

import itertools
import os
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import InvalidStateError
from contextlib import suppress
from typing import Any

from servicebus._durations import LONGEST_S
from servicebus.client.future import MARGIN_S, Awaited, CallFuture
from servicebus.client.link import Link
from servicebus.client.pending import PendingRequests
from servicebus.client.request import PendingRequest
from servicebus.client.request_errors import out_of_time
from servicebus.client.watch import Canceller
from servicebus.errors import CallInterrupted, CallTimeout, EnvelopeError, LifecycleError, ServiceBusError
from servicebus.protocol.v2 import ProtocolV2
from servicebus.transport import forks
from servicebus.transport.interface import Delivery
from servicebus.transport.loggers import get_logger
from servicebus.transport.loop import EventLoop
from servicebus.transport.ratelimitedlog import RateLimitedLog
from servicebus.wire.envelope import make_id
from servicebus.wire.streams import Chunk, Credit, StreamTerms, items_id, read_end

LOG = get_logger(__name__)

__all__ = ["StreamInbox", "StreamRequest", "Streams"]

ALIVE_S = 2.0
"""A credit is sent at least this often."""
SILENT_S = 10.0
"""A stream of which nothing was heard for so long is over. Its worker answers each credit."""


class StreamRequest(PendingRequest):
    """A call that is answered by a stream."""

    __slots__ = ("stream", "terms")

    def __init__(self, terms: StreamTerms, *what: Any, **how: Any):
        super().__init__(*what, **how)
        self.terms = terms
        self.stream = terms.text()


class StreamInbox:
    """What has come of one StreamRequest and was not taken yet.

    ``take()`` and ``expect()`` are for the reader, ``cancelled`` for any thread; the rest is the engine's.
    """

    def __init__(self, request: StreamRequest, item_timeout_s: float):
        self.request = request
        self.expected = request.terms.first
        """The number of the next item that may come."""
        self.is_resumable = False
        self.queue = ""
        """Of the worker that runs it; "" until anything was heard of it."""
        self.heard_at = self.credited_at = request.started_at
        self.credit_id = ""
        self.has_ended = False
        self.error: BaseException | None = None
        """Why it has ended; None for its regular end."""
        self.waiting_since: float | None = None
        """Since when a reader waits for an item."""
        self.taken_items = self.taken_bytes = 0
        """All that was used up by the reader."""
        self._item_timeout_s = item_timeout_s
        self._chunks: deque[Chunk] = deque()
        self._taken: Chunk | None = None
        self._owed_items = self._owed_bytes = 0
        """Of what was used up, what no credit was asked for yet."""
        self._wanted: CallFuture | None = None
        self._forks = forks.count

    def __repr__(self) -> str:
        return f"<StreamInbox {self.request.id} expects {self.expected} has_ended={self.has_ended}>"

    # -- the reader ----------------------------------------------------------------------------------------------------

    def take(self) -> tuple[Chunk | None, bool]:
        """The next chunk, if there is one; and whether the stream is to go on, since enough of it was used up."""
        used, self._taken = self._taken, None
        if used is not None:
            self.taken_items += used.count
            self.taken_bytes += len(used.items) - 1
            self._owed_items += used.count
            self._owed_bytes += len(used.items) - 1
        if self._chunks:
            self._taken = self._chunks.popleft()
        terms = self.request.terms
        goes_on = 2 * self._owed_items >= terms.items or 2 * self._owed_bytes >= terms.bytes
        if goes_on:
            self._owed_items = self._owed_bytes = 0
        return self._taken, goes_on

    def expect(self, since: float) -> CallFuture:
        """A future that ends when there is something to take, or it has ended. Its reader waits *since* then."""
        future = CallFuture()
        future.wire_id, future.is_overdue = self.request.id, self._is_overdue
        self.waiting_since = since
        self._wanted = future
        if self._chunks or self.has_ended:  # it came in between
            self._wake()
        return future

    def _is_overdue(self) -> bool:
        """Whether the thread that reads has missed the end of the waiting; if so it is ended here."""
        since, is_gone = self.waiting_since, self._forks != forks.notice()
        if not is_gone and (since is None or time.monotonic() < since + self._item_timeout_s + MARGIN_S):
            return False
        if not self.has_ended:
            self.end(LifecycleError("the I/O thread of this process did not end it", "wait for a stream"))
        self._wake()
        return True

    # -- the engine ----------------------------------------------------------------------------------------------------

    def put(self, chunk: Chunk) -> bool:
        """Take what is new of *chunk*; False: something is missing before it."""
        if chunk.first > self.expected:
            return False
        if chunk.count and chunk.first == self.expected:  # else it is there already
            self.expected += chunk.count
            self._chunks.append(chunk)
            self._wake()
        return True

    def end(self, error: BaseException | None) -> None:
        if not self.has_ended:
            self.error, self.has_ended = error, True
            self._wake()

    def is_late(self, now: float) -> bool:
        """Whether its reader has waited too long for an item."""
        since = self.waiting_since
        return since is not None and now - since >= self._item_timeout_s and not self._chunks

    def _wake(self) -> None:
        wanted, self._wanted, self.waiting_since = self._wanted, None, None
        if wanted is not None:
            wanted.is_overdue = None
            with suppress(InvalidStateError):
                wanted.set_result(None)


class Streams:
    """Belongs to the engine's thread, but for ``add()``, ``goes_on()`` and ``pause()``."""

    def __init__(
        self,
        loop: EventLoop,
        links: Sequence[Link],
        protocol: ProtocolV2,
        pending: PendingRequests,
        canceller: Canceller,
    ):
        self.unverified = 0
        """Chunks that cannot be believed, ever."""
        self._loop = loop
        self._links = links
        self._protocol = protocol
        self._pending = pending
        self._canceller = canceller
        self._incarnation = os.urandom(8).hex()
        self._count = itertools.count(1)
        self._open: dict[str, StreamInbox] = {}
        self._credits: dict[str, StreamInbox] = {}
        """By the id of the last credit of each."""
        self._refused = RateLimitedLog(LOG, "streams")

    def __repr__(self) -> str:
        return f"<Streams open={len(self._open)}>"

    def add(self, inbox: StreamInbox) -> None:
        """Before its request is given to the engine."""
        inbox.request.on_end(lambda request: self._ended(inbox, request))
        self._open[items_id(inbox.request.id)] = inbox

    def goes_on(self, inbox: StreamInbox) -> None:
        """Its reader has used up enough."""
        self._loop.post(lambda: self._credit(inbox, time.monotonic()))

    def leave(self, inbox: StreamInbox) -> None:
        """Its reader takes no more. The request is given up by itself."""
        inbox.end(None)
        self._loop.post(lambda: self._forget(inbox))

    def pause(self, seconds: float) -> CallFuture:
        """A future that ends in so many seconds."""
        future = CallFuture()
        self._loop.post(lambda: self._end_later(future, seconds))
        return future

    # -- what comes ----------------------------------------------------------------------------------------------------

    def answered(self, link: Link, delivery: Delivery, now: float) -> bool:
        """Take a chunk; False if it is none of a stream that is open."""
        inbox = self._open.get(delivery.correlation_id or "")
        if inbox is None:
            return False
        request = inbox.request
        try:
            path = request.path_on(link)
            if path is None:
                raise EnvelopeError("signature", "it comes over another broker than the request went")
            if delivery.flaw is not None:
                raise EnvelopeError(delivery.flaw.reason, delivery.flaw.detail)
            chunk = self._protocol.decode_chunk(request, delivery.body)
        except EnvelopeError as error:
            self.unverified += 1
            self._refused.warning(f"{link.host.name}: ignored a chunk of {request.address}: {error}")
            return True
        path.clock.heard(now)
        path.is_proven = True
        request.resend = False  # it runs: whatever breaks now, what is left is asked for by another call
        if request.terms.is_open:
            request.deadline = now + LONGEST_S  # it was for the begin
        inbox.heard_at, inbox.queue, inbox.is_resumable = now, chunk.queue, chunk.is_resumable
        if not inbox.put(chunk):
            self._interrupt(inbox, f"items {inbox.expected} to {chunk.first - 1} did not arrive")
        return True

    def returned(self, wire_id: str) -> bool:
        """A credit came back, since the worker that ran the stream is gone; False if it is none."""
        inbox = self._credits.get(wire_id)
        if inbox is None:
            return False
        self._interrupt(inbox, "the worker that ran it is gone from its broker")
        return True

    def tick(self, now: float) -> None:
        """To be called now and then while requests are under way."""
        for inbox in list(self._open.values()) if self._open else ():
            if inbox.is_late(now):
                self._give_up(inbox, self._too_late(inbox, now))
            elif inbox.queue and now - inbox.heard_at > SILENT_S:
                self._interrupt(inbox, f"nothing was heard of it for {SILENT_S:g} s")
            elif now - inbox.credited_at >= ALIVE_S:
                self._credit(inbox, now)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _credit(self, inbox: StreamInbox, now: float) -> None:
        """Say how much may come in all."""
        request, path = inbox.request, inbox.request.path
        if inbox.has_ended or not inbox.queue or path is None or not path.link.is_usable:
            return
        terms = request.terms
        credit = Credit(request.id, inbox.taken_items + terms.items, inbox.taken_bytes + terms.bytes)
        wire_id = make_id(self._incarnation, next(self._count))
        outgoing, good_s = self._protocol.encode_credit(credit, inbox.queue, wire_id, path.node)
        self._credits.pop(inbox.credit_id, None)
        self._credits[wire_id] = inbox
        inbox.credit_id, inbox.credited_at = wire_id, now
        path.used_at = path.link.used_at = now
        path.link.publish_control(outgoing, wire_id, int(good_s * 1000))

    def _too_late(self, inbox: StreamInbox, now: float) -> ServiceBusError:
        """No item has come in time."""
        request, since = inbox.request, inbox.waiting_since or now
        error: ServiceBusError = CallTimeout(str(request.address), now - since, request.attempts)
        if not inbox.queue:  # it has not begun, and why not may say more
            why = out_of_time(request, self._links, now)
            error = error if isinstance(why, CallTimeout) else why
        return error

    def _interrupt(self, inbox: StreamInbox, why: str) -> None:
        self._give_up(inbox, CallInterrupted(str(inbox.request.address), why))

    def _give_up(self, inbox: StreamInbox, error: BaseException) -> None:
        request = inbox.request
        self._canceller.cancel(request)
        self._pending.finish(request)
        request.fail(error)
        self._ended(inbox, request)

    def _ended(self, inbox: StreamInbox, request: Awaited) -> None:
        """Its request has."""
        self._forget(inbox)
        error = request._error
        if error is None:
            count = read_end(request._answer[1])
            if count != inbox.expected:
                error = CallInterrupted(str(request.address), f"of {count} items {inbox.expected} arrived")
        inbox.end(error)

    def _forget(self, inbox: StreamInbox) -> None:
        self._open.pop(items_id(inbox.request.id), None)
        self._credits.pop(inbox.credit_id, None)

    def _end_later(self, future: CallFuture, seconds: float) -> None:
        def end() -> None:
            with suppress(InvalidStateError):
                future.set_result(None)

        self._loop.call_later(seconds, end)
