"""Thresholds of monitoring plugins: what was measured, the range in which it is well, and what that comes to.

Ranges are written as the Monitoring Plugins Development Guidelines say: ``10`` is 0 to 10, ``10:`` from 10 on, ``~:10``
up to 10, ``10:20`` between them, ``@10:20`` outside of them. A value outside of its range is an alert.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum

__all__ = ["Measured", "Range", "Ranges", "Severity", "worst"]


class Severity(IntEnum):
    """The exit status of a plugin."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


@dataclass(frozen=True)
class Range:
    """Where a value is well."""

    lowest: float
    highest: float
    is_outside: bool = False
    """A value is well outside of it."""
    text: str = ""

    @classmethod
    def parse(cls, text: str) -> Range:
        """Raises ValueError: *text* is none."""
        bare = text.removeprefix("@")
        first, _, last = bare.rpartition(":")
        lowest = -math.inf if first == "~" else float(first or 0)
        highest = float(last) if last else math.inf
        if not (first or last) or math.isnan(lowest + highest) or lowest > highest:
            raise ValueError(text)
        return cls(lowest, highest, bare != text, text)

    def holds(self, value: float) -> bool:
        """Whether *value* is well."""
        return (self.lowest <= value <= self.highest) != self.is_outside


@dataclass(frozen=True)
class Ranges:
    """The ranges of one measure; None for no alert."""

    warn: Range | None = None
    critical: Range | None = None


@dataclass(frozen=True)
class Measured:
    """A value of one measure."""

    name: str
    value: float
    broker: str = ""
    """Of which broker it is; "" for the whole."""
    unit: str = ""
    """``s`` for seconds, ``c`` for what is only ever counted up."""
    why: str = ""
    """More about a value that is not well."""

    @property
    def label(self) -> str:
        return f"{self.name} {self.broker}" if self.broker else self.name

    def severity(self, limits: Mapping[str, Ranges]) -> Severity:
        """By its ranges."""
        found = limits.get(self.name, Ranges())
        if found.critical is not None and not found.critical.holds(self.value):
            return Severity.CRITICAL
        if found.warn is not None and not found.warn.holds(self.value):
            return Severity.WARNING
        return Severity.OK


def worst(severities: Iterable[Severity]) -> Severity:
    """CRITICAL before UNKNOWN before WARNING: what is known to be broken must not hide behind what is not known."""
    order = (Severity.OK, Severity.WARNING, Severity.UNKNOWN, Severity.CRITICAL)
    return max(severities, key=order.index, default=Severity.OK)
