"""What a worker does while the journal can be neither asked nor told, for example because its disk is full.

What came in waits; callers are told why when that takes long. A call that has been run is answered at once, and so are
its copies: should this worker die before it can note the end, the journal still knows that the call was started, and
no worker runs it again. Only the end waits to be noted. A message waits entirely: its ack would let go of it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence

from servicebus.errors import JournalUnavailable
from servicebus.protocol.interface import Incoming
from servicebus.runtime.job import Disposition, Job, Outcome
from servicebus.runtime.journal import Journal, Release
from servicebus.transport.failurelog import FailureLog
from servicebus.wire.envelope import CALL
from servicebus.wire.fault import BUSY, Fault

__all__ = ["JournalNotes", "JournalOutage", "reply_to"]

_HOLD_S = 1.0
"""A worker that is frozen while it writes, or a slow disk, passes sooner: calls wait for that."""
_LINGER_S = 5.0
_RETRY_MS = 500


class JournalNotes:
    """Releases of ids, and ends without an answer, that the journal has not been told yet. Belongs to the I/O thread.

    ``untold`` has them in order: the id, and why it may come again; None if it is done with.
    """

    def __init__(self, journal: Journal):
        self._journal = journal
        self.untold: list[tuple[str, Release | None]] = []

    def __repr__(self) -> str:
        return f"<JournalNotes {len(self.untold)} untold>"

    def add(self, id: str, why: Release | None) -> None:
        self.untold.append((id, why))

    def tell(self) -> None:
        """Tell the journal, if it can be told now. As long as it cannot, copies of these ids are held."""
        for why in (None, *Release) if self.untold else ():
            ids = [id for id, reason in self.untold if reason is why]
            if not ids:
                continue
            try:
                if why is None:
                    self._journal.finish_many([(id, None) for id in ids], time.time())
                else:
                    self._journal.release_many(ids, why)
            except JournalUnavailable:
                return
            self.untold = [entry for entry in self.untold if entry[1] is not why]


class JournalOutage:
    """Belongs to the I/O thread; ``reason`` is for all threads.

    Args:
        running: the dispatcher's jobs, by id.
    """

    def __init__(self, running: Mapping[str, Job], counters: Counter[str], failures: FailureLog) -> None:
        self.reason = ""
        """Why it cannot be asked, as far as we know; empty if it can."""
        self._since = self._last = 0.0
        self._running = running
        self._counters = counters
        self._failures = failures

    def __repr__(self) -> str:
        return f"<JournalOutage {self.reason!r}>"

    def failed(self, error: JournalUnavailable) -> None:
        self._last = time.monotonic()
        if not self.reason:
            self._since = self._last
        self.reason = str(error)

    def over(self) -> None:
        self.reason = ""

    @property
    def may_be_over(self) -> bool:
        """Nothing has failed for a while."""
        return bool(self.reason) and time.monotonic() - self._last >= _LINGER_S

    def hold(self, outcomes: Sequence[Outcome], jobs: Sequence[Job], held: list[Job]) -> list[Disposition]:
        """What is done at once. All *outcomes*, and what is added to *held*, are to be tried again."""
        is_long = time.monotonic() - self._since >= _HOLD_S
        ran = {each.job.incoming.id: each for each in outcomes if each.job.incoming.kind is CALL}
        dispositions: list[Disposition] = []
        for outcome in ran.values():
            self._answer(outcome, dispositions)
        for job in jobs:
            is_call = job.incoming.kind is CALL and job.refusal is None
            copied = ran.get(job.incoming.id) if is_call else None
            if copied is not None:
                self._answer_copy(copied, job, dispositions)
            elif not is_long or self._is_to_wait(job):
                held.append(job)
            else:
                self._decline(job, dispositions)
        return dispositions

    def _decline(self, job: Job, dispositions: list[Disposition]) -> None:
        self._counters["busy"] += 1
        try:
            reply = job.protocol.encode_fault(job.incoming, Fault(BUSY, self.reason, retry_after_ms=_RETRY_MS))
            dispositions.append(Disposition([job], reply))
        except Exception as error:
            self._failures.report("a reply", error)

    def _answer(self, outcome: Outcome, dispositions: list[Disposition]) -> None:
        job = outcome.job
        pending = job.pending()
        # Of a lost connection's deliveries the broker delivers again what it has not seen acked.
        job.is_answered, job.joined = True, None
        for each in pending:
            attempt = None if each is job else each.incoming
            try:
                dispositions.append(Disposition([each], reply_to(outcome, attempt), job=job))
            except Exception as error:
                self._failures.report("a reply", error)

    def _answer_copy(self, outcome: Outcome, copy: Job, dispositions: list[Disposition]) -> None:
        self._counters["joined"] += 1
        try:
            dispositions.append(Disposition([copy], reply_to(outcome, copy.incoming), job=outcome.job))
        except Exception as error:
            self._failures.report("a reply", error)

    def _is_to_wait(self, job: Job) -> bool:
        """A message, another attempt of what runs here, a request that has an end of its own, or one that a lost worker
        may have run: only the journal tells that it was not."""
        id, is_call = job.incoming.id, job.incoming.kind is CALL
        has_end = job.refusal is not None or job.on_full is not None
        return not is_call or id in self._running or has_end or job.delivery.redelivered


def reply_to(outcome: Outcome, attempt: Incoming | None) -> bytes | None:
    """What *attempt* is answered; None: the one that ran. That it was not run is believed of one attempt only."""
    if attempt is None or outcome.is_final or outcome.fault is None or outcome.reply is None:
        return outcome.reply
    return outcome.job.protocol.encode_fault(attempt, outcome.fault)
