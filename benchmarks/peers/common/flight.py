"""Many calls in flight: pending ones in one thread, or a thread for each."""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from common.load import ANSWER

STRAGGLE_S = 6.0
"""How long threads may go on afterwards before their calls count as stuck."""


class Stuck(Exception):
    """Some calls did not come back; carries how many did, and how many did not."""


def in_threads(callers: Sequence[Callable[[], Any]], seconds: float) -> int:
    """Each of *callers* makes calls in a thread of its own; returns how many were answered."""
    counts, errors = [0] * len(callers), []
    deadline = time.perf_counter() + seconds

    def work(index: int, call: Callable[[], Any]) -> None:
        try:
            while time.perf_counter() < deadline:
                check(call())
                counts[index] += 1
        except BaseException as error:  # told below, in the main thread
            errors.append(error)

    threads = [threading.Thread(target=work, args=each, daemon=True) for each in enumerate(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline + STRAGGLE_S - time.perf_counter()))
    if errors:
        raise SystemExit(f"{len(errors)} of {len(callers)} threads failed, first: {errors[0]!r}")
    stuck = sum(thread.is_alive() for thread in threads)
    if stuck:
        raise Stuck(sum(counts), stuck)
    return sum(counts)


def in_window(start: Callable[[], Any], finish: Callable[[Any], Any], seconds: float, width: int) -> int:
    """Keeps *width* calls pending: ``start()`` gives one, ``finish(pending)`` its answer; the oldest first."""
    deadline, count = time.perf_counter() + seconds, 0
    pending = collections.deque(start() for _ in range(width))
    while pending:
        check(finish(pending.popleft()))
        count += 1
        if time.perf_counter() < deadline:
            pending.append(start())
    return count


def check(answer: Any) -> None:
    """A call that is not answered right is no call."""
    if answer != ANSWER:
        raise SystemExit(f"wrong answer {answer!r}")
