"""Retries: whether a message that its service did not finish waits for another attempt, or goes to the dead letters."""

from __future__ import annotations

from servicebus.policy.retry_schedule import DELAY_TIERS_S, next_delay
from servicebus.runtime.job import Burial, Outcome, Postponement, Settlement, Verdict
from servicebus.runtime.journal import Release
from servicebus.wire.fault import REFUSED, Fault


class Retries:
    """Decides by the retry schedule of each service.

    Args:
        default_schedule: for services that name none.
    """

    def __init__(self, default_schedule: tuple[float, ...]):
        self._default = default_schedule

    def settlement(self, outcome: Outcome, retry_schedule: tuple[float, ...] | None) -> Settlement:
        """What becomes of the message; its copy is to be stored before anything is acked.

        Args:
            retry_schedule: the service's own; None for the default.
        """
        job = outcome.job
        if outcome.verdict is Verdict.REQUEUE:
            again = Postponement(DELAY_TIERS_S[0], job.attempts - 1)
            return Settlement(job.claims, postponement=again, release=Release.NOT_RUN)
        delay_s = self.delay_s(outcome, retry_schedule)
        if delay_s is None:
            return Settlement(job.claims, burial=_burial(outcome))
        return Settlement(job.claims, postponement=Postponement(delay_s, job.attempts), release=Release.FAILED)

    def is_over(self, failed: int, retry_schedule: tuple[float, ...] | None) -> bool:
        """After so many failed attempts there should have been no further one."""
        return failed > len(self._default if retry_schedule is None else retry_schedule)

    def delay_s(self, outcome: Outcome, retry_schedule: tuple[float, ...] | None) -> float | None:
        """Seconds until the next attempt; None if there is none."""
        if outcome.verdict is Verdict.REQUEUE:
            return float(DELAY_TIERS_S[0])
        if outcome.verdict not in (Verdict.FAILED, Verdict.RETRY):
            return None
        scheduled_s = next_delay(self._default if retry_schedule is None else retry_schedule, outcome.job.attempts)
        if scheduled_s is None or outcome.retry_after_s is None:
            return scheduled_s
        return outcome.retry_after_s


def _burial(outcome: Outcome) -> Burial:
    fault = outcome.fault or Fault(outcome.verdict.value, "")
    attempts = outcome.job.attempts - (outcome.verdict is Verdict.NOT_RUN)
    if fault.type == REFUSED:
        reason, _, detail = fault.text.partition(": ")
        return Burial(reason, detail, attempts=attempts)
    return Burial(fault.type, fault.text, fault.trace or "", attempts)
