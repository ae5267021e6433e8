"""Reports: what the workers of one place of the master have counted, those that have ended included.

A worker sends *entries* beside its heartbeats, one for each thing that it counts. The counts of a worker that has ended
stay, so that the sum of several workers never falls: Prometheus would take that for a start from 0.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from itertools import zip_longest
from typing import Any, NamedTuple

from servicebus.transport.udp import DatagramHandler

__all__ = ["Entry", "Reports", "log_records_lost", "summed"]

_MOST_ENTRIES = 10_000


class Entry(NamedTuple):
    """What is counted of one thing; plain values, as JSON has them."""

    section: str
    """``service``, ``client``, ``link`` and the like."""
    key: str
    """Which one of them; "" where there is but one."""
    counts: dict[str, Any]
    """Numbers that only grow, and dicts and lists of such."""
    now: dict[str, Any]
    """How it is now; void when the worker has ended."""


class Reports:
    """Belongs to the master's thread."""

    def __init__(self) -> None:
        self._now: dict[tuple[str, str], Entry] = {}
        """Of the worker that lives, or lived last."""
        self._past: dict[tuple[str, str], Entry] = {}

    def __repr__(self) -> str:
        return f"<Reports {len(self._now)} entries>"

    def take(self, told: Any) -> None:
        """What the worker says; anything but an entry is ignored, since a service may write into the same pipe."""
        match told:
            case [str() as section, str() as key, dict() as counts, dict() as now]:
                if len(self._now) < _MOST_ENTRIES or (section, key) in self._now:
                    self._now[section, key] = Entry(section, key, counts, now)

    def ended(self) -> None:
        """The worker has ended: its counts stay."""
        self._past = summed([*self._past.values(), *(each._replace(now={}) for each in self._now.values())])
        self._now = {}

    def entries(self) -> list[Entry]:
        """All that was counted here, and how the living worker is now."""
        return [*self._past.values(), *self._now.values()]


def summed(entries: Iterable[Entry]) -> dict[tuple[str, str], Entry]:
    """One entry for each thing, with the sums of what was counted of it."""
    found: dict[tuple[str, str], Entry] = {}
    for entry in entries:
        at = entry.section, entry.key
        before = found.get(at)
        if before is not None:
            entry = Entry(*at, _added(before.counts, entry.counts), _added(before.now, entry.now))
        found[at] = entry
    return found


def _added(first: Any, second: Any) -> Any:
    """The sum of two values of one form; where the forms differ, the first one."""
    if isinstance(first, dict) and isinstance(second, dict):
        return {
            name: _added(first[name], second[name]) if name in first and name in second else {**second, **first}[name]
            for name in {**first, **second}
        }
    if isinstance(first, list) and isinstance(second, list):
        return [_added(each, other) for each, other in zip_longest(first, second, fillvalue=0)]
    is_number = all(isinstance(each, (int, float)) for each in (first, second))
    return first + second if is_number else first


def log_records_lost() -> int:
    """How many log records of this process were dropped before the log server had them."""
    handlers = [each for each in logging.getLogger().handlers if isinstance(each, DatagramHandler)]
    return sum(handler.counters["dropped"] for handler in handlers)
