"""Backoff: how long to wait before the next attempt."""

from __future__ import annotations

import random


class Backoff:
    """Exponential delays with full jitter: each is drawn from 0 to the current ceiling, which doubles up to a cap.

    Full jitter, because agents that lost the same broker at the same moment must not come back at the same moment.
    """

    def __init__(self, first_s: float = 0.2, cap_s: float = 15.0, rng: random.Random | None = None):
        self._first_s = first_s
        self._cap_s = cap_s
        self._rng = rng or random.Random()
        self._attempts = 0

    def __repr__(self) -> str:
        return f"<Backoff attempts={self._attempts} cap_s={self._cap_s}>"

    @property
    def attempts(self) -> int:
        return self._attempts

    def next_s(self, cap_s: float | None = None) -> float:
        """The next delay in seconds; *cap_s* lowers the cap for this one attempt."""
        cap = self._cap_s if cap_s is None else min(cap_s, self._cap_s)
        ceiling = min(cap, self._first_s * 2.0 ** min(self._attempts, 30))
        self._attempts += 1
        return self._rng.uniform(0.0, ceiling)

    def reset(self) -> None:
        self._attempts = 0


UNREACHABLE_CAP_S = 1.0
"""Ceiling for brokers that refuse the connection or do not answer the SYN: such an attempt costs the broker nothing.
An agent that waited up to 15 s here would be unavailable for that long after its broker is back."""


def cap_for(kind: str) -> float | None:
    """The ceiling that fits the kind of a ConnectFailed: only attempts that cost the broker work are made rare."""
    return UNREACHABLE_CAP_S if kind in ("refused", "unreachable", "silent", "closed") else None
