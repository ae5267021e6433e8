"""CopyStore: stores the copy of a message, in a delay queue or among the dead letters, and then acks the original.

Theory of operation. Only a copy that the broker has confirmed is stored. A broker may refuse one instead (a nack: its
queue is full and rejects what is published, say): the original then stays unacknowledged, the node keeps its id, and
the copy is published again later. A queue that has refused one is asked with one copy at a time, after pauses that
grow; each copy that it takes lets two of those that wait follow. So a queue that stays full costs next to nothing, and
one that has room again is soon served.

What waits here takes up the worker's window. When the connection or the worker ends, the broker delivers it again.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from servicebus.policy.backoff import Backoff
from servicebus.runtime.confirmed_channel import NACK
from servicebus.runtime.copies import Copy
from servicebus.runtime.job import Burial, Claim, Settlement
from servicebus.runtime.publisher import Publisher
from servicebus.transport.loggers import get_logger
from servicebus.transport.loop import EventLoop
from servicebus.transport.ratelimitedlog import RateLimitedLog
from servicebus.wire.fault import DEFECT

LOG = get_logger(__name__)

__all__ = ["CopyStore"]

_FOLLOWERS = 2
"""How many copies follow one that a queue has taken again."""


@dataclass(slots=True)
class _Pending:
    settlement: Settlement
    claim: Claim
    """Whose delivery is copied."""
    copy: Copy
    line: str = ""
    """In which it waits, or has waited."""


@dataclass(slots=True)
class _Refusal:
    """What waits for a queue that has refused a copy."""

    reason: str
    waiting: deque[_Pending] = field(default_factory=deque)
    backoff: Backoff = field(default_factory=Backoff)
    is_timer_set: bool = False
    is_reported: bool = False


class CopyStore:
    """Belongs to the thread that turns the loop, but for ``problem``.

    Args:
        on_stored: called with each settlement whose copy is stored, before the original is acked.
    """

    def __init__(
        self, loop: EventLoop, host_name: str, counters: Counter[str], on_stored: Callable[[Settlement], None]
    ):
        self._loop = loop
        self._host_name = host_name
        self._counters = counters
        self._on_stored = on_stored
        self._generation: int | None = None
        self._publisher: Publisher | None = None
        self._refusals: dict[str, _Refusal] = {}
        """By the queue's name. What a broker refuses for its size says nothing of the queue: it waits in its own line.

        While a line is here, a timer is set for it, or the broker's answer to one of its copies is still to come.
        """
        self._log = RateLimitedLog(LOG, host_name, period_s=60.0, burst=1)

    def __repr__(self) -> str:
        return f"<CopyStore {self._host_name} {self.problem or 'nothing waits'}>"

    @property
    def problem(self) -> str:
        """Which queues do not take copies, for the status; empty if all do. For any thread."""
        return "; ".join(_describe(queue, refusal) for queue, refusal in list(self._refusals.items()))

    def begin(self, generation: int, publisher: Publisher) -> None:
        """A new pair of connections."""
        self._generation, self._publisher = generation, publisher

    def end(self) -> None:
        """The connections are gone; the broker delivers again what waits here."""
        self._generation = self._publisher = None
        self._refusals.clear()

    def store(self, settlement: Settlement, claim: Claim) -> None:
        """Store the copy that *settlement* asks for, made of the delivery of *claim*; then ack all of its claims."""
        if settlement.storing_in == self._generation or self._publisher is None:
            return  # a copy is on its way already, and its confirm is for all claims
        pending = _Pending(settlement, claim, self._copy(settlement, claim, self._publisher))
        settlement.storing_in = self._generation
        refusal = self._refusals.get(pending.copy.queue)
        if refusal is None:
            self._publish(pending)
        else:
            pending.line = pending.copy.queue
            refusal.waiting.append(pending)

    def _copy(self, settlement: Settlement, claim: Claim, publisher: Publisher) -> Copy:
        try:
            return publisher.copy(claim, settlement)
        except Exception as error:  # a service asked for an odd delay, say: then it is buried, with what is wrong
            self._loop.failures.report("the copy of a message", error)
            attempts = settlement.job.attempts if settlement.job is not None else 0
            text = f"its copy could not be made: {type(error).__name__}: {error}"
            is_known_new = settlement.burial.is_known_new if settlement.burial else settlement.job is not None
            settlement.burial = Burial(DEFECT, text, attempts=attempts, is_known_new=is_known_new)
            settlement.release = None
            return publisher.copy(claim, settlement)

    def _publish(self, pending: _Pending) -> None:
        generation, publisher = self._generation, self._publisher
        assert publisher is not None

        def answered(refused: str) -> None:
            if generation != self._generation:
                return  # too late: the broker delivers the original again
            if refused:
                self._not_stored(pending, refused)
            else:
                self._stored(pending)

        try:
            publisher.store(pending.claim, pending.copy, answered)
        except Exception as error:
            self._loop.failures.report("the publishing of a copy", error)
            self._not_stored(pending, f"a copy cannot be published ({type(error).__name__}: {error})")

    def _stored(self, pending: _Pending) -> None:
        settlement = pending.settlement
        settlement.storing_in = None
        self._counters[_counted(settlement)] += 1
        self._on_stored(settlement)
        for claim in settlement.claims:
            if claim.generation == self._generation:
                claim.delivery.channel.ack(claim.delivery.tag)
        # Confirms and nacks overtake each other: what was published before the first nack says nothing of the queue.
        refusal = self._refusals.get(pending.line)
        if refusal is not None:
            self._takes_again(pending.line, refusal)

    def _takes_again(self, queue: str, refusal: _Refusal) -> None:
        refusal.backoff.reset()
        followers = [refusal.waiting.popleft() for _ in range(min(_FOLLOWERS, len(refusal.waiting)))]
        if not refusal.waiting:
            del self._refusals[queue]
            if refusal.is_reported:
                LOG.info("%s: queue %s takes copies of messages again", self._host_name, queue)
        for follower in followers:
            self._publish(follower)

    def _not_stored(self, pending: _Pending, reason: str) -> None:
        former, queue = pending.line, pending.copy.queue
        line = pending.line = queue if reason == NACK else f"{queue} (single messages)"
        self._counters["not-stored"] += 1
        refusal = self._refusals.setdefault(line, _Refusal(reason))
        refusal.reason = reason
        refusal.waiting.append(pending)
        self._report(line, refusal)
        self._set_timer(line)
        if former != line and former in self._refusals:  # it was the one copy that its former line was asked with
            if self._refusals[former].waiting:
                self._set_timer(former)
            else:
                del self._refusals[former]

    def _set_timer(self, line: str) -> None:
        refusal = self._refusals.get(line)
        if refusal is not None and not refusal.is_timer_set:
            refusal.is_timer_set = True
            self._loop.call_later(refusal.backoff.next_s(), lambda: self._try_again(line, refusal))

    def _try_again(self, queue: str, refusal: _Refusal) -> None:
        refusal.is_timer_set = False
        if self._refusals.get(queue) is refusal and refusal.waiting:
            self._publish(refusal.waiting.popleft())

    def _report(self, queue: str, refusal: _Refusal) -> None:
        text = f"{_describe(queue, refusal)}; nothing is lost, they are tried again"
        refusal.is_reported |= self._log.log(logging.ERROR, text, queue)


def _describe(queue: str, refusal: _Refusal) -> str:
    return f"queue {queue}: {refusal.reason}; {len(refusal.waiting)} messages wait unacknowledged"


def _counted(settlement: Settlement) -> str:
    if settlement.burial is not None:
        return "dead"
    return "aside" if settlement.is_full else "delayed"
