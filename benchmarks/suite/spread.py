"""Several measurements of one thing: the median, and from where to where they went."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

NOT_MEASURED = "not measured"
NO_SUCH = "-"
"""In the cell of a peer that does not have what the column is about."""


@dataclass(frozen=True)
class Spread:
    """What the rounds gave."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread | None:
        """The spread of those that were measured; None if none was."""
        measured = [value for value in values if value is not None]
        if not measured:
            return None
        return cls(statistics.median(measured), min(measured), max(measured), len(measured))

    def __str__(self) -> str:
        if self.count == 1:
            return number(self.median)
        return f"{number(self.median)} ({number(self.low)} to {number(self.high)})"


def number(value: float) -> str:
    """Three digits that count, or all that stand before the point."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3g}"


def cell(spread: Spread | None) -> str:
    """For a table."""
    return NOT_MEASURED if spread is None else str(spread)


def ratio(ours: Spread | None, theirs: Spread | None) -> float | None:
    """Of the medians."""
    return None if ours is None or theirs is None or not theirs.median else ours.median / theirs.median


def times(ours: Spread | None, theirs: Spread | None) -> str:
    """The ratio, for a table."""
    found = ratio(ours, theirs)
    return NOT_MEASURED if found is None else f"{found:.2f}"
