#!/usr/bin/env python3
"""What do metrics cost? Calls to an agent with metrics, by a Sender with a collector, and to one without; interleaved.

Both agents run all the time, on one broker, and that with metrics is scraped every second, as Prometheus would at its
fastest. Each round calls both, so that what else the machine does hits them alike::

    python -m benchmarks.metrics --rounds 40
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.agent import Agent, place, sender_configuration
from benchmarks.side_by_side import DRIVES, cpu_s, undisturbed
from servicebus.metrics import SenderCollector
from servicebus.sender import Sender
from servicebus.testing import BrokerPool
from servicebus.testing.ports import free_ports

FORMS = ("off", "on")
GOAL = 0.97
_ADD = "math.add"


@contextmanager
def scraped(port: int, every_s: float = 1.0) -> Iterator[list[int]]:
    """Have the agent scraped meanwhile; the sizes of what came."""
    is_over, sizes = threading.Event(), []

    def scrape() -> None:
        while not is_over.wait(every_s):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                sizes.append(len(answer.read()))

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield sizes
    finally:
        is_over.set()
        thread.join()


Found = dict[tuple[str, str], list[tuple[float, float]]]


def measure(senders: dict[str, Sender], agents: dict[str, Agent], rounds: int, calls: int) -> Found:
    """Drive and form -> for each round microseconds per call, of the clock and of CPU (worker and Sender)."""
    found: Found = defaultdict(list)
    cases = [(drive, form) for drive in DRIVES for form in FORMS]
    for number in range(rounds + 1):
        random.shuffle(cases)
        for drive, form in cases:
            pid = agents[form].worker_pid
            before, began = cpu_s(pid), time.perf_counter()
            DRIVES[drive](senders[form], f"METRICS-{form.upper()}.{_ADD}", [20, 22], 42, calls)
            took_s = time.perf_counter() - began
            cpu = cpu_s(pid) - before
            if number:  # the first one warms up
                found[drive, form].append((took_s / calls * 1e6, cpu / calls * 1e6))
    return found


def report(found: Found, scrapes: list[int]) -> bool:
    """Whether the goal is met in all drives, by the lower quartiles: what else a machine does only adds."""
    is_met = True
    for drive in DRIVES:
        us, cpu = ({form: undisturbed([each[n] for each in found[drive, form]]) for form in FORMS} for n in (0, 1))
        pairs = zip(found[drive, "off"], found[drive, "on"], strict=True)
        paired = statistics.median(off[0] / on[0] for off, on in pairs)
        ratio = us["off"] / us["on"]
        is_met &= ratio >= GOAL
        for form in FORMS:
            print(f"{drive:14} metrics {form:3} {1e6 / us[form]:8.0f} calls/s {cpu[form]:7.1f} us of CPU")
        print(f"{drive:14} ratio {ratio:.3f} (median of the rounds {paired:.3f}), goal {GOAL}")
    print(f"scraped {len(scrapes)} times, {max(scrapes, default=0)} bytes")
    return is_met


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--calls", type=int, default=640, help="in each round, for each form and drive")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        host, port = place(stack.enter_context(closing(BrokerPool())).take(1)[0]), free_ports(1)[0]
        senders, agents = {}, {}
        for form in FORMS:
            (own := folder / form).mkdir()
            more: dict[str, Any] = {"metrics": {"port": port}} if form == "on" else {}
            agents[form] = stack.enter_context(Agent(own, [host], node_name=f"METRICS-{form.upper()}", **more))
            senders[form] = stack.enter_context(Sender(sender_configuration([host])))
        collector = SenderCollector(senders["on"])
        with scraped(port) as sizes:
            is_met = report(measure(senders, agents, options.rounds, options.calls), sizes)
        assert list(collector.collect())
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
