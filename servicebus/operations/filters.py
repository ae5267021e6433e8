"""Which dead letters an operator means, and how ages and rates are written. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase

from servicebus.operations.dead_letter import DeadLetter, RequeueStatus

__all__ = ["Filter", "parse_age", "parse_rate", "show_age"]

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_AGE = re.compile(r"(?:\d{1,9}(?:\.\d{1,9})?[smhdw])+", re.ASCII)
_PART = re.compile(r"([\d.]+)([smhdw])", re.ASCII)
_RATE = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(?:/([smh]))?", re.ASCII)

SLOWEST_PER_S = 0.01
"""Slower, and the current dead letter would be held for longer than the broker allows."""


def parse_age(text: str) -> float:
    """Seconds in ``90s``, ``15m``, ``2h``, ``1d12h``. Raises ValueError that says how ages are written."""
    if not _AGE.fullmatch(text):
        raise ValueError(f"{text!r} is no age; write 90s, 15m, 2h, 3d or 1h30m")
    return sum(float(number) * _UNITS_S[unit] for number, unit in _PART.findall(text))


def parse_rate(text: str) -> float:
    """Dead letters a second in ``10/s``, ``90/m``, ``500/h`` or ``10``. Raises ValueError."""
    found = _RATE.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no rate; write 10/s, 90/m or 500/h")
    per_s = float(found[1]) / _UNITS_S[found[2] or "s"]
    if per_s < SLOWEST_PER_S:
        raise ValueError(f"{text!r} is too slow; the slowest rate is {SLOWEST_PER_S * 3600:g}/h")
    return per_s


def show_age(age_s: float | None) -> str:
    """An age in its two largest units, as ``parse_age`` reads it; "?" for None."""
    if age_s is None:
        return "?"
    rest = int(age_s)
    parts: list[tuple[int, str]] = []
    for unit in ("d", "h", "m", "s"):
        count, rest = divmod(rest, _UNITS_S[unit])
        if count or parts:
            parts.append((count, unit))
    shown = [f"{count}{unit}" for count, unit in parts[:2] if count]
    return "".join(shown) or "0s"


@dataclass(frozen=True, slots=True)
class Filter:
    """Every condition that is given must hold; of several ids, services or reasons one is enough."""

    ids: frozenset[str] = frozenset()
    services: tuple[str, ...] = ()
    """``category.name`` with the wildcards ``*``, ``?`` and ``[]``."""
    reasons: tuple[str, ...] = ()
    youngest_s: float | None = None
    """Dead-lettered at least so long ago."""
    oldest_s: float | None = None
    """Dead-lettered at most so long ago."""
    until: int | None = None
    """Dead-lettered in this second at the latest, in Unix time of the worker that has signed it."""
    statuses: frozenset[RequeueStatus] = frozenset()
    """What would become of it if it went back; judged where the secrets are, by ``DeadLetters``."""

    @property
    def is_empty(self) -> bool:
        """No condition: every dead letter matches."""
        return self == Filter()

    def matches(self, letter: DeadLetter, now: float) -> bool:
        """Whether *letter* matches. One without a time is older than everything."""
        age_s = letter.age_s(now)
        return (
            (not self.ids or letter.id in self.ids)
            and (not self.services or any(fnmatchcase(letter.service, pattern) for pattern in self.services))
            and (not self.reasons or any(fnmatchcase(letter.reason, pattern) for pattern in self.reasons))
            and (self.youngest_s is None or age_s is None or age_s >= self.youngest_s)
            and (self.oldest_s is None or (age_s is not None and age_s <= self.oldest_s))
            and (self.until is None or letter.time <= self.until)
        )
