"""Better, worse, or not to be told: what pairs of measurements say. Pure.

Each round yields one ratio: how much worse ours is than theirs. Half of the rounds lie in its middle half. If that
lies beyond the limit, it is worse; if it lies before, it is not. If the limit is in its middle, the median decides as
long as the middle half is narrow; else the rounds differ so much that nothing can be said.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

LIMIT = 1.10
NARROW = 0.10
FEWEST = 4


class Result(Enum):
    FINE = "fine"
    WORSE = "WORSE"
    UNSURE = "unsure"


@dataclass(frozen=True)
class Finding:
    """Of one figure; more than 1 is worse."""

    name: str
    median: float
    low: float
    high: float
    result: Result

    def text(self) -> str:
        said = f"{self.median:.2f} (half of the rounds: {self.low:.2f} to {self.high:.2f})"
        if self.result is Result.UNSURE:
            return f"{said}: the rounds differ too much to tell"
        return said


def judge(name: str, times_worse: Sequence[float]) -> Finding:
    """What the rounds say of one figure."""
    if len(times_worse) < FEWEST:
        middle = statistics.median(times_worse) if times_worse else 1.0
        return Finding(name, middle, min(times_worse, default=1.0), max(times_worse, default=1.0), Result.UNSURE)
    low, median, high = statistics.quantiles(times_worse, n=4, method="inclusive")
    return Finding(name, median, low, high, _result_of(low, median, high))


def _result_of(low: float, median: float, high: float) -> Result:
    if low > LIMIT:
        return Result.WORSE
    if high <= LIMIT:
        return Result.FINE
    if high - low > NARROW:
        return Result.UNSURE
    return Result.WORSE if median > LIMIT else Result.FINE


def exit_status(findings: Sequence[Finding]) -> int:
    """1 if anything is worse, 2 if that cannot be told of everything, 0 if all is fine."""
    results = {finding.result for finding in findings}
    if Result.WORSE in results:
        return 1
    return 2 if Result.UNSURE in results else 0
