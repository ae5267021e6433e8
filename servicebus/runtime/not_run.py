"""What becomes of a request that is not run now: its Sender sends it again, under the same id, or it comes again."""

from __future__ import annotations

from servicebus.runtime.execution import NOT_READY_RETRY_MS
from servicebus.runtime.job import Copy, Disposition, Job, later_attempt
from servicebus.runtime.journal import Lookup
from servicebus.wire.envelope import CALL, MESSAGE
from servicebus.wire.fault import BUSY, STOPPING, Fault

__all__ = ["full", "not_now"]

_RETRY_MS = 50
DEFERRED_S = 1.0


def not_now(job: Job, known: Lookup, is_stopping: bool) -> Fault | None:
    """Why *job*, whose id is new to the journal, is not run; None if it is run.

    A call that is delivered again may have been answered as not run, by a worker that was lost before the broker had
    its ack. Its caller may have ended with that, and then nothing is sent again. Not so a call to an idempotent
    service that ran as its worker died, nor one of version 1, whose sender cannot send it again.
    """
    if job.incoming.kind is not CALL:
        return None
    if is_stopping:
        return Fault(STOPPING, "the agent is stopping")
    if known.deaths or job.incoming.is_patient:
        return None
    return Fault(BUSY, "delivered again, because a worker was lost that had not run it", retry_after_ms=_RETRY_MS)


def full(job: Job, attempts: int) -> Disposition:
    """What becomes of *job*, whose service does not take it now; *attempts* were made before."""
    incoming, inbox = job.incoming, job.service
    if inbox is not None and inbox.elsewhere:
        return Disposition([job], None, Copy(attempts, queue=inbox.elsewhere))
    if incoming.is_patient or incoming.kind is MESSAGE:
        return Disposition([job], None, later_attempt(DEFERRED_S, attempts, is_deferred=True))
    fault = Fault(BUSY, f"the inbox of {incoming.key} is full", retry_after_ms=_RETRY_MS)
    if inbox is not None and inbox.problem:
        fault = Fault(BUSY, inbox.problem, retry_after_ms=NOT_READY_RETRY_MS)
    return Disposition([job], job.protocol.encode_fault(incoming, fault))
