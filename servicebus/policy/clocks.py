"""The clock by which a node judges the deadlines of calls."""

from __future__ import annotations

import time

_TOLERANCE_MS = 100
"""A call from the future by less is taken for one of now: no two machines have clocks that are closer for certain."""


class SteadyClock:
    """Unix time that a step of the machine's clock does not move, unless it is longer than *longest_step_s*.

    If the clock was set back while a network held requests up, they would seem to have been on their way for so much
    shorter. But a clock that was wrong when the machine started must not stay wrong.
    """

    def __init__(self, longest_step_s: float) -> None:
        self._longest_ms = longest_step_s * 1000
        self._epoch_s = time.time() - time.monotonic()

    def now_ms(self, wall_ms: int) -> int:
        """Now, where the machine's clock says *wall_ms*."""
        steady_s = time.monotonic()
        now_ms = int((steady_s + self._epoch_s) * 1000)
        if abs(wall_ms - now_ms) > self._longest_ms:
            self._epoch_s = wall_ms / 1000 - steady_s
            return wall_ms
        return now_ms


def remaining_s(sent_ms: int, ttl_ms: int, now_ms: int) -> float:
    """For how long a call is good; 0 or below for one that is too late, or of which that cannot be known.

    That is one from the future. How much of the difference is its Sender's clock, and how much its way took, only the
    Sender can find out: it is told the time of the node, and dates its next attempt by it. To take the difference for
    the clocks' alone would let a call run late by as long as its way took.
    """
    ahead_ms = sent_ms - now_ms
    if ahead_ms > _TOLERANCE_MS:
        return 0.0
    return (ttl_ms + ahead_ms if ahead_ms < 0 else ttl_ms) / 1000
