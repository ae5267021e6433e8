"""Dispatcher: decides what becomes of requests: a job -> the inbox of its service; an outcome -> a disposition.

Theory of operation. A delivery is *validated* (``validator.py``), and the requests that one read brought are *begun*
together, which costs the journal one row. What the journal knows of an id decides: its job is put into the inbox of its
service, joins the run under way, gets the stored answer, or is held because another worker of the node has it. When its
service has left it, the journal is told first: what is not written there was not done.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from servicebus.runtime.copy_store import CopyStore
from servicebus.runtime.interrupted_batch import InterruptedBatch
from servicebus.runtime.job import DONE, Copy, Disposition, Inbox, Job, JobResult, Outcome, dead_letter
from servicebus.runtime.journal import IdRecord, IdStatus, Journal, Lookup, Release, Start
from servicebus.runtime.journal_outage import JournalNotes, JournalOutage, reply_to
from servicebus.runtime.not_run import follow, full, may_be_passed_on, not_now
from servicebus.runtime.recent_ids import RecentIds
from servicebus.runtime.refusal_log import RefusalLog
from servicebus.runtime.retries import Retries
from servicebus.runtime.validator import ServiceKey, Validator
from servicebus.transport.loop import EventLoop
from servicebus.wire.envelope import CALL, MESSAGE, Kind
from servicebus.wire.fault import DEFECT, EXPIRED, INTERRUPTED, REFUSED, STOPPING, Fault, describe
from servicebus.wire.printable import counted

_FATAL_DEATHS = 3
"""A request that was running when its worker died, so often, is held responsible."""
_NEW = IdStatus.NEW
_EXECUTED = {kind: f"executed.{kind.value}" for kind in Kind}


class Dispatcher:
    """Every delivery ends in exactly one Disposition, now or when its service has finished. The I/O thread's."""

    def __init__(
        self,
        loop: EventLoop,
        services: Mapping[ServiceKey, Inbox],
        journal: Journal,
        host_name: str,
        retry_schedule: tuple[float, ...] = (),
    ):
        self.counters: Counter[str] = Counter()
        self.is_stopping = False
        self.running_calls = 0
        """How many of the unfinished are calls."""
        self.held: list[Job] = []
        """To be decided later: another worker of the node has their ids, or the journal could not be asked."""
        self.services = services
        """By kind and ``category.name``; former versions by ``former_key()``."""
        self._journal = journal
        self._retries = Retries(retry_schedule)
        self.refusals = RefusalLog(self.counters, host_name)
        self._refused = self.refusals.log
        self._failures = loop.failures
        self._running: dict[str, Job] = {}
        self.refused_calls = RecentIds()
        """Answered without a word to the journal, or as not run: busy, unknown service and the like."""
        self._cancelled_early = RecentIds()
        """A call and its cancellation come by different queues, so either may be first."""
        self._notes = JournalNotes(journal)
        self.validate = Validator(services, self.counters, self.refusals, self._failures).validate
        self.copies = CopyStore(loop, host_name, self.counters, self._notes)
        self.interrupted = InterruptedBatch(self._running, self.copies, self._notes, self._retries)
        self.outage = JournalOutage(self._running, self.counters, self._failures)

    def __repr__(self) -> str:
        return f"<Dispatcher running={len(self._running)} services={len(self.services)}>"

    @property
    def unfinished(self) -> int:
        return len(self._running)

    def is_running(self, job: Job) -> bool:
        return self._running.get(job.incoming.id) is job

    def cancel(self, id: str) -> bool:
        """The caller of call *id* has given up; False if it does not run here (yet)."""
        job = self._running.get(id)
        if job is None:
            self._cancelled_early.add(id)
            return False
        self._set_cancelled(job)
        return True

    def answered(self, ids: Sequence[str]) -> list[str]:
        """Which of the calls *ids* this node has answered, as far as is known here. Raises JournalUnavailable."""
        open_here = [id for id in ids if id not in self._running]
        finished = set(self._journal.finished(open_here)) if open_here and not self.outage.reason else set()
        return [id for id in open_here if id in finished or id in self.refused_calls]

    def look_up(self, ids: Sequence[str]) -> list[IdRecord | None]:
        return self._journal.look_up(ids)

    def _set_cancelled(self, job: Job) -> None:
        if job.incoming.kind is CALL:
            job.is_cancelled = True
            if job.on_cancel is not None:
                job.on_cancel(job)
            self.counters["cancelled"] += 1

    def tick(self) -> None:
        """Housekeeping of the journal. Raises JournalUnavailable."""
        self._journal.tick(time.time())
        self._notes.tell()

    def snapshot(self) -> dict[str, Any]:
        return {"unfinished": self.unfinished, **self.counters}

    # -- deciding ------------------------------------------------------------------------------------------------------

    def decide(self, outcomes: Sequence[Outcome], jobs: Sequence[Job]) -> list[Disposition]:
        """End the jobs that their services have left, and have *jobs* run, answered or held.

        Raises:
            JournalUnavailable: nothing has changed. With anything else some of it was done (``InterruptedBatch``).
        """
        # The journal first: an answer that it does not know might be given once, and the work be done twice.
        ends, starts = [], []
        for outcome in outcomes:
            if outcome.result is DONE or outcome.is_final:
                ends.append((outcome.job.incoming.id, outcome.reply))
        for job in jobs:
            incoming, service = job.incoming, job.service
            may_rerun = incoming.kind is MESSAGE or (service is not None and service.service.idempotent)
            starts.append(Start(incoming.id, incoming.expires_at, may_rerun, incoming.sent_ms / 1000))
        known = self._journal.update(ends, starts, time.time())
        dispositions = self.end(outcomes) if outcomes else []
        for job, what in zip(jobs, known, strict=True):
            disposition = self._begin(job, what) if what.status is _NEW else self._begun_before(job, what)
            if disposition is not None:
                dispositions.append(disposition)
        if self._notes.untold:
            self._notes.tell()
        return dispositions

    def defer(self, job: Job) -> Disposition | None:
        """A message that has not been begun makes room for others, and comes again in a moment."""
        return full(job, job.stamps.wait.attempts, self.counters)

    # What raises while one request is handled is a defect of ours, or of its content. It ends that request alone.

    def give_up(self, job: Job, error: Exception) -> Disposition:
        """What becomes of a request that could not be begun: a caller is told, a message is dead-lettered."""
        id, kind = job.incoming.id, job.incoming.kind
        self._failures.report(f"the begin of a {kind.value}", error)
        if self._running.get(id) is job:
            del self._running[id]
        is_another = id in self._running or self.copies.has(id)
        if kind is CALL:
            if not is_another:
                self._notes.add(id, Release.NOT_RUN)
            return _answer(job, Fault(REFUSED, f"{DEFECT}: {describe(error)}"))
        if is_another:
            return Disposition([])  # a copy of one under way: unacknowledged, it comes again with the next connection
        return self._dead_letter(
            job, dead_letter(DEFECT, f"it could not be begun: {describe(error)}", is_known_new=False)
        )

    def _give_up_outcome(self, outcome: Outcome, error: Exception) -> Disposition:
        """The same for one that its service has left, however far its end has come."""
        job = outcome.job
        self._failures.report(f"the end of a {job.incoming.kind.value}", error)
        if self._running.pop(job.incoming.id, None) is not None:
            self.running_calls -= job.incoming.kind is CALL
        if job.incoming.kind is CALL or outcome.result is DONE:
            return Disposition(job.pending(), outcome.reply)
        text = f"its end could not be decided: {describe(error)}"
        disposition = Disposition(job.pending(), None, dead_letter(DEFECT, text, attempts=job.attempts))
        return self.copies.keep(disposition, job)

    # -- what the journal knows ----------------------------------------------------------------------------------------

    def _begin(self, job: Job, known: Lookup) -> Disposition | None:
        """Put a job that is new to the journal into its inbox; returns what is done instead."""
        incoming, service = job.incoming, job.service
        if job.refusal is not None or service is None:
            return self._refuse(job)
        if (known.attempts > 1 or known.deaths) and (end := self._ended_by_its_past(job, known, service)) is not None:
            return end
        if (self.is_stopping or job.delivery.redelivered) and (fault := not_now(job, known, self.is_stopping)):
            # Asked after the journal: a copy of a call that runs here waits for its answer and must not run elsewhere.
            self._notes.add(incoming.id, Release.NOT_RUN)
            if may_be_passed_on(job):
                return follow(job, self.held, is_stopping=self.is_stopping)
            if any(each.incoming.id == incoming.id for each in self.held):
                self.held.append(job)  # behind the first copy, of which nothing can be said yet
                return None
            self.counters["stopping" if fault.type == STOPPING else "redelivered"] += 1
            return _answer(job, fault)
        # A message may have been run on another machine that has this node's name; only its copy tells.
        elsewhere = incoming.stamps.wait.attempts
        job.attempts = known.attempts if known.attempts > elsewhere else elsewhere + 1
        job.started = self._journal.starter(incoming.id)
        self._running[incoming.id] = job
        if incoming.id in self._cancelled_early:
            self._cancelled_early.discard(incoming.id)
            self._set_cancelled(job)
        if service.put(job):
            self.running_calls += incoming.kind is CALL
            return None
        del self._running[incoming.id]
        self._notes.add(incoming.id, Release.NOT_RUN)
        return full(job, elsewhere, self.counters)

    def _ended_by_its_past(self, job: Job, known: Lookup, service: Inbox) -> Disposition | None:
        """The end of a request that was begun before and must not be run once more."""
        if known.is_refused:
            # Run now, it might have its effect and stand among the dead letters.
            text = "refused before; whether that dead letter is stored is unknown"
            return self._dead_letter(job, dead_letter(REFUSED, text, is_known_new=False))
        if known.deaths >= _FATAL_DEATHS:
            return self._fatal(job, known)
        failed = known.attempts - known.deaths - 1
        if job.incoming.kind is MESSAGE and self._retries.is_over(failed, service.service.retry_schedule):
            # It was to be dead-lettered, and whether that copy is stored could not be known.
            return self._dead_letter(
                job, dead_letter("attempts", f"it failed {counted(failed, 'time')}", attempts=failed)
            )
        return None

    def _begun_before(self, job: Job, known: Lookup) -> Disposition | None:
        if known.status is IdStatus.RUNNING:
            return self._join(job)
        if known.status is IdStatus.FORGOTTEN:
            return self._forgotten(job)
        if known.status is IdStatus.INTERRUPTED:
            return self._interrupted(job, "its worker died while it ran; how far it came is unknown")
        return self._finished_before(job, known.answer)

    def _join(self, job: Job) -> Disposition | None:
        """Redelivered after a reconnect, or re-sent over a recovered path: it waits for the run under way.

        One that runs in another worker, or came before it is confirmed, is held until its deadline.
        """
        running = self._running.get(job.incoming.id)
        if running is None and (not self.copies.has(job.incoming.id) or self.copies.is_another(job)):
            if job.deadline is not None and time.monotonic() > job.deadline:
                return _answer(job, Fault(EXPIRED, "another worker of the node still runs it"))
            self.held.append(job)
            return None
        if running is job:
            return None
        self.counters["joined"] += 1
        if running is None:
            return self.copies.join(job)
        running.join(job)
        return None

    def _refuse(self, job: Job) -> Disposition | None:
        refusal = job.refusal
        if refusal is None or refusal.copy is None:
            self._notes.add(job.incoming.id, None)
            return refusal
        self._notes.add(job.incoming.id, Release.REFUSED)
        return self.copies.keep(refusal, job)

    def _forgotten(self, job: Job) -> Disposition | None:
        """It may have been run already: it is refused, by the words of an earlier refusal if there is one."""
        incoming = job.incoming
        if job.refusal is None:
            text = "the journal had to forget ids that were sent after it, so it may have been executed already"
            self.counters["refused.forgotten"] += 1
            self._refused.warning(f"{incoming.kind.value} {incoming.id} to {incoming.key} refused: forgotten: {text}")
            if incoming.kind is CALL:
                job.refusal = _answer(job, Fault(REFUSED, f"forgotten: {text}"))
            else:
                job.refusal = Disposition([job], None, dead_letter("forgotten", text, is_known_new=False))
        return self._refuse(job)

    def _fatal(self, job: Job, known: Lookup) -> Disposition:
        incoming = job.incoming
        text = f"it was running when its worker died, {counted(known.deaths, 'time')}"
        self._refused.warning(f"{incoming.kind.value} {incoming.id} to {incoming.key} is not run any more: {text}")
        if incoming.kind is CALL:
            self._notes.add(incoming.id, None)
            return self._interrupted(job, text)
        return self._dead_letter(job, dead_letter("killed-worker", text, attempts=known.attempts - 1))

    def _dead_letter(self, job: Job, copy: Copy) -> Disposition:
        return self.copies.keep(Disposition([job], None, copy), job)

    def _interrupted(self, job: Job, text: str) -> Disposition:
        self.counters[INTERRUPTED] += 1
        return _answer(job, Fault(INTERRUPTED, text))

    def _finished_before(self, job: Job, answer: bytes | None) -> Disposition:
        incoming = job.incoming
        self.counters["refused.replayed"] += 1
        if answer is None and incoming.kind is CALL:
            self._refused.warning(f"call {incoming.id} to {incoming.key} refused: replayed, and its answer is gone")
            text = "replayed: this id was executed already, and its answer is no longer stored"
            return _answer(job, Fault(REFUSED, text))
        return Disposition([job], answer, None, job)

    # -- ends ----------------------------------------------------------------------------------------------------------

    def end(self, outcomes: Sequence[Outcome]) -> list[Disposition]:
        """What is done about jobs that their services have left; the journal has been told of them."""
        dispositions: list[Disposition] = []
        for outcome in outcomes:
            try:
                job, kind = outcome.job, outcome.job.incoming.kind
                del self._running[job.incoming.id]
                self.running_calls -= kind is CALL
                if outcome.result is DONE:
                    self.counters[_EXECUTED[kind]] += 1
                    is_alone = job.joined is None and not job.is_answered
                    pending = [job] if is_alone else job.pending()
                    dispositions.append(Disposition(pending, outcome.reply, None, job))
                else:
                    dispositions += self._end_undone(outcome)
            except Exception as error:
                dispositions.append(self._give_up_outcome(outcome, error))
        return dispositions

    def _end_undone(self, outcome: Outcome) -> list[Disposition]:
        job, kind = outcome.job, outcome.job.incoming.kind
        self._count(outcome)
        if outcome.is_final:
            return [Disposition(job.pending(), outcome.reply, None, job)]
        if kind is CALL:
            # That a call was not run is said to each of its attempts: its Sender believes it of that one only.
            self._notes.add(job.incoming.id, Release.NOT_RUN)
            attempts = [(each, None if each is job else each.incoming) for each in job.pending()]
            return [Disposition([each], reply_to(outcome, attempt)) for each, attempt in attempts]
        schedule = None if job.service is None else job.service.service.retry_schedule
        return [self.copies.keep(self._retries.disposition(outcome, schedule), job)]

    def _count(self, outcome: Outcome) -> None:
        """Count one that was not executed to its end."""
        fault = outcome.fault
        if fault is not None and fault.type == REFUSED:
            self.counters[f"refused.{fault.text.partition(':')[0]}"] += 1
        elif outcome.result is JobResult.NOT_RUN and fault is not None:
            self.counters[fault.type] += 1
        else:
            self.counters[outcome.result.value] += 1


def _answer(job: Job, fault: Fault) -> Disposition:
    return Disposition([job], job.protocol.encode_fault(job.incoming, fault))
