"""The shape of a curve: flat, linear or other, and where it breaks. Pure.

A point is what a call cost when there were x of something. Flat is what stays within a tolerance of its middle; linear
is ``a + b x`` that no point misses by more than the tolerance. The tolerance is 15 %, or more where the rounds of a
point differ by more than that: noise is not to become a shape.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.suite.spread import Spread, number

TOLERANCE = 0.15
_WIDEST = 0.5

Points = Sequence[tuple[float, Spread]]


@dataclass(frozen=True)
class Shape:
    """What `shape` found.

    Args:
        kind: "flat", "linear", "other", or "unknown" with fewer than two points.
        breaks_at: the first x at which the curve is no longer flat, or at which nothing worked any more; None if it
            holds all the way.
        times: what the last point costs in the first one's.
        slope: of a linear one, what one more x costs.
    """

    kind: str
    breaks_at: float | None = None
    times: float = 1.0
    slope: float = 0.0
    failed_at: float | None = None

    def text(self, unit: str = "us") -> str:
        """As people say it."""
        said = {
            "flat": "flat",
            "linear": f"linear, {number(self.slope)} {unit} more for each",
            "other": "neither flat nor linear",
            "unknown": "unknown: too few points",
        }[self.kind]
        if self.kind in ("linear", "other") and self.breaks_at is not None:
            said += f"; flat below {number(self.breaks_at)}"
        if self.kind in ("linear", "other"):
            said += f"; {number(self.times)} times the first at the end"
        return said if self.failed_at is None else f"{said}; fails at {number(self.failed_at)}"


def shape(points: Points, failed: Sequence[float] = ()) -> Shape:
    """The shape of *points*, in ascending order of x; *failed* are the x at which it did not work."""
    failed_at = min(failed, default=None)
    if len(points) < 2:
        return Shape("unknown", failed_at=failed_at)
    tolerance = tolerance_of(points)
    ys = [spread.median for _, spread in points]
    times = ys[-1] / ys[0]
    breaks_at = _leaves_flat_at(points, tolerance)
    if _is_flat(ys, tolerance):
        return Shape("flat", None, times, failed_at=failed_at)
    a, b = fit([(x, spread.median) for x, spread in points])
    if b > 0 and all(abs(a + b * x - y) <= tolerance * y for (x, _), y in zip(points, ys, strict=True)):
        return Shape("linear", breaks_at, times, b, failed_at)
    return Shape("other", breaks_at, times, failed_at=failed_at)


def tolerance_of(points: Points) -> float:
    """15 %, or as much as the rounds of a typical point lie from their middle; never more than a half."""
    noise = statistics.median((spread.high - spread.low) / 2 / spread.median for _, spread in points)
    return min(_WIDEST, max(TOLERANCE, noise))


def fit(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """``a`` and ``b`` of ``a + b x`` with the least squares of the relative errors.

    Relative, since a curve over six powers of ten would else be decided by its last point alone.
    """
    weights = [1 / y**2 for _, y in points]
    total = math.fsum(weights)
    mean_x = math.fsum(w * x for w, (x, _) in zip(weights, points, strict=True)) / total
    mean_y = math.fsum(w * y for w, (_, y) in zip(weights, points, strict=True)) / total
    spread = math.fsum(w * (x - mean_x) ** 2 for w, (x, _) in zip(weights, points, strict=True))
    if spread == 0:
        return mean_y, 0.0
    b = math.fsum(w * (x - mean_x) * (y - mean_y) for w, (x, y) in zip(weights, points, strict=True)) / spread
    return mean_y - b * mean_x, b


def _is_flat(ys: Sequence[float], tolerance: float) -> bool:
    middle = (max(ys) + min(ys)) / 2
    return max(ys) - middle <= tolerance * middle


def _leaves_flat_at(points: Points, tolerance: float) -> float | None:
    for count in range(2, len(points) + 1):
        if not _is_flat([spread.median for _, spread in points[:count]], tolerance):
            return points[count - 1][0]
    return None
