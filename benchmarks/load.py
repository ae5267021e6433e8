#!/usr/bin/env python3
"""Do many threads on one Sender get the right answers while brokers die under it?

64 threads share one Sender and make 100,000 calls, each with a result of its own. Every 5 s the broker in use is killed
(``kill -9``) and started again::

    python -m benchmarks.load --json load.json

Wrong results, hung calls (not ended a second after their own limit) and exceptions that are not servicebus's must be 0.
Its own exceptions are counted by type; with two brokers of which one always lives there should be none.
"""

from __future__ import annotations

import argparse
import itertools
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from benchmarks.agent import ADD, Agent, sender_configuration
from benchmarks.figures import Figure, report
from servicebus.errors import ServiceBusError
from servicebus.sender import Sender
from servicebus.testing import Broker, BrokerPool

HUNG_AFTER_S = 1.0


class Caller(threading.Thread):
    """Makes calls until the common count is used up; remembers how each ended."""

    def __init__(self, sender: Sender, numbers: itertools.count[int], total: int, limit_s: float):
        super().__init__(daemon=True)
        self.durations_s: list[float] = []
        self.outcomes: Counter[str] = Counter()
        self.calling_since: float | None = None
        self._sender = sender
        self._numbers = numbers
        self._total = total
        self._limit_s = limit_s

    def run(self) -> None:
        while (number := next(self._numbers)) <= self._total:
            self.calling_since = started = time.monotonic()
            outcome = self._call(number)
            self.calling_since = None
            duration_s = time.monotonic() - started
            self.durations_s.append(duration_s)
            self.outcomes[outcome] += 1
            if duration_s > self._limit_s + HUNG_AFTER_S:
                self.outcomes["hung"] += 1

    def _call(self, number: int) -> str:
        try:
            _, value = self._sender.call(ADD, [number, number * 7], timeout=self._limit_s)
        except ServiceBusError as error:
            print(f"call {number}: {type(error).__name__}: {error}", file=sys.stderr)
            return type(error).__name__
        except BaseException as error:  # whatever it is, it is none of ours: that is what is counted here
            print(f"call {number}: foreign {error!r}", file=sys.stderr)
            return "foreign"
        return "right" if value == number * 8 else "wrong"


class Killer(threading.Thread):
    """Kills the broker that the Sender uses and starts it again, every so often, until told to stop."""

    def __init__(self, sender: Sender, brokers: list[Broker], every_s: float):
        super().__init__(daemon=True)
        self.kills = 0
        self._sender = sender
        self._brokers = {f"{broker.host}:{broker.port}": broker for broker in brokers}
        self._every_s = every_s
        self._stopped = threading.Event()

    def run(self) -> None:
        pause_s = self._every_s
        while not self._stopped.wait(max(0.0, pause_s)):
            started = time.monotonic()
            used = [host["name"] for host in self._sender.status()["hosts"] if host["preferred"]]
            broker = self._brokers[used[0]] if used else next(iter(self._brokers.values()))
            broker.kill()
            self.kills += 1
            broker.start()
            pause_s = self._every_s - (time.monotonic() - started)

    def stop(self) -> None:
        self._stopped.set()
        self.join()


def run(brokers: list[Broker], options: argparse.Namespace) -> tuple[list[Caller], float, int]:
    """All the calls: the callers with what they saw, how long it took, and how often a broker was killed."""
    hosts = [f"{broker.host}:{broker.port}" for broker in brokers]
    numbers = itertools.count(1)
    with Agent(brokers[1].folder, hosts), Sender(sender_configuration(hosts)) as sender:
        sender.call(ADD, [1, 1])
        callers = [Caller(sender, numbers, options.calls, options.limit) for _ in range(options.threads)]
        killer = Killer(sender, brokers, options.kill_every)
        started = time.monotonic()
        for caller in callers:
            caller.start()
        if options.kill_every:
            killer.start()
        wait_for(callers, options.limit)
        took_s = time.monotonic() - started
        if options.kill_every:
            killer.stop()
    return callers, took_s, killer.kills


def wait_for(callers: list[Caller], limit_s: float) -> None:
    """Return when all have finished, or those that have not hang for good; those are counted."""
    for caller in callers:
        while caller.is_alive():
            caller.join(0.5)
            since = caller.calling_since
            if since is not None and time.monotonic() - since > 2 * limit_s + 10.0:
                caller.outcomes["hung"] += 1
                break


def figures(callers: list[Caller]) -> list[Figure]:
    outcomes = sum((caller.outcomes for caller in callers), Counter())
    ours = {kind: count for kind, count in outcomes.items() if kind not in ("right", "wrong", "foreign", "hung")}
    durations = [duration for caller in callers for duration in caller.durations_s]
    must_be_none = {"wrong results": "wrong", "hung calls": "hung", "foreign exceptions": "foreign"}
    return [
        Figure("one call", samples=durations),
        Figure("right results", unit="", samples=[outcomes["right"]]),
        *(Figure(title, max_limit=0, unit="", samples=[outcomes[kind]]) for title, kind in must_be_none.items()),
        *(Figure(f"our exceptions: {kind}", unit="", samples=[count]) for kind, count in sorted(ours.items())),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=64)
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--kill-every", type=float, default=5.0, metavar="SECONDS", help="0: never")
    parser.add_argument("--limit", type=float, default=30.0, metavar="SECONDS", help="the time limit of each call")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    pool = BrokerPool()
    try:
        callers, took_s, kills = run(pool.take(2), options)
    finally:
        pool.close()
    done = sum(len(caller.durations_s) for caller in callers)
    facts = {"threads": options.threads, "calls": done, "seconds": round(took_s, 1), "kills": kills,
             "calls/s": round(done / took_s)}  # fmt: skip
    return report("Load, default settings", figures(callers), options.json, facts)


if __name__ == "__main__":
    sys.exit(main())
