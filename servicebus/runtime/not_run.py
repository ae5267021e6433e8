"""What becomes of a request that is not run now: its Sender sends it again, under the same id, or it comes again."""

from __future__ import annotations

import time
from collections import Counter

from servicebus.protocol.held import HeldProtocol
from servicebus.runtime.execution import NOT_READY_RETRY_MS
from servicebus.runtime.job import Copy, Disposition, Job, later_attempt
from servicebus.runtime.journal import Lookup
from servicebus.wire.envelope import CALL, MESSAGE
from servicebus.wire.fault import BUSY, STOPPING, Fault

__all__ = ["follow", "full", "may_be_passed_on", "not_now"]

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


def may_be_passed_on(job: Job) -> bool:
    """Whether a worker that was lost may have passed *job* on, to the one that runs its service, a singleton.

    Then nothing can be said of it here: the copy may be run yet.
    """
    inbox = job.service
    if inbox is None or inbox.common_queue is None:
        return False
    return job.delivery.redelivered and not isinstance(job.protocol, HeldProtocol)


def follow(job: Job, held: list[Job], *, is_stopping: bool) -> Disposition | None:
    """What becomes of a call that ``may_be_passed_on()``: it follows its copy, in the same queue.

    It says there that it was delivered again. Whoever gets it has had the copy before, so that what the journal knows
    then holds: the answer if that was run, and if it knows nothing, that the call was not run.
    """
    inbox = job.service
    if inbox is not None and inbox.common_queue:
        return Disposition([job], None, Copy(0, queue=inbox.common_queue))
    if job.deadline is not None and time.monotonic() > job.deadline:
        return Disposition([job])
    if not is_stopping:  # else it goes to another worker, with the connection
        held.append(job)  # until the queue is declared
    return None


def full(job: Job, attempts: int, counters: Counter[str]) -> Disposition | None:
    """What becomes of *job*, whose service does not take it now; *attempts* were made before."""
    incoming, inbox = job.incoming, job.service
    elsewhere = "" if inbox is None else inbox.elsewhere
    if not elsewhere:
        counters["busy"] += not incoming.is_patient
    if job.on_full is not None and (elsewhere or inbox is None or inbox.common_queue is None):
        job.on_full()
        return None
    if elsewhere:
        return Disposition([job], None, None if job.is_cancelled else Copy(attempts, queue=elsewhere))
    if incoming.is_patient or incoming.kind is MESSAGE:
        return Disposition([job], None, later_attempt(DEFERRED_S, attempts, is_deferred=True))
    fault = Fault(BUSY, f"the inbox of {incoming.key} is full", retry_after_ms=_RETRY_MS)
    if inbox is not None and inbox.problem:
        fault = Fault(BUSY, inbox.problem, retry_after_ms=NOT_READY_RETRY_MS)
    return Disposition([job], job.protocol.encode_fault(incoming, fault))
