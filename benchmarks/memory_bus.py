#!/usr/bin/env python3
"""How long does a test of a service take on the bus in memory? One call, and one that goes on as its broker dies.

The bus is made and closed in each of them, as in a test of a user's::

    python -m benchmarks.memory_bus --tests 200

Exit status 1 if the median of either is over its goal.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path

import servicebus.testing
from benchmarks.figures import Figure, report
from benchmarks.suite.machine import settle
from servicebus import Services

math = Services("math")


@math.rpc
def add(a: int, b: int = 0) -> int:
    """The sum of two numbers."""
    return a + b


def one_call() -> None:
    with servicebus.testing.bus(math) as world:
        assert world.sender.call("NODE-01.math.add", [1, 2])[1] == 3


def one_failover() -> None:
    with servicebus.testing.bus(math, brokers=2) as world:
        assert world.sender.call("NODE-01.math.add", [1, 2])[1] == 3
        world.brokers[0].kill()
        assert world.sender.call("NODE-01.math.add", {"a": 3})[1] == 3


def main() -> int:
    parser = argparse.ArgumentParser(description="Tests of a service on the bus in memory.")
    parser.add_argument("--tests", type=int, default=200, help="of each kind, by turns")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    logging.getLogger("servicebus").addHandler(logging.NullHandler())  # the lost connection's line
    kinds: dict[Callable[[], None], Figure] = {
        one_call: Figure("a test of a typed function", 0.01),
        one_failover: Figure("a test with a failover", 0.05),
    }
    for test in kinds:  # what the first one imports
        test()
    settle(60)
    for _ in range(given.tests):
        for test, figure in kinds.items():
            begun = time.perf_counter()
            test()
            figure.samples.append(time.perf_counter() - begun)
    return report("tests on the bus in memory", list(kinds.values()), given.json)


if __name__ == "__main__":
    sys.exit(main())
