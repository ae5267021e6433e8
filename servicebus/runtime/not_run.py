"""Faults that say that a call was not run, and that its Sender is to send it again, under the same id."""

from __future__ import annotations

from servicebus.runtime.execution import NOT_READY_RETRY_MS
from servicebus.runtime.job import Inbox, Job
from servicebus.runtime.journal import Lookup
from servicebus.wire.envelope import CALL
from servicebus.wire.fault import BUSY, STOPPING, Fault

__all__ = ["full", "not_now"]

_RETRY_MS = 50


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


def full(key: str, inbox: Inbox | None) -> Fault:
    """The service *key* takes no call just now."""
    if inbox is not None and inbox.problem:
        return Fault(BUSY, inbox.problem, retry_after_ms=NOT_READY_RETRY_MS)
    return Fault(BUSY, f"the inbox of {key} is full", retry_after_ms=_RETRY_MS)
