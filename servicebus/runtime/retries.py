"""Retries: whether a message that its service did not finish waits for another attempt, or goes to the dead letters."""

from __future__ import annotations

from servicebus.policy.retry_schedule import DELAY_TIERS_S, next_delay
from servicebus.runtime.job import Copy, Disposition, JobResult, Outcome, dead_letter, later_attempt
from servicebus.runtime.journal import Release
from servicebus.wire.fault import REFUSED, Fault


class Retries:
    """Decides by the retry schedule of each service.

    Args:
        default_schedule: for services that name none.
    """

    def __init__(self, default_schedule: tuple[float, ...]):
        self._default = default_schedule

    def disposition(self, outcome: Outcome, retry_schedule: tuple[float, ...] | None) -> Disposition:
        """What becomes of the message; its copy is to be stored before anything is acked.

        Args:
            retry_schedule: the service's own; None for the default.
        """
        job = outcome.job
        if outcome.result is JobResult.REQUEUE:
            copy, release = later_attempt(DELAY_TIERS_S[0], job.attempts - 1), Release.NOT_RUN
            return Disposition(job.pending(), None, copy, job, release)
        delay_s = self.delay_s(outcome, retry_schedule)
        if delay_s is None:
            return Disposition(job.pending(), None, _dead_letter(outcome), job)
        return Disposition(job.pending(), None, later_attempt(delay_s, job.attempts), job, Release.FAILED)

    def is_over(self, failed: int, retry_schedule: tuple[float, ...] | None) -> bool:
        """After so many failed attempts there should have been no further one."""
        return failed > len(self._default if retry_schedule is None else retry_schedule)

    def delay_s(self, outcome: Outcome, retry_schedule: tuple[float, ...] | None) -> float | None:
        """Seconds until the next attempt; None if there is none."""
        if outcome.result is JobResult.REQUEUE:
            return float(DELAY_TIERS_S[0])
        if outcome.result not in (JobResult.FAILED, JobResult.RETRY):
            return None
        scheduled_s = next_delay(self._default if retry_schedule is None else retry_schedule, outcome.job.attempts)
        if scheduled_s is None or outcome.retry_after_s is None:
            return scheduled_s
        return outcome.retry_after_s


def _dead_letter(outcome: Outcome) -> Copy:
    fault = outcome.fault or Fault(outcome.result.value, "")
    attempts = outcome.job.attempts - (outcome.result is JobResult.NOT_RUN)
    if fault.type == REFUSED:
        reason, _, detail = fault.text.partition(": ")
        return dead_letter(reason, detail, attempts=attempts)
    return dead_letter(fault.type, fault.text, fault.trace or "", attempts)
