"""InterruptedBatch: how far each request of a batch had come when the thread that decided the batch was interrupted.

A service may have a time limit set for its thread from outside (``PyThreadState_SetAsyncExc``). Such an exception can
come late, when the thread has left the service and turns the loop: between any two steps of ``Dispatcher.decide()``.
What was in hand must be neither lost nor done twice.
"""

from __future__ import annotations

from collections import deque

from servicebus.errors import JournalUnavailable
from servicebus.runtime.copy_store import CopyStore
from servicebus.runtime.job import DONE, Disposition, Job, Outcome
from servicebus.runtime.journal import Release
from servicebus.runtime.journal_outage import JournalNotes
from servicebus.runtime.retries import Retries
from servicebus.wire.envelope import CALL


class InterruptedBatch:
    """Belongs to the I/O thread.

    Args:
        running: the jobs that services have, by their ids.
    """

    def __init__(self, running: dict[str, Job], copies: CopyStore, notes: JournalNotes, retries: Retries):
        self._running = running
        self._copies = copies
        self._notes = notes
        self._retries = retries

    def sort(
        self,
        in_hand: tuple[list[Outcome], list[Job]],
        decided: deque[Disposition],
        outcomes: list[Outcome],
        jobs: list[Job],
    ) -> None:
        """Put what was *in_hand* where it belongs: its end is *decided*, or it is to be decided again, or has begun.

        What is decided again keeps its order, before what has come since: a service with one thread runs its requests
        in the order in which they came. It may be interrupted as well, and called again.
        """
        ended, came = in_hand
        while ended:
            end = self.end_of(ended[-1])
            if end is None:
                outcomes.insert(0, ended[-1])
            else:
                decided.append(end)
            ended.pop()
        while came:
            try:
                is_begun = self.has_begun(came[-1])
            except JournalUnavailable:
                is_begun = False
            if not is_begun:
                jobs.insert(0, came[-1])
            came.pop()

    def end_of(self, outcome: Outcome) -> Disposition | None:
        """What is done about *outcome*, whose end was decided; None if it was not."""
        job = outcome.job
        if self._running.get(job.incoming.id) is job:
            return None
        if outcome.result is DONE or outcome.is_final or job.incoming.kind is CALL:
            return Disposition(job.pending(), outcome.reply, None, job)
        kept = self._copies.kept(job)
        if kept is not None:
            return kept
        schedule = None if job.service is None else job.service.service.retry_schedule
        return self._copies.keep(self._retries.disposition(outcome, schedule), job)

    def has_begun(self, job: Job) -> bool:
        """Whether *job* waits for its end; if not it may be decided again, as if it had just come.

        Raises JournalUnavailable.
        """
        id = job.incoming.id
        running = self._running.get(id)
        if running is job and job.service is not None:
            if job.service.put_again(job):
                return True
            running = None
            del self._running[id]
        if running is None:
            if not self._copies.has(id):
                self._notes.add(id, Release.NOT_RUN)  # it may have been given to us, and to none of our services
                self._notes.tell()
            return False
        return job in running.pending()
