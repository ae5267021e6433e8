"""Tails: the log records that nodes send to this process, asked for over every broker at once.

Theory of operation. Each worker of a node sends the records of its own process, over its own broker, to those who have
asked within the lease. So all are asked again every few seconds, each time by a request that is signed for one broker,
and each chunk is verified against one of the last requests that went over the broker it came by. The numbers in a
chunk show what is missing before it, and what comes twice.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from servicebus.client.link import Link
from servicebus.errors import EnvelopeError
from servicebus.protocol.tail import LEASE_S, TailedRecord, TailHead, TailQuestion, read_tail_items
from servicebus.protocol.v2 import ProtocolV2
from servicebus.transport.interface import Delivery
from servicebus.transport.loggers import get_logger
from servicebus.transport.loop import EventLoop
from servicebus.transport.ratelimitedlog import RateLimitedLog
from servicebus.wire.envelope import make_id
from servicebus.wire.streams import items_id

LOG = get_logger(__name__)

__all__ = ["LogTail", "Tailed", "Tails"]

_ASK_EVERY_S = 3.0
_KNOWN_S = LEASE_S + 5.0
"""So long an answer to a request is accepted."""
_UNTAKEN_S = 30.0
"""A tail from which nothing is taken for so long is over: its reader has gone without a word."""
_FORGET_S = 60.0
"""A worker of which nothing was heard for so long is forgotten."""
_MOST_RECORDS = 20_000
_MOST_REFUSALS = 100
_UNREADABLE = frozenset({"encryption", "unencodable"})
"""Reasons for which what is signed well cannot be read: the keys are missing here."""


class Tailed(NamedTuple):
    """A log record and where it comes from; or, without a record, that some were left out there."""

    node: str
    """"" for what was left out here, since it was not taken in time."""
    machine: str
    broker: str
    """Over which it came."""
    process: str
    """Of the record: ``master``, or the worker by its broker."""
    pid: int
    record: TailedRecord | None
    left_out: int = 0
    """How many: more came than may travel, or a chunk was lost on its way."""


@dataclass(slots=True)
class _Source:
    """One worker, as long as it counts on."""

    expected: int = 0
    left_out: int = 0
    heard_at: float = 0.0


@dataclass(slots=True)
class _Request:
    """To the nodes behind one broker."""

    tail: LogTail
    link: Link
    token: str
    sent_at: float


class LogTail:
    """What comes of one question. ``take()`` and the attributes are for any thread, the rest is the engine's."""

    def __init__(self, question: TailQuestion):
        self.question = question
        self.problems: dict[str, str] = {}
        """Why nothing may come over a broker just now, by its name."""
        self.refusals: dict[str, None] = {}
        """What workers have said that send nothing."""
        self.nodes: dict[str, None] = {}
        """Those that send what is asked for, or have done so."""
        self.has_ended = False
        self.taken_at = time.monotonic()
        self._sources: dict[tuple[str, ...], _Source] = {}
        self._taken_from: deque[Tailed] = deque()
        self._left_out = 0
        self._changed = threading.Condition()

    def __repr__(self) -> str:
        return f"<LogTail of {self.question.nodes} {len(self._sources)} workers>"

    @property
    def workers(self) -> int:
        """How many send, as far as is known now."""
        return len(self._sources)

    def take(self, timeout_s: float) -> list[Tailed]:
        """What has come, in its order; empty if nothing came within *timeout_s*, or it has ended."""
        with self._changed:
            if not (self._taken_from or self.has_ended):
                self._changed.wait(timeout_s)
            self.taken_at = time.monotonic()
            taken, left_out = list(self._taken_from), self._left_out
            self._taken_from.clear()
            self._left_out = 0
        return [Tailed("", "", "", "", 0, None, left_out), *taken] if left_out else taken

    def wake(self) -> None:
        """Have ``take()`` return."""
        with self._changed:
            self._changed.notify_all()

    def end(self) -> None:
        """Nothing more comes."""
        self.has_ended = True
        self.wake()

    def refused(self, why: str) -> None:
        if len(self.refusals) < _MOST_REFUSALS:
            self.refusals[why] = None
        self.wake()

    def heard(self, broker: str, head: TailHead, first: int, records: Sequence[TailedRecord], now: float) -> None:
        """A chunk whose first record has the number *first*."""
        self.problems.pop(broker, None)
        self.nodes[head.node] = None
        key = broker, head.node, head.machine, str(head.pid), head.session
        source = self._sources.setdefault(key, _Source())
        source.heard_at = now
        if first < source.expected:
            return  # it comes again
        missing = first - source.expected + max(0, head.left_out - source.left_out)
        source.expected, source.left_out = first + len(records), head.left_out
        where = head.node, head.machine, broker
        with self._changed:
            if missing:
                self._put(Tailed(*where, head.process, head.pid, None, missing))
            for record in records:
                self._put(Tailed(*where, record.process or head.process, record.pid or head.pid, record))
            self._changed.notify_all()

    def forget(self, now: float) -> None:
        for key, source in list(self._sources.items()):
            if now - source.heard_at > _FORGET_S:
                del self._sources[key]

    def _put(self, tailed: Tailed) -> None:
        if len(self._taken_from) >= _MOST_RECORDS:
            oldest = self._taken_from.popleft()
            self._left_out += oldest.left_out or 1
        self._taken_from.append(tailed)


