"""The delay tiers on which messages wait: one durable delay queue each, and a longer or odd delay is reached in hops.

In the queue of one tier all messages wait equally long, so none waits behind one that waits longer.
"""

from __future__ import annotations

DELAY_TIERS_S = (1, 5, 30, 120, 600)


def tier_for(remaining_s: float) -> int:
    """The longest tier that does not overshoot; the shortest for less than that."""
    return max((tier for tier in DELAY_TIERS_S if tier <= remaining_s), default=DELAY_TIERS_S[0])


def hold_s(tier: int, remaining_s: float) -> float:
    """How long a message that arrived in *tier* stays there before it is due, or goes on to another one."""
    return max(0.0, min(float(tier), remaining_s))


def next_delay(retry_schedule: tuple[float, ...], attempts: int) -> float | None:
    """Seconds until the next attempt after *attempts* have failed; None when there is none."""
    return retry_schedule[attempts - 1] if 0 < attempts <= len(retry_schedule) else None
