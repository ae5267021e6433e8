"""How fast are calls and messages, and what do they cost? One agent, one client process, one private broker.

    python benchmarks/calls.py                          # default settings
    python benchmarks/calls.py --against fast_lane=false    # the same side by side, in interleaved rounds

Prints medians over the rounds; CPU is user plus system time of the client and of the worker, per call. On a shared
machine only the ratios of one run mean anything.
"""

from __future__ import annotations

import argparse
import os
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import yaml
from rich.console import Console
from rich.progress import track
from rich.table import Table

from servicebus.configuration import Configuration
from servicebus.sender import Sender
from servicebus.service import ServiceBus
from servicebus.testing import brokers

WIDTH = 64
ADDRESS = "BENCH.math.add"


class Add:
    def on_call(self, request: Any, response: Any) -> None:
        response.send(sum(request.get_params()))


class Count:
    handled = 0

    def on_message(self, request: Any) -> None:
        pass


def sequential(sender: Sender, seconds: float) -> int:
    end, count = time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        if sender.call(ADDRESS, [1, 2])[1] != 3:
            raise SystemExit("wrong answer")
        count += 1
    return count


def in_flight(sender: Sender, seconds: float) -> int:
    end, count = time.perf_counter() + seconds, 0
    pending = deque(sender.call_async(ADDRESS, [1, 2]) for _ in range(WIDTH))
    while pending:
        if pending.popleft().result()[1] != 3:
            raise SystemExit("wrong answer")
        count += 1
        if time.perf_counter() < end:
            pending.append(sender.call_async(ADDRESS, [1, 2]))
    return count


def in_threads(sender: Sender, seconds: float) -> int:
    counts = [0] * WIDTH

    def work(index: int) -> None:
        counts[index] = sequential(sender, seconds)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(WIDTH)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts)


def messages(sender: Sender, seconds: float) -> int:
    end, count = time.perf_counter() + seconds, 0
    pending: deque[Any] = deque()
    while time.perf_counter() < end:
        pending.append(sender.send_async("BENCH.audit.count", {"n": count}))
        count += 1
        if len(pending) >= 500:
            pending.popleft().result()
    while pending:
        pending.popleft().result()
    return count


PARTS: dict[str, Callable[[Sender, float], int]] = {
    "one caller": sequential,
    "64 in flight": in_flight,
    "64 threads": in_threads,
    "confirmed sends": messages,
}


@contextmanager
def bus(port: int, settings: dict[str, Any]) -> Iterator[tuple[Sender, psutil.Process]]:
    config = Configuration(
        {"hosts": [f"127.0.0.1:{port}"], "node_name": "BENCH", "secret_token": "benchmark", **settings}
    )
    agent = ServiceBus(config)
    agent.add_rpc_service("math", "add", Add())
    agent.add_message_service("audit", "count", Count())
    master = agent.run_services(join=False)[0]
    try:
        with Sender(config) as sender:
            sender.call(ADDRESS, [1, 2], timeout=20)
            yield sender, psutil.Process(master.pid).children()[0]
    finally:
        master.terminate()
        master.join()


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def measure(
    part: Callable[[Sender, float], int], sender: Sender, worker: psutil.Process, seconds: float
) -> list[float]:
    """Per second, and microseconds of client and worker per call."""
    me = psutil.Process(os.getpid())
    part(sender, 0.2)
    before, started = (cpu_s(me), cpu_s(worker)), time.perf_counter()
    count = part(sender, seconds)
    spent = time.perf_counter() - started
    return [count / spent, (cpu_s(me) - before[0]) / count * 1e6, (cpu_s(worker) - before[1]) / count * 1e6]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--only", help="parts whose name contains this word")
    parser.add_argument("--against", metavar="KEY=VALUE", help="a second setting, measured in turn with the default")
    arguments = parser.parse_args()
    variants: dict[str, dict[str, Any]] = {"default": {}}
    if arguments.against:
        key, _, value = arguments.against.partition("=")
        variants[arguments.against] = {key: yaml.safe_load(value)}
    parts = {name: part for name, part in PARTS.items() if not arguments.only or arguments.only in name}
    found: dict[tuple[str, str], list[list[float]]] = {}
    with brokers(count=1) as (node,):
        for _ in track(range(arguments.rounds), description="rounds"):
            for variant, settings in variants.items():
                with bus(node.port, settings) as (sender, worker):
                    for name, part in parts.items():
                        found.setdefault((name, variant), []).append(measure(part, sender, worker, arguments.seconds))
    table = Table("part", "setting", "per second", "client us", "worker us", "ratio to default")
    for name in parts:
        base = statistics.median(row[0] for row in found[name, "default"])
        for variant in variants:
            rate, client, worker_us = (statistics.median(column) for column in zip(*found[name, variant], strict=True))
            table.add_row(name, variant, f"{rate:,.0f}", f"{client:.0f}", f"{worker_us:.0f}", f"{rate / base:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