class Tails:
    """Belongs to the engine's thread, but for ``begin()`` and ``end()``."""

    def __init__(self, loop: EventLoop, links: Sequence[Link], protocol: ProtocolV2):
        self.unverified = 0
        """Answers that cannot be believed, ever."""
        self._loop = loop
        self._links = links
        self._protocol = protocol
        self._incarnation = os.urandom(8).hex()
        self._count = itertools.count(1)
        self._open: dict[LogTail, None] = {}
        self._asked: dict[str, _Request] = {}
        """By the ids of the requests; the oldest first."""
        self._refused = RateLimitedLog(LOG, "tail")
        self._is_ticking = self._is_closed = False

    def __repr__(self) -> str:
        return f"<Tails open={len(self._open)}>"

    def begin(self, tail: LogTail) -> None:
        """Ask for its records until ``end()``, or the Sender is closed."""
        self._loop.post(lambda: self._begin(tail))

    def end(self, tail: LogTail) -> None:
        """Ask no more. Workers send until their lease is over, which is ignored."""
        tail.end()
        self._loop.post(lambda: self._forget(tail))

    def close(self) -> None:
        self._is_closed = True
        for tail in list(self._open):
            self._end(tail)

    # -- what the links bring ------------------------------------------------------------------------------------------

    def link_up(self, link: Link) -> None:
        now = time.monotonic()
        for tail in self._open:
            tail.problems.pop(link.host.name, None)
            self._ask(tail, link, now)

    def link_down(self, link: Link, reason: str) -> None:
        for tail in self._open:
            tail.problems[link.host.name] = reason
            tail.wake()

    def answered(self, link: Link, delivery: Delivery, now: float) -> bool:
        """Take a chunk of log records, or a refusal; False if it answers none of the last requests."""
        id = delivery.correlation_id or ""
        wire_id = id.partition("/")[0]
        asked = self._asked.get(wire_id)
        if asked is None:
            return False
        try:
            if link is not asked.link:
                raise EnvelopeError("signature", "it answers what was asked over another broker")
            if delivery.flaw is not None:
                raise EnvelopeError(delivery.flaw.reason, delivery.flaw.detail)
            if id == items_id(wire_id):
                chunk = self._protocol.decode_log_chunk(wire_id, asked.token, delivery.body)
                head, records = read_tail_items(chunk.items)
                asked.tail.heard(link.host.name, head, chunk.first, records, now)
            else:
                asked.tail.refused(self._protocol.decode_tail_refusal(wire_id, asked.token, delivery.body).text)
        except EnvelopeError as error:
            self.unverified += 1
            if error.reason in _UNREADABLE:
                asked.tail.refused(str(error))
            self._refused.warning(f"{link.host.name}: ignored log records: {error}")
        return True

    def returned(self, link: Link, wire_id: str) -> bool:
        """No agent is behind that broker now; False if it is none of our requests that came back."""
        asked = self._asked.get(wire_id)
        return asked is not None and asked.link is link

    # -- inside --------------------------------------------------------------------------------------------------------

    def _begin(self, tail: LogTail) -> None:
        if self._is_closed or tail.has_ended:
            tail.end()
            return
        self._open[tail] = None
        now = time.monotonic()
        for link in self._links:
            self._ask(tail, link, now)
        if not self._is_ticking:
            self._is_ticking = True
            self._loop.call_later(_ASK_EVERY_S, self._tick)

    def _end(self, tail: LogTail) -> None:
        tail.end()
        self._forget(tail)

    def _forget(self, tail: LogTail) -> None:
        self._open.pop(tail, None)
        for wire_id in [id for id, asked in self._asked.items() if asked.tail is tail]:
            del self._asked[wire_id]

    def _tick(self) -> None:
        now = time.monotonic()
        while self._asked and now - next(iter(self._asked.values())).sent_at > _KNOWN_S:
            del self._asked[next(iter(self._asked))]
        for tail in list(self._open):
            if now - tail.taken_at > _UNTAKEN_S:
                self._end(tail)
                continue
            tail.forget(now)
            for link in self._links:
                self._ask(tail, link, now)
                if not link.is_usable:
                    tail.problems[link.host.name] = link.describe()
        self._is_ticking = bool(self._open)
        if self._is_ticking:
            self._loop.call_later(_ASK_EVERY_S, self._tick)

    def _ask(self, tail: LogTail, link: Link, now: float) -> None:
        """Ask the nodes behind *link*; if it is not connected, as soon as it is."""
        if link.is_usable:
            wire_id = make_id(self._incarnation, next(self._count))
            token, outgoing = self._protocol.encode_tail(wire_id, tail.question)
            self._asked[wire_id] = _Request(tail, link, token, now)
            link.used_at = now
            link.publish_control(outgoing, wire_id, int(tail.question.lease_s * 1000))
        elif not link.is_up:
            link.connect(now)
