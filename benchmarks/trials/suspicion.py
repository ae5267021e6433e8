#!/usr/bin/env python3
"""How many calls are sent twice on a machine that is far too busy, though no broker is broken?

A Sender that suspects a path sends its calls over another broker as well. Here nothing is broken: every second copy is
a false alarm. Processes that do nothing but compute take the processor, four for each core, while threads call a
service over two private brokers; the service enters each execution into a file::

    python -m benchmarks.trials.suspicion --seconds 120

It ends with 1 if a call in 10,000 or more was sent twice, or one was executed twice or got a wrong answer.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from benchmarks.agent import ENTER_CALL, Agent, place, sender_configuration
from benchmarks.figures import Figure, report
from servicebus.sender import Sender
from servicebus.testing import BrokerPool

_BUSY = "import time; ends = time.time() + {}\nwhile time.time() < ends: pass"


@contextmanager
def busy_machine(per_core: int, seconds: float) -> Iterator[None]:
    """So many processes for each core that compute, for *seconds* at most."""
    count = per_core * (os.cpu_count() or 1)
    processes = [subprocess.Popen([sys.executable, "-c", _BUSY.format(seconds)]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


class Callers:
    """Threads that call until *ends_at*; what each call has taken, and how many did not end right."""

    def __init__(self, sender: Sender, count: int, ends_at: float):
        self.durations_s: list[float] = []
        self.outcomes: Counter[str] = Counter()
        self._sender = sender
        self._ends_at = ends_at
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(count)]

    def run(self) -> None:
        for thread in self._threads:
            thread.start()
        for thread in self._threads:
            thread.join()

    def _run(self, caller: int) -> None:
        number = 0
        while (started := time.monotonic()) < self._ends_at:
            name = f"{caller}-{number}"
            number += 1
            try:
                self.outcomes["right" if self._sender.call(ENTER_CALL, [name, 0])[1] == name else "wrong"] += 1
            except Exception as error:  # whatever it is, it is counted
                self.outcomes[type(error).__name__] += 1
            self.durations_s.append(time.monotonic() - started)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--busy", type=int, default=4, help="processes that compute, for each core")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    with closing(BrokerPool()) as pool:
        brokers = pool.take(2)
        hosts = [place(broker) for broker in brokers]
        with Agent(pool.folder, hosts) as agent, Sender(sender_configuration(hosts)) as sender:
            sender.call(ENTER_CALL, ["first", 0])
            with busy_machine(options.busy, options.seconds + 60.0):
                callers = Callers(sender, options.threads, time.monotonic() + options.seconds)
                callers.run()
            twice = sender.status()["hedged"]
            entered = Counter(agent.ledger_path.read_text().splitlines())
    calls = len(callers.durations_s)
    figures = [
        Figure("one call", samples=callers.durations_s),
        Figure("calls", unit="", samples=[calls]),
        Figure("calls not right", max_limit=0, unit="", samples=[calls - callers.outcomes["right"]]),
        Figure("calls sent twice, of 10,000", max_limit=1, unit="", samples=[twice * 10_000 / calls]),
        Figure("calls executed twice", max_limit=0, unit="", samples=[sum(n > 1 for n in entered.values())]),
    ]
    facts = {"busy processes for each core": options.busy, "threads": options.threads}
    return report("Suspicion on a busy machine", figures, options.json, facts)


if __name__ == "__main__":
    sys.exit(main())
