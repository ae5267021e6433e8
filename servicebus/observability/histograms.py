"""Histogram and Outcomes: counts in fixed places, cheap enough for the path of a call."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

__all__ = ["BOUNDS_S", "OTHER", "Histogram", "Outcomes", "quantile_s"]

BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""The upper bounds of the buckets, in seconds; one more bucket holds what took longer."""
OTHER = "_other"
"""The label of what has none of its own, because there would be too many."""
_MOST_OUTCOMES = 24
_NAME_CHARS = 48


class Histogram:
    """How long things took. One thread may add at a time; any may read."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0

    def __repr__(self) -> str:
        return f"<Histogram of {sum(self.counts)}, {self.sum_s:.3f} s>"

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS_S, seconds)] += 1
        self.sum_s += seconds

    def report(self) -> dict[str, Any]:
        return {"buckets": [*self.counts], "sum_s": round(self.sum_s, 6)}

    def used(self) -> list[int]:
        """The buckets up to the last one that counts something."""
        counts = [*self.counts]
        while counts and not counts[-1]:
            counts.pop()
        return counts


class Outcomes:
    """How often something ended in which way. The names of exceptions are the program's: so many have a count each."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<Outcomes {self.counts}>"

    def add(self, name: str) -> None:
        name = name[:_NAME_CHARS]
        count = self.counts.get(name)
        if count is None:
            name = name if len(self.counts) < _MOST_OUTCOMES else OTHER
            count = self.counts.get(name, 0)
        self.counts[name] = count + 1

    def report(self) -> dict[str, int]:
        return dict(self.counts)


def quantile_s(buckets: Sequence[int], share: float) -> float | None:
    """How long *share* (0 to 1) of what *buckets* count took at most; None if they count nothing.

    An estimate, as Prometheus makes it: times are taken to lie evenly within their bucket, and what took longer than
    the last bound to have taken that.
    """
    rank, below = share * sum(buckets), 0
    for number, count in enumerate(buckets):
        if count and below + count >= rank:
            if number >= len(BOUNDS_S):
                break
            lowest = BOUNDS_S[number - 1] if number else 0.0
            return lowest + (BOUNDS_S[number] - lowest) * (rank - below) / count
        below += count
    return BOUNDS_S[-1] if any(buckets) else None
