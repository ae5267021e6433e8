"""Pace: when the next step of a load is due, whatever the one before cost; what an outage cost is caught up, slowly."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

__all__ = ["Pace"]

_CATCH_UP = 1.5
"""At most so many times the pace, until the schedule is kept again."""


class Pace:
    """Yields *per_s* times a second until *stopping* is set."""

    def __init__(self, per_s: float, stopping: threading.Event):
        self._gap_s = 1.0 / per_s
        self._stopping = stopping

    def __iter__(self) -> Iterator[int]:
        count = 0
        started = time.monotonic()
        earliest = started
        while True:
            now = time.monotonic()
            due = max(started + count * self._gap_s, earliest)
            if due > now and self._stopping.wait(due - now):
                return
            if self._stopping.is_set():
                return
            earliest = max(due, now) + self._gap_s / _CATCH_UP
            yield count
            count += 1
