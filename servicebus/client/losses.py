"""Losses: what a broker has cost the requests that were on their way over it."""

from __future__ import annotations

from collections import Counter
from typing import Any

__all__ = ["Losses"]


class Losses:
    """Of one link, which stays over all its connections. Belongs to the engine's thread; any other may read."""

    def __init__(self) -> None:
        self.resends: Counter[str] = Counter()
        """Requests that came back, by the reason, one of a few words."""
        self.failovers = 0
        """Those that went on over another broker."""
        self.seconds = 0.0
        """For how long all of them had been on their way."""

    def __repr__(self) -> str:
        return f"<Losses {dict(self.resends)} failovers={self.failovers} {self.seconds:.3f} s>"

    def came_back(self, reason: str, published_at: float | None, now: float) -> None:
        self.resends[reason] += 1
        self.seconds += 0.0 if published_at is None else now - published_at

    def status(self) -> dict[str, Any]:
        return {"resends": dict(self.resends), "failovers": self.failovers, "lost_s": round(self.seconds, 3)}
