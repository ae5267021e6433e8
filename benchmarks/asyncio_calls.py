#!/usr/bin/env python3
"""What does asyncio cost? 64 tasks of an AsyncSender beside 64 futures of a Sender, and beside peers for asyncio.

All in one run, in turns, on one private broker; every client and server is a process of its own::

    python -m benchmarks.asyncio_calls --rounds 7 --seconds 2

Rates are good as ratios of one run only. CPU of the client says more than rates where the machine has other work.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.suite.environment import usable
from benchmarks.suite.peers import ASYNCIO, NUROPB, SERVICEBUS, UVLOOP, Peer, known
from benchmarks.suite.rounds import Measurement, interleaved
from benchmarks.suite.visit import Visit
from servicebus.testing import Broker, brokers

AIO_PIKA = "aio-pika RPC"
GOALS = {SERVICEBUS.name: 0.85, NUROPB: 2.0, AIO_PIKA: 6.0}
"""How many times as fast the tasks of an AsyncSender are to be, at least."""


def measure(peer: Peer, node: Broker, seconds: float) -> dict[str, Any]:
    """One visit: one caller, then 64 in flight."""
    with Visit(peer, [node]) as visit:
        visit.phase("seq", seconds)
        visit.phase(peer.idioms[0], seconds, key="many")
        return visit.found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one phase")
    parser.add_argument("--patience", type=float, default=5.0, help="seconds to wait for a quiet machine before each")
    parser.add_argument("--uvloop", action="store_true", help="on uvloop as well")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    wanted = [SERVICEBUS, ASYNCIO, *([UVLOOP] if args.uvloop else []), known(NUROPB), known(AIO_PIKA)]
    peers, _ = usable(wanted)
    with brokers(count=1) as (node,):
        measurements = [
            Measurement(peer.name, partial(measure, peer, node, args.seconds), 5 + 2 * args.seconds) for peer in peers
        ]
        visits = interleaved("asyncio", measurements, args.rounds, args.patience)
    if args.json:
        args.json.write_text(json.dumps(visits, indent=1) + "\n")
    return report(visits, [peer.name for peer in peers])


def report(visits: list[dict[str, Any]], names: list[str]) -> int:
    """Print medians and ratios; returns the exit status: 0 if every measured goal is met."""
    table = Table(title="64 in flight: tasks, and futures of the Sender that blocks", box=box.MARKDOWN)
    columns = ("", "one caller /s", "64 in flight /s", "client us/call", "server us/call", "asyncio is ... times")
    for heading in (*columns, "goal", "other work, cores"):
        table.add_column(heading)
    missed = 0
    for name in names:
        phases = [visit["phases"] for visit in visits if visit["name"] == name and "many" in visit.get("phases", {})]
        if not phases:
            table.add_row(name, "failed")
            missed += 1
            continue
        one, many = median(phases, "seq", rate), median(phases, "many", rate)
        ours = [visit["phases"] for visit in visits if visit["name"] == ASYNCIO.name and "phases" in visit]
        ratio = median(ours, "many", rate) / many
        goal = GOALS.get(name)
        missed += goal is not None and ratio < goal
        cpu = (f"{median(phases, 'many', partial(cpu_us, who)):.0f}" for who in ("client", "server"))
        noise = f"{median(phases, 'many', lambda phase: float(phase['noise_cores'])):.2f}"
        told = "-" if goal is None else f"{goal:g}"
        table.add_row(name, f"{one:,.0f}", f"{many:,.0f}", *cpu, f"{ratio:.2f}", told, noise)
    Console(width=140).print(table)
    return 1 if missed else 0


def median(phases: list[dict[str, Any]], name: str, value: Callable[[dict[str, Any]], float]) -> float:
    found = [value(phase[name]) for phase in phases if name in phase]
    middle: float = statistics.median(found) if found else float("nan")
    return middle


def rate(phase: dict[str, Any]) -> float:
    return float(phase["rate"])


def cpu_us(who: str, phase: dict[str, Any]) -> float:
    return float(phase["cpu_s"][who]) / float(phase["count"]) * 1e6


if __name__ == "__main__":
    sys.exit(main())
