"""The rungs on which messages wait: one durable delay queue each, and a longer or odd delay is climbed in hops.

Within one rung's queue everybody waits equally long, so nobody waits behind somebody who waits for longer.
"""

from __future__ import annotations

RUNGS_S = (1, 5, 30, 120, 600)


def rung_for(remaining_s: float) -> int:
    """The longest rung that does not overshoot; the shortest for less than that."""
    return max((rung for rung in RUNGS_S if rung <= remaining_s), default=RUNGS_S[0])


def hold_s(rung: int, remaining_s: float) -> float:
    """How long a message that arrived in *rung* stays there before it is due, or goes on to another one."""
    return max(0.0, min(float(rung), remaining_s))


def next_delay(ladder: tuple[float, ...], attempts: int) -> float | None:
    """Seconds until the next attempt after *attempts* have failed; None when there is none."""
    return ladder[attempts - 1] if 0 < attempts <= len(ladder) else None
