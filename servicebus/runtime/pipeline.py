"""Pipeline: a delivery through a worker: validate -> decide -> run -> settle.

Each delivery is validated (``validator.py``). What one iteration of the loop brought, jobs and outcomes, is decided
together at its end (``dispatcher.py``), so that the journal is asked once. Services run their jobs in their own threads
(``service_thread.py``). What is decided is settled here: a reply is published, or a copy stored (``copy_store.py``),
and the delivery is acknowledged.

A Pipeline lives as long as the worker, over all connections to the broker. An *epoch* is one pair of them: what an
older one delivered is not acked any more, because its tags are void and the broker delivers it again.

When the journal cannot be asked or told, what came waits, but for calls that were run: these are answered
(``journal_outage.py``). When it turns out to be damaged, no waiting helps: what is finished is answered and acked,
nothing more is begun, and the worker ends, so that the next one can set the file aside.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from itertools import repeat, starmap

from servicebus.errors import JournalUnavailable
from servicebus.protocol.interface import AgentProtocol
from servicebus.runtime.dispatcher import Dispatcher
from servicebus.runtime.job import Disposition, Job, Outcome
from servicebus.runtime.journal.interface import Damaged
from servicebus.runtime.overflow_buffer import OverflowBuffer
from servicebus.runtime.publisher import Acknowledger, Publisher
from servicebus.transport.interface import Delivery
from servicebus.transport.loggers import get_logger
from servicebus.transport.loop import nothing
from servicebus.transport.ratelimitedlog import RateLimitedLog
from servicebus.transport.sharedloop import SharedLoop
from servicebus.wire.envelope import CALL, MESSAGE, Kind

LOG = get_logger(__name__)

_DECIDE_AGAIN_S = 0.05
_TICK_S = 0.25
_IDLE_TICK_S = 1.0
"""No longer: to the others of the node it is our sign of life."""
_COMES_AGAIN_S = 2.0
"""What the broker delivers again after a reconnect to this worker has come by then."""


class Pipeline:
    """Belongs to the I/O thread, but for ``post()``, ``hand_over()``, ``recover()`` and ``start()``.

    Args:
        window: how many messages the broker hands out unacknowledged.
        on_tick: called once a second, or more often.
        on_damaged: called once, when the journal turns out to be damaged: the worker is to end.
    """

    def __init__(
        self,
        loop: SharedLoop,
        dispatcher: Dispatcher,
        host_name: str,
        window: int,
        on_damaged: Callable[[Damaged], None],
        on_tick: Callable[[], None] = nothing,
        has_priorities: bool = False,
    ):
        self.delivered_at = 0.0
        """``time.monotonic()`` of the last call or message that came in."""
        self.is_damaged = False
        """The journal is damaged, and *on_damaged* was called."""
        self.counters: Counter[str] = dispatcher.counters
        self.copies = dispatcher.copies
        self.outage = dispatcher.outage
        self._loop = loop
        self._dispatcher = dispatcher
        self._refused = RateLimitedLog(LOG, host_name)
        self._on_damaged = on_damaged
        self._on_tick = on_tick
        self.acknowledger = Acknowledger(self.copies.store, loop.failures, dispatcher.refused_calls)
        self._overflow = OverflowBuffer(window, has_priorities=has_priorities)
        self._posted: deque[Outcome] = deque()
        """Handed over by services' threads; decided at the end of the iteration, as what the next two have."""
        self._outcomes: list[Outcome] = []
        self._jobs: list[Job] = []
        self._in_hand: tuple[list[Outcome], list[Job]] | None = None
        """What is being decided, and stays here if that is interrupted."""
        self._decided: deque[Disposition] = deque()
        """What is to be settled."""
        self._has_messages = False
        """Among the jobs; only messages wait in the overflow buffer."""
        self.begins_no_messages = False
        """The services end; what comes stays unacknowledged, and so goes to the next worker."""
        self._is_taking_posted = False
        self._is_flushed_later = False
        self._decides_again = False
        self.interrupt_streams: Callable[[str], None] = nothing  # for a reason

    def __repr__(self) -> str:
        outcomes = len(self._posted) + len(self._outcomes)
        return f"<Pipeline epoch={self.acknowledger.epoch} outcomes={outcomes} {self._dispatcher!r}>"

    @property
    def has_unsettled(self) -> bool:
        """Something is not yet handed to the broker, or not confirmed by it."""
        publisher = self.acknowledger.publisher
        is_unconfirmed = publisher is not None and publisher.unconfirmed > 0
        return bool(self._posted or self._outcomes or self._in_hand or self._decided) or is_unconfirmed

    @property
    def is_idle(self) -> bool:
        """Nothing that came in is unfinished."""
        return not (self._dispatcher.unfinished or self._jobs or self._dispatcher.held or self.has_unsettled)

    def start(self) -> None:
        """Keep the journal's house, from any thread."""
        self._loop.post(self._tick)

    def begin(self, epoch: int, publisher: Publisher) -> None:
        """A new pair of connections: deliveries of *epoch* are settled from here on, over *publisher*."""
        self.acknowledger.begin(epoch, publisher)
        self.copies.begin(epoch, publisher)
        self._loop.call_later(_COMES_AGAIN_S, lambda: self._give_up_copies(epoch))

    def end(self) -> None:
        """The connections are gone: nothing can be settled until the next ones."""
        self.acknowledger.end()
        self.copies.end()
        self.interrupt_streams("the connection of its worker to the broker was lost")
        self._dispatcher.held.clear()  # the broker delivers them again
        self._overflow.clear()

    def begin_no_messages(self) -> None:
        """No service will run what comes from here on. Calls are still answered, so that they go elsewhere at once."""
        self.begins_no_messages = True

    def give_up_copies(self) -> None:
        """The worker stops: what waits to be stored comes to the next one, which the journal is to let in."""
        self.copies.give_up(None)

    def _give_up_copies(self, epoch: int) -> None:
        if epoch == self.acknowledger.epoch:
            self.copies.give_up(epoch)

    # -- validate ------------------------------------------------------------------------------------------------------

    def take(
        self,
        delivery: Delivery,
        epoch: int,
        protocol: AgentProtocol,
        kind: Kind,
        on_full: Callable[[], None] | None = None,
    ) -> None:
        """Have a delivery executed or refused; *on_full* is called when the inbox of its service is full."""
        self.delivered_at = time.monotonic()
        validated = self._dispatcher.validate(delivery, epoch, protocol, kind, on_full)
        if isinstance(validated, Disposition):
            self.settle(validated)
            return
        self._jobs.append(validated)
        if kind is MESSAGE:
            self._has_messages = True
        if not self._is_flushed_later:
            self._is_flushed_later = True
            self._loop.flush_later(self)

    # -- run: outcomes come from services' threads ---------------------------------------------------------------------

    def post(self, outcome: Outcome) -> None:
        """Hand over what a service made of a job, from any thread; one wake-up serves a whole batch."""
        self._posted.append(outcome)
        if not self._is_taking_posted:
            self._is_taking_posted = True
            self._loop.post(self._take_posted)

    def hand_over(self, outcome: Outcome, has_job: Callable[[], object], own_fd: int | None = None) -> None:
        """``post()`` by a service's thread, which turns the loop itself while it has nothing else to do.

        It has when *has_job* says so, or *own_fd* can be read.

        So under load, too, one thread reads a batch, runs it, and answers it: two would fight for the interpreter. A
        loop that is lent and that no thread turns is taken back soon if the next job takes long.
        """
        self._posted.append(outcome)
        if has_job():
            self._submit()
        elif not self._loop.lead(self._take_as_leader, has_job, None, own_fd):
            if self._is_last(outcome):
                self._loop.follow(self._submit, has_job, own_fd)
            else:
                self._submit()

    def recover(self, outcome: Outcome) -> None:
        """``post()`` for a thread that was interrupted, and may have handed over an outcome of this job before."""
        self._loop.post(partial(self._take_recovered, outcome))

    def _submit(self) -> None:
        if not self._is_taking_posted:
            self._is_taking_posted = True
            self._loop.submit(self._take_posted)

    def _take_recovered(self, outcome: Outcome) -> None:
        self._take_posted()  # it may have been interrupted between an outcome and the call for it
        known = [*self._outcomes, *self._posted]
        if self._dispatcher.is_running(outcome.job) and all(each.job is not outcome.job for each in known):
            self._outcomes.append(outcome)

    def _is_last(self, outcome: Outcome) -> bool:
        """Nothing else runs. After a call, messages do not count: they may wait in another inbox for long."""
        is_call = outcome.job.incoming.kind is CALL
        unfinished = self._dispatcher.running_calls if is_call else self._dispatcher.unfinished
        return unfinished <= len(self._posted) + len(self._outcomes)

    def _take_posted(self) -> None:
        self._is_taking_posted = False
        self._flush_later()

    def _take_as_leader(self) -> None:
        try:
            self.flush()
        except Exception as error:
            self._loop.failed(self.flush, error)

    # -- decide --------------------------------------------------------------------------------------------------------

    def _flush_later(self) -> None:
        if not self._is_flushed_later:
            self._is_flushed_later = True
            self._loop.flush_later(self)

    def flush(self) -> None:
        """At the end of an iteration: decide what it brought, and settle that."""
        self._is_flushed_later = False
        try:
            if self._in_hand is not None:
                self._dispatcher.interrupted.sort(self._in_hand, self._decided, self._outcomes, self._jobs)
                self._has_messages, self._in_hand = True, None
            self._decide_batch()
            while self._decided:
                first = self._decided[0]
                if first.copy is not None:  # it must not be stored twice; what is not stored comes again
                    self._decided[0] = Disposition([])
                if not self.acknowledger.settle(first) and first.copy is None:
                    self.acknowledger.settle(first)  # it may have been a late exception
                self._decided.popleft()
        except BaseException:  # meant for a service, whose thread turns the loop: what is in hand goes on all the same
            self._loop.call_later(_DECIDE_AGAIN_S, self._flush_later)
            raise
        if (self._dispatcher.held or self._outcomes) and not self._decides_again:
            self._decides_again = True
            self._loop.call_later(_DECIDE_AGAIN_S, self._decide_again)

    def settle(self, disposition: Disposition) -> None:
        """Answer, store and ack, as far as the deliveries are of these connections; the others come again."""
        self.acknowledger.settle(disposition)

    def _decide_batch(self) -> None:
        # In one step of the interpreter: an exception that is late for its service comes between two, if it comes.
        self._outcomes.extend(starmap(self._posted.popleft, repeat((), len(self._posted))))
        self._in_hand, self._outcomes, self._jobs = (self._outcomes, self._jobs), [], []
        outcomes, jobs = self._in_hand
        if self._has_messages or self._overflow.waiting:
            self._has_messages = False
            jobs[:] = self._admit(jobs)
        if not (outcomes or jobs):
            self._in_hand = None
            return
        try:
            dispositions = self._dispatcher.decide(outcomes, jobs)
            if self.outage.reason:
                self.outage.over()
        except Exception as error:
            dispositions = self._not_decided(outcomes, jobs, error)
        self._decided.extend(dispositions)
        self._in_hand = None

    def _not_decided(self, outcomes: list[Outcome], jobs: list[Job], error: Exception) -> list[Disposition]:
        """What raises for one of them costs that one alone."""
        if isinstance(error, Damaged):
            self._give_up_journal(error)
            return self._dispatcher.end(outcomes)
        if isinstance(error, JournalUnavailable):
            # Acked now, a message that is finished would be run again after our death, or never.
            self.outage.failed(error)
            self._refused.warning(f"{error}; what arrives and what is finished waits")
            self._outcomes += outcomes
            return self.outage.hold(outcomes, jobs, self._dispatcher.held)
        ended: deque[Disposition] = deque()
        left: tuple[list[Outcome], list[Job]] = [], []
        self._dispatcher.interrupted.sort((outcomes[:], jobs[:]), ended, *left)
        alone: list[tuple[list[Outcome], list[Job]]] = [([outcome], []) for outcome in left[0]]
        for each in alone + [([], [job]) for job in left[1]]:
            ended += self._decide_alone(*each)
        return list(ended)

    def _decide_alone(self, outcomes: list[Outcome], jobs: list[Job]) -> list[Disposition]:
        try:
            return self._dispatcher.decide(outcomes, jobs)
        except JournalUnavailable as error:
            return self._not_decided(outcomes, jobs, error)
        except Exception as error:
            # The journal does not know its end: if it comes again, it is not run again.
            left = [job for job in jobs if not self._dispatcher.interrupted.has_begun(job)]
            return self._dispatcher.end(outcomes) + [self._dispatcher.give_up(job, error) for job in left]

    def _admit(self, jobs: list[Job]) -> list[Job]:
        """Those of *jobs* and of the overflow buffer that are decided now."""
        if self.begins_no_messages:
            return [job for job in jobs if job.incoming.kind is CALL]
        now = time.monotonic()
        try:
            admitted = self._overflow.admit(jobs, now)
            for job in self._overflow.take_excess(now):
                if (disposition := self._dispatcher.defer(job)) is not None:
                    self.settle(disposition)
        except Exception as error:  # those whose service is full are deferred
            self._loop.failures.report("the overflow buffer", error)
            return jobs
        return admitted

    def _decide_again(self) -> None:
        self._decides_again = False
        held, self._dispatcher.held = self._dispatcher.held, []
        self._jobs = held + self._jobs
        self._has_messages = True
        if self._jobs or self._outcomes:
            self._flush_later()

    def _give_up_journal(self, error: Damaged) -> None:
        if not self.is_damaged:
            self.is_damaged = True
            self._on_damaged(error)

    # -- housekeeping --------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        self._loop.call_later(_IDLE_TICK_S if self.is_idle else _TICK_S, self._tick)
        self._loop.guarded(self._on_tick)
        if self._overflow.waiting:
            self._flush_later()
        if self.outage.may_be_over:
            self.outage.over()
        try:
            self._dispatcher.tick()
        except Damaged as error:
            self._give_up_journal(error)
        except JournalUnavailable as error:
            self.outage.failed(error)
            self._refused.warning(str(error))
