"""Dispatcher: delivery -> the inbox of its service; outcome -> what the broker is told. The I/O thread's own.

Theory of operation. A delivery is *received* (``reception.py``), and all that one read brought is *begun* together,
which costs the journal one row. What the journal says of an id decides: it is put into the inbox of its service, joins
the run under way, gets the stored answer, or is held because another worker of the node has it. When its service has
left it, the journal is told before anybody else: what is not written there was not done.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from servicebus.runtime.holding import Holding, Turned, reply_to
from servicebus.runtime.job import DONE, Burial, Job, Outcome, Postponement, Settlement, Verdict
from servicebus.runtime.journal import Journal, Known, Release, Standing
from servicebus.runtime.journal_notes import JournalNotes
from servicebus.runtime.reception import Arrival, Reception, ServiceKey
from servicebus.runtime.retries import Retries
from servicebus.runtime.service_thread import ServiceThread
from servicebus.transport.failurelog import FailureLog
from servicebus.transport.loggers import get_logger
from servicebus.transport.ratelimitedlog import RateLimitedLog
from servicebus.wire.envelope import CALL, MESSAGE, Kind
from servicebus.wire.fault import BUSY, DEFECT, EXPIRED, INTERRUPTED, REFUSED, STOPPING, Fault, describe

LOG = get_logger(__name__)

_BUSY_RETRY_MS = 50
_FATAL_DEATHS = 3
"""A request that was running when its worker died, so often, is held responsible."""
_ASIDE_S = 1.0
_NEW = Standing.NEW
_EXECUTED = {kind: f"executed.{kind.value}" for kind in Kind}


class Dispatcher:
    """Every delivery ends in exactly one Settlement, now or when its service has finished."""

    def __init__(
        self,
        services: Mapping[ServiceKey, ServiceThread],
        journal: Journal,
        host_name: str,
        retry_schedule: tuple[float, ...] = (),
        failures: FailureLog | None = None,
    ):
        self.counters: Counter[str] = Counter()
        self.is_stopping = False
        self._services = services
        self._journal = journal
        self._retries = Retries(retry_schedule)
        self._refused = RateLimitedLog(LOG, host_name)
        self._failures = failures or FailureLog(host_name)
        self.receive = Reception(services, self.counters, self._refused, self._failures).receive
        self.running_calls = 0
        """How many of the unfinished are calls."""
        self._running: dict[str, Job] = {}
        self.hold = Holding(self._running, self.counters, self._failures).hold
        self._storing: dict[str, Settlement] = {}
        """Left by their services; the broker has not confirmed the copy that has to be stored before the ack."""
        self._notes = JournalNotes(journal)

    def __repr__(self) -> str:
        return f"<Dispatcher running={len(self._running)} services={len(self._services)}>"

    @property
    def unfinished(self) -> int:
        return len(self._running)

    def is_running(self, job: Job) -> bool:
        return self._running.get(job.incoming.id) is job

    def has_service(self, kind: Kind, name: str) -> bool:
        """*name* is ``category.name``."""
        return (kind, name) in self._services

    def cancel(self, id: str) -> bool:
        """Nobody waits for call *id* any more; False if it does not run here."""
        job = self._running.get(id)
        if job is not None and job.incoming.kind is CALL:
            job.is_cancelled = True
            self.counters["cancelled"] += 1
        return job is not None

    # -- out -----------------------------------------------------------------------------------------------------------

    def turn(self, outcomes: Sequence[Outcome], arrivals: Sequence[Arrival]) -> Turned:
        """Settle jobs that their services have left, and have *arrivals* run, answered or held.

        Raises:
            JournalUnavailable: nothing has changed.
        """
        # The journal first: an answer that it does not know might be given once, and the work be done twice.
        ends = [(each.job.incoming.id, each.reply) for each in outcomes if each.is_final] if outcomes else []
        starts = [arrival.start for arrival in arrivals] if arrivals else []
        known = self._journal.turn(ends, starts, time.time())
        turned = Turned(self.settle(outcomes) if outcomes else [], [])
        for arrival, what in zip(arrivals, known, strict=True):
            try:
                self._admit(arrival, what, turned)
            except Exception as error:
                turned.settlements.append(self.give_up(arrival, error))
        if self._notes:
            self._notes.tell()
        return turned

    def settle(self, outcomes: Sequence[Outcome]) -> list[Settlement]:
        """What is to be done about jobs that their services have left. ``turn()`` tells the journal before."""
        settlements = []
        for outcome in outcomes:
            try:
                settlements.append(self._settlement(outcome))
                if outcome.fault is not None and outcome.reply is not None and not outcome.is_final:
                    settlements += _verdicts_of_their_own(outcome)
            except Exception as error:
                settlements.append(self._give_up_outcome(outcome, error))
        return settlements

    # What raises while one request is handled is a defect of ours, or of what it carries. It ends that request alone.

    def give_up(self, arrival: Arrival, error: Exception) -> Settlement:
        """What becomes of a request that could not be begun: a caller is told, a message is buried."""
        incoming = arrival.incoming
        self._failures.report(f"the begin of a {incoming.kind.value}", error)
        job = self._running.get(incoming.id)
        if job is not None and any(claim is arrival.claim for claim in job.claims[:1]):
            del self._running[incoming.id]
        is_another = incoming.id in self._running or incoming.id in self._storing
        if incoming.kind is CALL:
            if not is_another:
                self._notes.add(incoming.id, Release.NOT_RUN)
            return self._answer(arrival, Fault(REFUSED, f"{DEFECT}: {describe(error)}"))
        if is_another:
            return Settlement()  # a copy of one under way: unacknowledged, it comes again with the next connection
        return self._bury(arrival, Burial(DEFECT, f"it could not be begun: {describe(error)}", is_known_new=False))

    def _give_up_outcome(self, outcome: Outcome, error: Exception) -> Settlement:
        """The same for one that its service has left, however far its end has come."""
        job = outcome.job
        self._failures.report(f"the end of a {job.incoming.kind.value}", error)
        self._running.pop(job.incoming.id, None)
        if job.incoming.kind is CALL or outcome.verdict is Verdict.DONE:
            return Settlement(job.claims, outcome.reply)
        text = f"what becomes of it could not be told: {describe(error)}"
        return self._store(job, Settlement(job.claims, burial=Burial(DEFECT, text, attempts=job.attempts)))

    def stored(self, settlement: Settlement) -> None:
        """The copy that *settlement* asks for is stored."""
        job = settlement.job
        if job is not None and self._storing.pop(job.incoming.id, None) is not None:
            self._notes.add(job.incoming.id, settlement.release)
            self._notes.tell()

    def give_up_storing(self, generation: int | None) -> None:
        """Of copies that were published before *generation* nobody can know whether they are stored; None for all.

        If the original had come to this worker again, it would have joined. It may stand with another worker, which
        holds it for as long as we have the id: it is another attempt then.
        """
        for id, settlement in list(self._storing.items()):
            if settlement.storing_in != generation:
                del self._storing[id]
                self._notes.add(id, settlement.release or Release.FAILED)
        self._notes.tell()

    def tick(self) -> None:
        """Let the journal keep its house. Raises JournalUnavailable."""
        self._journal.tick(time.time())
        self._notes.tell()

    # -- what the journal knows ----------------------------------------------------------------------------------------

    def _admit(self, arrival: Arrival, known: Known, turned: Turned) -> None:
        if known.standing is _NEW:
            settlement = self._run(arrival, known)
        elif known.standing is Standing.RUNNING:
            if self._is_elsewhere(arrival, turned):
                return
            settlement = self._join(arrival)
        elif known.standing is Standing.FORGOTTEN:
            settlement = self._forgotten(arrival)
        elif known.standing is Standing.INTERRUPTED:
            settlement = self._interrupted(arrival, "its worker died while it ran; how far it came is unknown")
        else:
            settlement = self._finished_before(arrival, known.answer)
        if settlement is not None:
            turned.settlements.append(settlement)

    def _is_elsewhere(self, arrival: Arrival, turned: Turned) -> bool:
        """It runs in another worker, or came before it is confirmed: it is held, for as long as somebody waits."""
        id = arrival.incoming.id
        if id in self._running or (id in self._storing and not self._is_copy(arrival)):
            return False
        if arrival.deadline is not None and time.monotonic() > arrival.deadline:
            turned.settlements.append(self._answer(arrival, Fault(EXPIRED, "another worker of the node still runs it")))
        else:
            turned.held.append(arrival)
        return True

    def _is_copy(self, arrival: Arrival) -> bool:
        """Whether it is another message than the one whose copy is being stored: most often that copy itself.

        The broker may deliver it sooner than it confirms it, as the two go over different connections. Joined, it would
        be acked together with the original, and nothing would be left.
        """
        original = self._storing[arrival.incoming.id].claims[0]
        return arrival.claim.stamps.wait != original.stamps.wait

    def _run(self, arrival: Arrival, known: Known) -> Settlement | None:
        incoming, service = arrival.incoming, arrival.service
        if arrival.refusal is not None or service is None:
            return self._turn_down(arrival)
        if known.is_refused:
            # Run now, it might have its effect and stand among the dead letters.
            text = "refused before; whether that dead letter is stored is unknown"
            return self._bury(arrival, Burial(REFUSED, text, is_known_new=False))
        if known.deaths >= _FATAL_DEATHS:
            return self._fatal(arrival, known)
        failed = known.attempts - known.deaths - 1
        if incoming.kind is MESSAGE and self._retries.is_over(failed, service.service.retry_schedule):
            # It was to be buried, and whether its dead letter is stored could not be known.
            burial = Burial("attempts", f"it failed {failed} times", attempts=failed)
            return self._bury(arrival, burial)
        if self.is_stopping and incoming.kind is CALL:
            # Asked after the journal: a copy of a call that runs here waits for its answer and must not run elsewhere.
            self._notes.add(incoming.id, Release.NOT_RUN)
            self.counters["stopping"] += 1
            return self._answer(arrival, Fault(STOPPING, "the agent is stopping"))
        job = Job(incoming, arrival.protocol, arrival.claim, arrival.deadline)
        # A message may have been run on another machine that has this node's name; only its copy tells.
        elsewhere = incoming.stamps.wait.attempts
        job.attempts = known.attempts if known.attempts > elsewhere else elsewhere + 1
        job.started = self._journal.starter(incoming.id)
        self._running[incoming.id] = job
        if service.put(job):
            self.running_calls += incoming.kind is CALL
            return None
        del self._running[incoming.id]
        self._notes.add(incoming.id, Release.NOT_RUN)
        return self._full(arrival, elsewhere)

    def turn_away(self, arrival: Arrival) -> Settlement:
        """A message that has not been begun makes room for others, and comes again in a moment."""
        return self._full(arrival, arrival.incoming.stamps.wait.attempts)

    def _full(self, arrival: Arrival, attempts: int) -> Settlement:
        incoming = arrival.incoming
        if incoming.is_patient or incoming.kind is MESSAGE:
            self.counters["busy"] += not incoming.is_patient
            aside = Postponement(_ASIDE_S, attempts)
            return Settlement([arrival.claim], postponement=aside, is_full=True, on_full=arrival.on_full)
        self.counters["busy"] += 1
        return self._answer(arrival, Fault(BUSY, f"the inbox of {incoming.key} is full", retry_after_ms=_BUSY_RETRY_MS))

    def _join(self, arrival: Arrival) -> Settlement | None:
        """Redelivered after a reconnect, or re-sent over a recovered path: it waits for the run under way."""
        self.counters["joined"] += 1
        job = self._running.get(arrival.incoming.id)
        if job is not None:
            arrival.claim.joined = arrival.incoming
            job.claims.append(arrival.claim)
            return None
        settlement = self._storing[arrival.incoming.id]
        settlement.claims.append(arrival.claim)
        return settlement

    def _turn_down(self, arrival: Arrival) -> Settlement | None:
        refusal = arrival.refusal
        if refusal is None or refusal.burial is None:
            self._notes.add(arrival.incoming.id, None)
            return refusal
        self._notes.add(arrival.incoming.id, Release.REFUSED)
        return self._store(Job(arrival.incoming, arrival.protocol, arrival.claim, None), refusal)

    def _forgotten(self, arrival: Arrival) -> Settlement | None:
        """It may have been run already: it is refused, by the words of an earlier refusal if there is one."""
        incoming = arrival.incoming
        if arrival.refusal is None:
            text = "the journal had to forget ids that were sent after it, so it may have been executed already"
            self.counters["refused.forgotten"] += 1
            self._refused.warning(f"{incoming.kind.value} {incoming.id} to {incoming.key} refused: forgotten: {text}")
            if incoming.kind is CALL:
                arrival.refusal = self._answer(arrival, Fault(REFUSED, f"forgotten: {text}"))
            else:
                arrival.refusal = Settlement([arrival.claim], burial=Burial("forgotten", text, is_known_new=False))
        return self._turn_down(arrival)

    def _fatal(self, arrival: Arrival, known: Known) -> Settlement:
        incoming = arrival.incoming
        text = f"it was running when its worker died, {known.deaths} times"
        self._refused.warning(f"{incoming.kind.value} {incoming.id} to {incoming.key} is not run any more: {text}")
        if incoming.kind is CALL:
            self._notes.add(incoming.id, None)
            return self._interrupted(arrival, text)
        return self._bury(arrival, Burial("killed-worker", text, attempts=known.attempts - 1))

    def _bury(self, arrival: Arrival, burial: Burial) -> Settlement:
        job = Job(arrival.incoming, arrival.protocol, arrival.claim, None)
        return self._store(job, Settlement(job.claims, burial=burial))

    def _interrupted(self, arrival: Arrival, text: str) -> Settlement:
        self.counters[INTERRUPTED] += 1
        return self._answer(arrival, Fault(INTERRUPTED, text))

    def _finished_before(self, arrival: Arrival, answer: bytes | None) -> Settlement:
        incoming = arrival.incoming
        self.counters["refused.replayed"] += 1
        if answer is None and incoming.kind is CALL:
            self._refused.warning(f"call {incoming.id} to {incoming.key} refused: replayed, and its answer is gone")
            text = "replayed: this id was executed already, and its answer is no longer stored"
            return self._answer(arrival, Fault(REFUSED, text))
        job = Job(incoming, arrival.protocol, arrival.claim, None)
        return Settlement(job.claims, answer, job=job)

    # -- ends ----------------------------------------------------------------------------------------------------------

    def _settlement(self, outcome: Outcome) -> Settlement:
        job = outcome.job
        del self._running[job.incoming.id]
        self.running_calls -= job.incoming.kind is CALL
        self._count(outcome)
        if outcome.is_final:
            return Settlement(job.claims, outcome.reply, None, None, job)
        if job.incoming.kind is CALL:
            self._notes.add(job.incoming.id, Release.NOT_RUN)
            return Settlement(job.claims, outcome.reply)
        service = self._services[MESSAGE, job.incoming.key].service
        return self._store(job, self._retries.settlement(outcome, service.retry_schedule))

    def _store(self, job: Job, settlement: Settlement) -> Settlement:
        """Nothing is acked, and the id does not come free, before the copy is stored."""
        settlement.job = job
        self._storing[job.incoming.id] = settlement
        return settlement

    def _answer(self, arrival: Arrival, fault: Fault) -> Settlement:
        return Settlement([arrival.claim], arrival.protocol.encode_fault(arrival.incoming, fault))

    def _count(self, outcome: Outcome) -> None:
        fault = outcome.fault
        if outcome.verdict is DONE:
            self.counters[_EXECUTED[outcome.job.incoming.kind]] += 1
        elif fault is not None and fault.type == REFUSED:
            self.counters[f"refused.{fault.text.partition(':')[0]}"] += 1
        elif outcome.verdict is Verdict.NOT_RUN and fault is not None:
            self.counters[fault.type] += 1
        else:
            self.counters[outcome.verdict.value] += 1

    def snapshot(self) -> dict[str, Any]:
        return {"unfinished": self.unfinished, **self.counters}


def _verdicts_of_their_own(outcome: Outcome) -> list[Settlement]:
    """That a call was not run is said to each of its attempts: its Sender believes it of that one only."""
    claims = outcome.job.claims
    joined = [claim for claim in claims if claim.joined is not None]
    claims[:] = [claim for claim in claims if claim.joined is None]
    return [Settlement([claim], reply_to(outcome, claim.joined)) for claim in joined]
