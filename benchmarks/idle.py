#!/usr/bin/env python3
"""Does a Sender survive a fork, and a long silence?

Forks: a Sender that was used before the fork, and one that was not, each call in the parent and the child at the same
time. Idle: one Sender makes no call for ten minutes, then one; a second one's broker dies and comes back meanwhile, so
that nothing of what it left behind is alive any more::

    python -m benchmarks.idle --json idle.json
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path

from benchmarks.agent import ADD, Agent, sender_configuration
from benchmarks.figures import Figure, report
from servicebus.sender import Sender
from servicebus.testing import Broker, BrokerPool

FORK_CALLS = 200


def fork(sender: Sender, figure: Figure) -> None:
    """Call in a child and in the parent at the same time; counts the calls that went wrong in either."""
    child = os.fork()
    if child == 0:
        os._exit(min(wrong_calls(sender, offset=1_000_000), 255))
    figure.samples.append(wrong_calls(sender, offset=0))
    _, status = os.waitpid(child, 0)
    figure.samples.append(abs(os.waitstatus_to_exitcode(status)))


def wrong_calls(sender: Sender, offset: int) -> int:
    wrong = 0
    for number in range(offset, offset + FORK_CALLS):
        try:
            wrong += sender.call(ADD, [number, 1], timeout=10.0)[1] != number + 1
        except Exception as error:  # any failure counts; the child must not run the parent's cleaning-up
            print(f"pid {os.getpid()}: {error!r}", file=sys.stderr)
            wrong += 1
    return wrong


def first_call_s(sender: Sender) -> float:
    started = time.monotonic()
    if sender.call(ADD, [20, 22], timeout=30.0)[1] != 42:
        raise SystemExit("wrong result after the pause")
    return time.monotonic() - started


def measure(brokers: list[Broker], idle_s: float) -> list[Figure]:
    hosts = [f"{broker.host}:{broker.port}" for broker in brokers]
    unused = Figure("fork of an unused Sender: calls not right", max_limit=0, unit="")
    used = Figure("fork of a used Sender: calls not right", max_limit=0, unit="")
    undisturbed = Figure(f"first call after {idle_s:g} s", max_limit=0.5)
    disturbed = Figure(f"first call after {idle_s:g} s and a broker's death", max_limit=0.5)
    with Agent(brokers[1].folder, hosts):
        with Sender(sender_configuration(hosts)) as sender:
            fork(sender, unused)
            fork(sender, used)
        # One host each: what the pause does to its connection cannot be covered up by the other.
        with Sender(sender_configuration(hosts[1:])) as calm, Sender(sender_configuration(hosts[:1])) as shaken:
            first_call_s(calm)
            first_call_s(shaken)
            time.sleep(idle_s / 2)
            brokers[0].kill()
            brokers[0].start()
            time.sleep(idle_s / 2)
            undisturbed.samples.append(first_call_s(calm))
            disturbed.samples.append(first_call_s(shaken))
    return [unused, used, undisturbed, disturbed]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--idle", type=float, default=600.0, metavar="SECONDS")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    pool = BrokerPool()
    try:
        results = measure(pool.take(2), options.idle)
    finally:
        pool.close()
    return report("Fork and idle, default settings", results, options.json)


if __name__ == "__main__":
    sys.exit(main())
