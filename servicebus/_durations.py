"""One check for every time that a program passes to the public API or the command line."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

from servicebus.errors import DurationError

__all__ = ["LONGEST_S", "to_seconds"]

LONGEST_S = 100 * 366 * 24 * 3600.0
"""A hundred years. Longer times count as this one: clocks, locks and brokers cannot take any number."""


def to_seconds(name: str, value: Any, *, zero: bool = True) -> float:
    """*value* as a number of seconds, at most ``LONGEST_S``; *name* is the parameter that it was given for.

    Raises:
        DurationError: a ValueError. *value* is no number (a text, a bool, a ``timedelta``), or it is NaN, infinite or
            negative; with ``zero=False`` also if it is 0.
    """
    kind = type(value)
    if (kind is float or kind is int) and 0 <= value <= LONGEST_S and (value or zero):
        return value  # type: ignore[no-any-return]
    wanted = "a number of seconds, 0 or more" if zero else "a number of seconds above 0"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise DurationError(f"{name} must be {wanted}, not of type {kind.__name__}")
    try:
        number = float(value)
    except OverflowError:  # an int of more than 308 digits
        number = LONGEST_S if abs(value) == value else -LONGEST_S
    if not math.isfinite(number) or number < 0 or (number == 0 and not zero):
        raise DurationError(f"{name} must be {wanted}, not {number:g}")
    return min(number, LONGEST_S)
