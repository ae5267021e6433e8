#!/usr/bin/env python3
"""What does the journal cost a call, and does that grow with what it remembers?

CPU time of one begin and one finish (with an answer of 300 bytes), all threads and the kernel included: one by
one, in batches, and one by one with the end of each told together with the begin of the next; after nothing, a million
and ten million ids; and with two workers that write at the same time, and one that only reads on. Medians of rounds::

    python -m benchmarks.journal --json journal.json

Redis takes part with ``--redis URL`` (of a server that may be written to). A call may be
made dearer by a tenth: by 50 us where one caller waits for each (500 us), by 15 us of CPU where 64 are in flight.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from servicebus.runtime.journal import (
    IdStatus,
    Journal,
    Limits,
    MemoryJournal,
    Start,
    open_shared,
)
from servicebus.runtime.journal.redis_journal import open_redis

ANSWER = b"x" * 300
LIVES_S = 86_400.0
FILL_BATCH = 512
GOAL_US = {1: 50.0, 16: 15.0}
FILL_CALLS_PER_S = 5000

Open = Callable[[Path], Journal]


def open_memory(_: Path) -> Journal:
    return MemoryJournal(Limits(max_entries=20_000_000))


def open_files(folder: Path) -> Journal:
    return open_shared(str(folder / "journal"))


def stores(names: list[str], redis_url: str | None) -> dict[str, Open]:
    found: dict[str, Open] = {"memory": open_memory, "files": open_files}
    if redis_url:
        found["redis"] = lambda folder: open_redis(redis_url, folder.name)
    return {name: open_store for name, open_store in found.items() if not names or name in names}


class Load:
    """Begins and finishes ids of one Sender, in order."""

    def __init__(self, journal: Journal, sender: int):
        self.journal = journal
        self.sender = f"{sender:016x}"
        self.count = 1
        self.now = time.time()

    def run(self, calls: int, batch: int, answer: bytes | None = ANSWER) -> None:
        sender, now, journal = self.sender, self.now, self.journal
        for first in range(self.count, self.count + calls, batch):
            ids = [f"{sender}-{count}" for count in range(first, first + batch)]
            found = journal.begin_many([Start(id, now + LIVES_S) for id in ids], now)
            if any(known.status is not IdStatus.NEW for known in found):
                raise SystemExit(f"{journal!r}: an id of {ids[0]}.. is not new")
            journal.finish_many([(id, answer) for id in ids], now)
        self.count += calls

    def run_calls_one_by_one(self, calls: int) -> None:
        """One by one, the end of each told together with the begin of the next."""
        now = self.now
        ends: list[tuple[str, bytes | None]] = []
        for count in range(self.count, self.count + calls):
            id = f"{self.sender}-{count}"
            if self.journal.update(ends, [Start(id, now + LIVES_S)], now)[0].status is not IdStatus.NEW:
                raise SystemExit(f"{self.journal!r}: {id} is not new")
            ends = [(id, ANSWER)]
        self.journal.finish_many(ends, now)
        self.count += calls

    def fill(self, ids: int) -> None:
        """As if they came over some time, so that what is put away is as it would be then."""
        while self.count < ids:
            self.run(FILL_BATCH, FILL_BATCH, None)
            self.now += FILL_BATCH / FILL_CALLS_PER_S
        self.now += 11
        self.journal.tick(self.now)

    def cost_us(self, calls: int, batch: int, clock: Callable[[], float] = time.process_time) -> float:
        """CPU time per call, without what making the ids takes."""
        empty = Load(_Nothing(), 0)
        started = clock()
        empty.run(calls, batch)
        idle = clock()
        self.run(calls, batch)
        return (clock() - idle - (idle - started)) / calls * 1e6

    def one_by_one_us(self, calls: int) -> float:
        started = time.process_time()
        self.run_calls_one_by_one(calls)
        return (time.process_time() - started) / calls * 1e6


class _Nothing(MemoryJournal):
    def begin_many(self, starts: Any, now: float) -> Any:
        return ()

    def finish_many(self, ends: Any, now: float) -> None:
        pass


def apart(work: Callable[[], Any]) -> Any:
    """What *work* returns, in a process of its own: with its own memory and CPU time."""
    wait = start_apart(work)
    return wait()


def start_apart(work: Callable[[], Any]) -> Callable[[], Any]:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        status = 1
        try:
            os.write(writer, json.dumps(work()).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writer)

    def wait() -> Any:
        with os.fdopen(reader, "rb") as pipe:
            data = pipe.read()
        os.waitpid(child, 0)
        if not data:
            raise SystemExit("a process of the benchmark failed")
        return json.loads(data)

    return wait


def memory_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6


def measure(open_store: Open, folder: Path, ids: int, batches: list[int], rounds: int) -> dict[str, Any]:
    """In a process of its own: fill it with *ids*, then the costs of *batches*."""
    idle_mb = memory_mb()
    journal = open_store(folder)
    load = Load(journal, 1)
    load.fill(ids)
    filled_mb = memory_mb() - idle_mb
    disk_mb = _disk_mb(folder)
    costs: dict[int, list[float]] = {batch: [] for batch in batches}
    for _ in range(rounds):
        for batch in batches:
            costs[batch].append(load.cost_us(2000 if batch == 1 else 200 * batch, batch))
    one_by_one_us = [load.one_by_one_us(2000) for _ in range(rounds)]
    wall_us = [load.cost_us(1000, 1, time.monotonic) for _ in range(rounds)]
    journal.close()
    started = time.monotonic()
    journal = open_store(folder)
    reopened_s = time.monotonic() - started
    journal.close()
    return {
        "cost_us": {str(batch): statistics.median(values) for batch, values in costs.items()},
        "one_by_one_us": statistics.median(one_by_one_us),
        "wall_us": statistics.median(wall_us),
        "memory_mb": filled_mb,
        "disk_mb": disk_mb,
        "reopened_s": reopened_s,
    }


def _disk_mb(folder: Path) -> float:
    return sum(file.stat().st_blocks * 512 for file in folder.iterdir()) / 1e6


def together(open_store: Open, folder: Path, batch: int, calls: int) -> dict[str, float]:
    """Two workers write, a third reads on four times a second: CPU time per call of each writer, and of the reader."""

    def write(sender: int) -> Callable[[], Any]:
        def work() -> dict[str, float]:
            load = Load(open_store(folder), sender)
            started = time.monotonic()
            cost_us = load.cost_us(calls, batch)
            return {"cost_us": cost_us, "started": started, "ended": time.monotonic()}

        return work

    def read() -> float:
        journal = open_store(folder)
        started = time.process_time()
        while not (folder / "done").exists():
            journal.tick(time.time())
            time.sleep(0.25)
        journal.tick(time.time())
        return time.process_time() - started

    open_store(folder).close()
    reader = start_apart(read)
    writers = [done() for done in [start_apart(write(sender)) for sender in (1, 2)]]
    (folder / "done").touch()
    overlap_s = min(each["ended"] for each in writers) - max(each["started"] for each in writers)
    longest_s = max(each["ended"] - each["started"] for each in writers)
    return {
        "writer_us": statistics.mean(each["cost_us"] for each in writers),
        "reader_us": reader() / (2 * calls) * 1e6,
        "overlap": overlap_s / longest_s,
    }


@contextmanager
def new_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="journal-") as folder:
        yield Path(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ids", type=int, nargs="*", default=[0, 1_000_000, 10_000_000])
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 4, 16, 64])
    parser.add_argument("--store", nargs="*", default=[], help="memory, files, redis; all that there are")
    parser.add_argument("--redis", metavar="URL")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    chosen = stores(options.store, options.redis)
    results: dict[str, Any] = {name: {"alone": {}, "together": {}} for name in chosen}
    for ids in options.ids:
        for name, open_store in chosen.items():
            if name == "memory" and ids > 1_000_000:
                continue  # an entry per id: gigabytes
            with new_folder() as folder:
                measured = partial(measure, open_store, folder, ids, options.batch, options.rounds)
                results[name]["alone"][ids] = apart(measured)
    for name, open_store in chosen.items():
        for batch in (1, 16) if name not in ("memory", "redis") else ():
            with new_folder() as folder:
                results[name]["together"][batch] = together(open_store, folder, batch, 20_000 if batch == 1 else 80_000)
    report(results, options.batch)
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "results": results}, indent=1) + "\n")
    files = results.get("files", {}).get("alone", {})
    is_missed = any(
        each["cost_us"].get(str(batch), 0) > goal for each in files.values() for batch, goal in GOAL_US.items()
    )
    return 1 if is_missed else 0


def report(results: dict[str, Any], batches: list[int]) -> None:
    console = Console(width=None if os.isatty(1) else 140)
    table = Table(title="CPU time of begin and finish, us per call", box=box.MARKDOWN)
    headings = [
        "store",
        "ids before",
        *(f"{batch} at once" for batch in batches),
        "1, turns",
        "1, wall",
        "memory MB",
        "disk MB",
        "reopened s",
    ]
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "store" else "right")
    for name, result in results.items():
        for ids, each in result["alone"].items():
            costs = [f"{each['cost_us'][str(batch)]:.1f}" for batch in batches]
            sizes = [f"{each[key]:.1f}" for key in ("memory_mb", "disk_mb")]
            costs += [f"{each['one_by_one_us']:.1f}", f"{each['wall_us']:.0f}"]
            table.add_row(name, f"{ids:,}", *costs, *sizes, f"{each['reopened_s']:.3f}")
    console.print(table)
    table = Table(title="Three workers, two of which write, us per call", box=box.MARKDOWN)
    for heading in ("store", "at once", "each writer", "the reader", "overlap"):
        table.add_column(heading, justify="left" if heading == "store" else "right")
    for name, result in results.items():
        for batch, each in result["together"].items():
            row = (f"{each['writer_us']:.1f}", f"{each['reader_us']:.1f}", f"{each['overlap']:.0%}")
            table.add_row(name, str(batch), *row)
    console.print(table)
    console.print(", ".join(f"{key} {value}" for key, value in machine().items()), highlight=False)


def machine() -> dict[str, str]:
    return {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "cpus": str(os.cpu_count()),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    sys.exit(main())
