#!/usr/bin/env python3
"""What do streams take? Items per second beside single calls, and the memory of both ends under a slow reader.

One worker serves numbers as a stream (``def`` and ``async def``) and one by one. The fast reader takes as many as it
can, in rounds between those of the calls. The slow one pauses after each hundred items, and the memory of the worker
and of this process is looked at all along::

    python -m benchmarks.streams
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.agent import NODE, place, settings
from servicebus.configuration import Configuration
from servicebus.sender import Sender
from servicebus.service import ServiceBus
from servicebus.testing import BrokerPool
from servicebus.typed import Services

IN_FLIGHT = 64
RATIO_GOAL = 5.0
FLAT_KB = 8 * 1024
"""So much more than after the first tenth may either end use at the end: what the allocator keeps, not the items."""
_PAUSE_EVERY = 100


def make_group() -> Services:
    group = Services("numbers")

    @group.rpc
    def items(count: int) -> Iterator[dict[str, int]]:
        for number in range(count):
            yield {"id": number, "value": 7}

    @group.rpc(name="items_async")
    async def async_items(count: int) -> AsyncIterator[dict[str, int]]:
        for number in range(count):
            yield {"id": number, "value": 7}

    @group.rpc
    def item(number: int) -> dict[str, int]:
        return {"id": number, "value": 7}

    return group


def serve(host: str, folder: str) -> int:
    """The worker, alone in its process."""
    config = Configuration({**settings([host]), "journal": f"{folder}/journal"})
    bus = ServiceBus(config)
    bus.include(make_group())
    return bus.run_server(config, host)


def resident_kb(pid: int | str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def wait_for_node(sender: Sender) -> None:
    deadline = time.monotonic() + 60
    while not sender.ping(NODE):
        if time.monotonic() > deadline:
            raise SystemExit("the worker does not answer")


def read(sender: Sender, name: str, count: int) -> float:
    """Items per second of a reader that does nothing else."""
    began, expected = time.perf_counter(), 0
    for item in sender.stream(f"{NODE}.numbers.{name}", [count]):
        if item["id"] != expected:
            raise SystemExit(f"item {item['id']} in place of {expected}")
        expected += 1
    if expected != count:
        raise SystemExit(f"{expected} items of {count}")
    return count / (time.perf_counter() - began)


def one_by_one(sender: Sender, count: int) -> float:
    began = time.perf_counter()
    for number in range(count):
        sender.call(f"{NODE}.numbers.item", [number])
    return count / (time.perf_counter() - began)


def in_flight(sender: Sender, count: int) -> float:
    began = time.perf_counter()
    for start in range(0, count, IN_FLIGHT):
        futures = [sender.call_async(f"{NODE}.numbers.item", [start + number]) for number in range(IN_FLIGHT)]
        for future in futures:
            future.result()
    return count / (time.perf_counter() - began)


def compare(sender: Sender, rounds: int, items: int, calls: int) -> float:
    """Items and calls per second; returns how many times the best of the calls the stream is."""
    ways: dict[str, Callable[[], float]] = {
        "single calls, one after another": lambda: one_by_one(sender, calls),
        f"single calls, {IN_FLIGHT} in flight": lambda: in_flight(sender, calls),
        "stream of an async def": lambda: read(sender, "items_async", items),
        "stream": lambda: read(sender, "items", items),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            rate = way()
            if number:  # the first one warms up
                found[name].append(rate)
    medians = {name: statistics.median(rates) for name, rates in found.items()}
    base = max(rate for name, rate in medians.items() if name.startswith("single"))
    print(f"{'':34}{'per second':>12}{'to the best of the calls':>26}")
    for name, rate in medians.items():
        print(f"{name:34}{rate:12,.0f}{rate / base:24.1f} x")
    return medians["stream"] / base


def slowly(sender: Sender, pid: int, items: int, pause_s: float) -> int:
    """How many KiB the end that grew more has grown since the first tenth."""
    marks: dict[int, tuple[int, int]] = {}
    for number, item in enumerate(sender.stream(f"{NODE}.numbers.items", [items])):
        if item["id"] != number:
            raise SystemExit(f"item {item['id']} in place of {number}")
        if number % _PAUSE_EVERY == 0:
            time.sleep(pause_s)
        if number % (items // 10) == items // 10 - 1:
            marks[number + 1] = resident_kb(pid), resident_kb("self")
    print(f"\n{items:,} items, a pause of {pause_s * 1000:g} ms after each {_PAUSE_EVERY}: resident KiB")
    print(f"{'read':>12}{'worker':>12}{'reader':>12}")
    for number, (worker, reader) in marks.items():
        print(f"{number:12,}{worker:12,}{reader:12,}")
    first, last = marks[min(marks)], marks[max(marks)]
    return max(last[0] - first[0], last[1] - first[1])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--items", type=int, default=100_000, help="of the fast reader, in each round")
    parser.add_argument("--calls", type=int, default=3_200, help="in each round")
    parser.add_argument("--slow-items", type=int, default=1_000_000)
    parser.add_argument("--pause-ms", type=float, default=5.0)
    parser.add_argument("--serve", nargs=2, metavar=("HOST", "FOLDER"), help="be the worker")
    options: Any = parser.parse_args()
    if options.serve:
        return serve(*options.serve)
    pool = BrokerPool()
    with tempfile.TemporaryDirectory() as folder, closing(pool):
        host = place(pool.take(1)[0])
        worker = subprocess.Popen([sys.executable, "-m", "benchmarks.streams", "--serve", host, folder])
        try:
            with Sender(Configuration(settings([host]))) as sender:
                wait_for_node(sender)
                ratio = compare(sender, options.rounds, options.items, options.calls)
                grown_kb = slowly(sender, worker.pid, options.slow_items, options.pause_ms / 1000)
        finally:
            worker.terminate()
            worker.wait(60)
    is_good = ratio >= RATIO_GOAL and grown_kb <= FLAT_KB
    print(f"\nstream / calls {ratio:.1f} x (goal {RATIO_GOAL:g} x), grown by {grown_kb:,} KiB (goal {FLAT_KB:,})")
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
