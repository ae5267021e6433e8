"""Latencies: how long many things took, for percentiles."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["PERCENTILES", "Latencies"]

PERCENTILES = (50.0, 90.0, 99.0, 99.9)
_STEPS = 64
_SHORTEST_S = 1e-9


class Latencies:
    """A histogram whose buckets are narrow everywhere. Not for several threads at once.

    As in an HDR histogram, each power of two has the same number of buckets: a percentile is at most 1.6 % too high,
    whether it is 50 us or 50 s, and a million samples take no more memory than a thousand.
    """

    __slots__ = ("_buckets", "count", "longest_s", "sum_s")

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self.count = 0
        self.longest_s = 0.0
        self.sum_s = 0.0

    def __repr__(self) -> str:
        return f"<Latencies {self.count}, longest {self.longest_s:.6f} s>"

    def add(self, seconds: float) -> None:
        """Count one that took *seconds*."""
        mantissa, exponent = math.frexp(max(seconds, _SHORTEST_S))  # the mantissa is from 0.5 to below 1
        bucket = exponent * _STEPS + int((2 * mantissa - 1) * _STEPS)
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1
        self.count += 1
        self.sum_s += seconds
        self.longest_s = max(self.longest_s, seconds)

    def merge(self, other: Latencies) -> None:
        """Count all of *other*, too."""
        for bucket, count in other._buckets.items():
            self._buckets[bucket] = self._buckets.get(bucket, 0) + count
        self.count += other.count
        self.sum_s += other.sum_s
        self.longest_s = max(self.longest_s, other.longest_s)

    def percentile(self, percent: float) -> float:
        """Seconds that *percent* of all did not exceed (nearest rank, the upper bound of its bucket); 0 of none."""
        rank = max(1, math.ceil(self.count * percent / 100))
        for bucket in sorted(self._buckets):
            rank -= self._buckets[bucket]
            if rank <= 0:
                exponent, step = divmod(bucket, _STEPS)
                return min(math.ldexp(0.5 + (step + 1) / (2 * _STEPS), exponent), self.longest_s)
        return 0.0

    def report(self) -> dict[str, Any]:
        """``count``, ``p50_ms``, ``p90_ms``, ``p99_ms``, ``p99.9_ms`` and ``longest_ms``."""
        found = {f"p{percent:g}_ms": round(self.percentile(percent) * 1000, 3) for percent in PERCENTILES}
        return {"count": self.count, **found, "longest_ms": round(self.longest_s * 1000, 3)}
