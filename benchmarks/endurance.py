#!/usr/bin/env python3
"""Does anything go wrong, or grow, when it is done a thousand times?

Six parts, each of which runs alone; two private brokers at most, and every setting at its default but where said::

    python -m benchmarks.endurance --only rolling       # 200 rolling restarts under load
    python -m benchmarks.endurance --only failback      # 1,000 times away from the preferred broker and back
    python -m benchmarks.endurance --only reconnect     # 1,000 forced reconnects of a Sender and a worker
    python -m benchmarks.endurance --only timeouts      # 100,000 calls that no agent answers in time
    python -m benchmarks.endurance --only cancellations # 10,000 calls that are cancelled, by def and async def handlers
    python -m benchmarks.endurance --only cancellations-in-memory  # the same without a broker
    python -m benchmarks.endurance --count 5            # a glance at each

What must be flat is compared with what there was after the first tenth, or the first two of the timed-out calls.
docs/endurance.rst explains the figures.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.figures import Figure, report
from benchmarks.trials import cancellations, cancellations_in_memory, failback, reconnect, rolling, timeouts
from servicebus.testing import Broker, BrokerPool

PARTS: dict[str, tuple[Callable[[list[Broker], int], list[Figure]], int, int]] = {
    "rolling": (rolling.rolling, 200, 2),
    "failback": (failback.failback, 1000, 2),
    "reconnect": (reconnect.reconnect, 1000, 1),
    "timeouts": (timeouts.timeouts, 100_000, 1),
    "cancellations": (cancellations.cancellations, 10_000, 1),
    "cancellations-in-memory": (cancellations_in_memory.cancellations_in_memory, 10_000, 0),
}
"""What runs, how often, and with how many brokers."""


def measure(part: str, count: int | None, json_path: Path | None) -> int:
    run, usual_count, broker_count = PARTS[part]
    count = count or usual_count
    pool = BrokerPool()
    started = time.monotonic()
    try:
        figures = run(pool.take(broker_count) if broker_count else [], count)
    finally:
        pool.close()
    facts = {"count": count, "minutes": round((time.monotonic() - started) / 60, 1)}
    path = None if json_path is None else json_path.with_stem(f"{json_path.stem}-{part}")
    return report(f"Endurance: {part}", figures, path, facts)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--count", type=int, help="how often; by default as often as the design asks for")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the name of each part is put behind its stem")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    return max(measure(part, options.count, options.json) for part in options.only)


if __name__ == "__main__":
    sys.exit(main())
