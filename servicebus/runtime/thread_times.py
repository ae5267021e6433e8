"""What a thread did with a span of time: ran, waited, or got no processor."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

__all__ = ["ThreadTimes", "has_blocked", "times_of"]

_MOST_RUN = 0.75
_MOST_STARVED = 0.25
_MOST_LATE = 0.5
"""Shares of the span that is asked about."""


class ThreadTimes(NamedTuple):
    """A thread at one moment."""

    at: float
    """``time.monotonic()``."""
    ran_s: float = 0.0
    starved_s: float = 0.0
    """For how long it was ready to run and got no processor, without the wait that it is in."""
    is_ready: bool = False
    """It runs, or would if it got a processor."""


def times_of(thread_id: int | None) -> ThreadTimes:
    """By the number that the system has for the thread; without times where the system does not tell."""
    now, task = time.monotonic(), Path(f"/proc/self/task/{thread_id}")
    try:
        ran_ns, starved_ns = map(int, (task / "schedstat").read_text().split()[:2])
        state = (task / "stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, LookupError, ValueError):
        return ThreadTimes(now)
    return ThreadTimes(now, ran_ns / 1e9, starved_ns / 1e9, state == "R")


def has_blocked(before: ThreadTimes, after: ThreadTimes, span_s: float) -> bool:
    """Whether the thread's own code took *span_s* in between: it ran nearly all the time, or waited for something.

    Not if it got no processor, nor if we were woken late ourselves: then the thread that holds the interpreter's lock
    may have got none, and all others wait for it.
    """
    if after.ran_s - before.ran_s >= _MOST_RUN * span_s:
        return True
    if after.is_ready or after.starved_s - before.starved_s >= _MOST_STARVED * span_s:
        return False
    return after.at - before.at - span_s < _MOST_LATE * span_s
