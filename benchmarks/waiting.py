"""Waiting for conditions, and telling how far a long run has come."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator

_TELL_EVERY_S = 20.0


def until(condition: Callable[[], bool], what: str, limit_s: float = 60.0) -> float:
    """Wait for *condition*; returns how long it took.

    Raises:
        TimeoutError: it did not come true within *limit_s*.
    """
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > limit_s:
            raise TimeoutError(f"waited {limit_s:g} s in vain: {what}")
        time.sleep(0.005)
    return time.monotonic() - started


def counted(name: str, count: int) -> Iterator[int]:
    """1 to *count*, with its progress on stderr: on a terminal all the time, elsewhere in a line now and then."""
    started = told_at = time.monotonic()
    for number in range(1, count + 1):
        yield number
        now = time.monotonic()
        text = f"{name} {number}/{count}, {now - started:.0f} s"
        if sys.stderr.isatty():
            print(f"\r\033[K{text}" + "\n" * (number == count), end="", file=sys.stderr, flush=True)
        elif now - told_at > _TELL_EVERY_S or number == count:
            told_at = now
            print(text, file=sys.stderr, flush=True)
