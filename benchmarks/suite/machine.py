"""What else the machine does while we measure."""

from __future__ import annotations

import time

import psutil

QUIET_CORES = 0.15


def busy_s() -> float:
    """CPU seconds that all processes of the machine have used."""
    times = psutil.cpu_times()
    return float(times.user + times.system + times.nice + times.irq + times.softirq)


def settle(wait_limit_s: float) -> None:
    """Return when the machine is quiet, or patience is at an end."""
    until = time.monotonic() + wait_limit_s
    while time.monotonic() < until:
        before, started = busy_s(), time.monotonic()
        time.sleep(0.25)
        if busy_s() - before < QUIET_CORES * (time.monotonic() - started):
            return
