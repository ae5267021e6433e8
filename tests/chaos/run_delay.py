"""RunDelay: how long this process's threads waited for a processor that others had, as the kernel counts it."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

__all__ = ["RunDelay"]


class RunDelay:
    """For one thread, which asks again and again."""

    def __init__(self) -> None:
        self._before, self._asked_at = _delays_s(), time.monotonic()

    def waited_s(self) -> float:
        """How long since this was asked last: all threads together, as each may hold the interpreter that the next one
        waits for, and never longer than the time that has passed. What they did themselves does not count."""
        now, asked_at = _delays_s(), time.monotonic()
        waited_s = sum(delay_s - self._before.get(thread, 0.0) for thread, delay_s in now.items())
        passed_s = asked_at - self._asked_at
        self._before, self._asked_at = now, asked_at
        return min(waited_s, passed_s)


def _delays_s() -> dict[str, float]:
    """By thread, the seconds in which it was ready to run and did not."""
    found = {}
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError, IndexError):
            found[thread.name] = int((thread / "schedstat").read_text().split()[1]) / 1e9
    return found
