"""CopyStore: stores the copy of a message, in a delay queue or among the dead letters, and then acks the original.

Theory of operation. From the decision to keep a message until its copy is confirmed the CopyStore has the message, and
the node keeps its id; what is delivered of it meanwhile joins. Only a copy that the broker has confirmed is stored. A
broker may refuse one instead (a nack: its queue is full and rejects what is published, say): the original then stays
unacknowledged, and the copy is published again later. A queue that has refused one is asked with one copy at a time,
after pauses that grow; each copy that it takes lets two of those that wait follow. So a queue that stays full costs
next to nothing, and one that has room again is soon served.

What waits here takes up the worker's window. When the connection or the worker ends, the broker delivers it again. If
that does not happen within a while, another worker has the original, and the id is released.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from servicebus.policy.backoff import Backoff
from servicebus.runtime.job import Disposition, Job, PendingDelivery, dead_letter
from servicebus.runtime.journal import Release
from servicebus.runtime.journal_outage import JournalNotes
from servicebus.runtime.publisher import Publisher
from servicebus.transport.confirmed_channel import NACK
from servicebus.transport.loggers import get_logger
from servicebus.transport.loop import EventLoop
from servicebus.transport.ratelimitedlog import RateLimitedLog
from servicebus.wire.fault import DEFECT
from servicebus.wire.printable import counted

LOG = get_logger(__name__)

__all__ = ["CopyStore"]

_FOLLOWERS = 2
"""How many copies follow one that a queue has taken again."""


@dataclass(slots=True)
class _Storing:
    """A copy that is to be stored."""

    disposition: Disposition
    epoch: int | None = None
    """Of the connections over which it was published, or waits to be."""
    original: PendingDelivery | None = None
    """The delivery that was copied."""
    queue: str = ""
    headers: Mapping[str, Any] = field(default_factory=dict)
    line: str = ""
    """In which it waits, or has waited."""


@dataclass(slots=True)
class _Refusal:
    """What waits for a queue that has refused a copy."""

    reason: str
    waiting: deque[_Storing] = field(default_factory=deque)
    backoff: Backoff = field(default_factory=Backoff)
    is_timer_set: bool = False
    is_reported: bool = False


class CopyStore:
    """Belongs to the I/O thread, but for ``problem``. The one owner of messages whose copies are being stored.

    Args:
        notes: told of each id whose copy is stored, before the original is acked.
    """

    def __init__(self, loop: EventLoop, host_name: str, counters: Counter[str], notes: JournalNotes):
        self._loop = loop
        self._host_name = host_name
        self._counters = counters
        self._notes = notes
        self._epoch: int | None = None
        self._publisher: Publisher | None = None
        self._by_id: dict[str, _Storing] = {}
        """Those that were begun, by the id of their message: it does not come free before the copy is stored."""
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

    def begin(self, epoch: int, publisher: Publisher) -> None:
        """A new pair of connections."""
        self._epoch, self._publisher = epoch, publisher

    def end(self) -> None:
        """The connections are gone; the broker delivers again what waits here."""
        self._epoch = self._publisher = None
        self._refusals.clear()

    # -- what is decided -----------------------------------------------------------------------------------------------

    def keep(self, disposition: Disposition, job: Job) -> Disposition:
        """The end of *job* is a copy: nothing is acked, and its id does not come free, before that is stored."""
        disposition.job = job
        self._by_id[job.incoming.id] = _Storing(disposition)
        return disposition

    def has(self, id: str) -> bool:
        return id in self._by_id

    def kept(self, job: Job) -> Disposition | None:
        """What ``keep()`` was given as the end of *job*."""
        found = self._by_id.get(job.incoming.id)
        return found.disposition if found is not None and found.disposition.job is job else None

    def is_another(self, job: Job) -> bool:
        """Whether *job* is another message than the one with its id whose copy is being stored: often that copy itself.

        The broker may deliver it sooner than it confirms it, as the two go over different connections. Joined, it would
        be acked together with the original, and nothing would be left.
        """
        return job.stamps.wait != self._by_id[job.incoming.id].disposition.pending[0].stamps.wait

    def join(self, job: Job) -> Disposition:
        """Delivered again; it is acked with the original."""
        disposition = self._by_id[job.incoming.id].disposition
        disposition.pending = [*disposition.pending, job]
        return disposition

    def give_up(self, epoch: int | None) -> None:
        """Of copies that were published before *epoch* it cannot be known whether they are stored; None for all.

        If the original had come to this worker again, it would have joined. It may stand with another worker, which
        holds it for as long as we have the id: it is another attempt then.
        """
        for id, storing in list(self._by_id.items()):
            if storing.epoch != epoch:
                del self._by_id[id]
                self._notes.add(id, storing.disposition.release or Release.FAILED)
        self._notes.tell()

    # -- storing -------------------------------------------------------------------------------------------------------

    def store(self, disposition: Disposition) -> None:
        """Store its copy over these connections, then ack all of its deliveries."""
        epoch, publisher = self._epoch, self._publisher
        original = next((each for each in disposition.pending if each.epoch == epoch), None)
        if original is None or publisher is None:
            return
        storing = None if disposition.job is None else self._by_id.get(disposition.job.incoming.id)
        if storing is None:
            storing = _Storing(disposition)
        elif storing.epoch == epoch:
            return  # a copy is on its way already, and its confirm is for all deliveries
        storing.queue, storing.headers = self._make(disposition, original, publisher)
        storing.epoch, storing.original, storing.line = epoch, original, ""
        refusal = self._refusals.get(storing.queue)
        if refusal is None:
            self._publish(storing)
        else:
            storing.line = storing.queue
            refusal.waiting.append(storing)

    def _make(
        self, disposition: Disposition, original: PendingDelivery, publisher: Publisher
    ) -> tuple[str, Mapping[str, Any]]:
        copy = disposition.copy
        assert copy is not None
        try:
            return publisher.address_copy(original, copy)
        except Exception as error:  # for example, a service asked for an odd delay: it is dead-lettered with the error
            self._loop.failures.report("the copy of a message", error)
            attempts = disposition.job.attempts if disposition.job is not None else 0
            text = f"its copy could not be made: {type(error).__name__}: {error}"
            is_known_new = copy.is_known_new if copy.reason else disposition.job is not None
            disposition.copy = dead_letter(DEFECT, text, attempts=attempts, is_known_new=is_known_new)
            disposition.release = None
            return publisher.address_copy(original, disposition.copy)

    def _publish(self, storing: _Storing) -> None:
        epoch, publisher, original = self._epoch, self._publisher, storing.original
        assert publisher is not None
        assert original is not None

        def answered(refused: str) -> None:
            if epoch != self._epoch:
                return  # too late: the broker delivers the original again
            if refused:
                self._not_stored(storing, refused)
            else:
                self._stored(storing)

        try:
            publisher.store(original, storing.queue, storing.headers, answered)
        except Exception as error:
            self._loop.failures.report("the publishing of a copy", error)
            self._not_stored(storing, f"a copy cannot be published ({type(error).__name__}: {error})")

    def _stored(self, storing: _Storing) -> None:
        disposition, copy = storing.disposition, storing.disposition.copy
        assert copy is not None
        kept = "passed-on" if copy.queue else "aside" if copy.is_deferred else "delayed"
        self._counters["dead" if copy.reason else kept] += 1
        self._note(disposition)
        for pending in disposition.pending:
            if pending.epoch == self._epoch:
                pending.delivery.channel.ack(pending.delivery.tag)
        # Confirms and nacks overtake each other: what was published before the first nack says nothing of the queue.
        refusal = self._refusals.get(storing.line)
        if refusal is not None:
            self._takes_again(storing.line, refusal)

    def _note(self, disposition: Disposition) -> None:
        job = disposition.job
        if job is not None and self._by_id.pop(job.incoming.id, None) is not None:
            self._notes.add(job.incoming.id, disposition.release)
            self._notes.tell()

    def _takes_again(self, queue: str, refusal: _Refusal) -> None:
        refusal.backoff.reset()
        followers = [refusal.waiting.popleft() for _ in range(min(_FOLLOWERS, len(refusal.waiting)))]
        if not refusal.waiting:
            del self._refusals[queue]
            if refusal.is_reported:
                LOG.info("%s: queue %s takes copies of messages again", self._host_name, queue)
        for follower in followers:
            self._publish(follower)

    def _not_stored(self, storing: _Storing, reason: str) -> None:
        former, queue = storing.line, storing.queue
        line = storing.line = queue if reason == NACK else f"{queue} (single messages)"
        self._counters["not-stored"] += 1
        refusal = self._refusals.setdefault(line, _Refusal(reason))
        refusal.reason = reason
        refusal.waiting.append(storing)
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
    return f"queue {queue}: {refusal.reason}; {counted(len(refusal.waiting), 'message', 'wait')} unacknowledged"
