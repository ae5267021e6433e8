"""Retries: whether a message that its service did not finish waits for another attempt, or goes to the dead letters."""

from __future__ import annotations

from servicebus.policy.ladder import RUNGS_S, next_delay
from servicebus.runtime.job import Burial, Outcome, Postponement, Settlement, Verdict
from servicebus.runtime.journal import Release
from servicebus.wire.fault import REFUSED, Fault


class Retries:
    """Decides by the ladder of each service; pure but for the ladder that holds where a service names none."""

    def __init__(self, default_ladder: tuple[float, ...]):
        self._default = default_ladder

    def settlement(self, outcome: Outcome, ladder: tuple[float, ...] | None) -> Settlement:
        """What becomes of the message; its copy is to be stored before anything is acked.

        Args:
            ladder: the service's own; None for the default.
        """
        job = outcome.job
        if outcome.verdict is Verdict.REQUEUE:
            again = Postponement(RUNGS_S[0], job.attempts - 1)
            return Settlement(job.claims, postponement=again, release=Release.NOT_RUN)
        delay_s = self.delay_s(outcome, ladder)
        if delay_s is None:
            return Settlement(job.claims, burial=_burial(outcome))
        return Settlement(job.claims, postponement=Postponement(delay_s, job.attempts), release=Release.FAILED)

    def is_over(self, failed: int, ladder: tuple[float, ...] | None) -> bool:
        """After so many failed attempts there should have been no further one."""
        return failed > len(self._default if ladder is None else ladder)

    def delay_s(self, outcome: Outcome, ladder: tuple[float, ...] | None) -> float | None:
        """Seconds until the next attempt; None if there is none."""
        if outcome.verdict is Verdict.REQUEUE:
            return float(RUNGS_S[0])
        if outcome.verdict not in (Verdict.FAILED, Verdict.RETRY):
            return None
        by_ladder = next_delay(self._default if ladder is None else ladder, outcome.job.attempts)
        if by_ladder is None or outcome.retry_after_s is None:
            return by_ladder
        return outcome.retry_after_s


def _burial(outcome: Outcome) -> Burial:
    fault = outcome.fault or Fault(outcome.verdict.value, "")
    attempts = outcome.job.attempts - (outcome.verdict is Verdict.NOT_RUN)
    if fault.type == REFUSED:
        reason, _, detail = fault.text.partition(": ")
        return Burial(reason, detail, attempts=attempts)
    return Burial(fault.type, fault.text, fault.trace or "", attempts)
