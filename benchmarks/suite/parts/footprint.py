"""``bench footprint``: what an agent at rest takes, what a Sender adds to a process, and how long its import takes."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.suite.goals import Goal
from benchmarks.suite.growth.imports import dearest, import_ms
from benchmarks.suite.growth.nodes import Node, Order, common, host, running, sender_configuration
from benchmarks.suite.growth.phases import cpu_s
from benchmarks.suite.results import Report, document, keep
from benchmarks.suite.rounds import Measurement, interleaved
from benchmarks.suite.settings import Settings, shared_options
from benchmarks.suite.spread import Spread, cell, number
from benchmarks.suite.tables import Table
from servicebus.sender import Sender
from servicebus.testing import Broker, brokers

SERVICES = 10
IMPORTS = 10
MODULE = "servicebus.sender"
PROGRAM = Path(__file__).resolve().parent.parent / "programs" / "sender_memory.py"
GOALS = {"agent MB": 90.0, "agent at rest %": 0.5, "Sender MB": 12.0, "Sender MB, bare": 12.0, "import ms": 120.0}
USUAL = ("ssl", "logging", "asyncio", "sqlite3", "urllib.request", "dataclasses", "uuid")
"""What a program that talks to others has imported anyway."""
_SETTLES_S = 5.0


@click.command("footprint")
@shared_options(rounds=3, seconds=30.0)
def command(settings: Settings) -> None:
    """Memory and CPU of an agent at rest, what a Sender adds to a process, and the time of its import."""
    found = run(settings)
    keep(found, settings, report(found))


def run(settings: Settings) -> dict[str, Any]:
    began = time.time()
    with brokers(count=2) as nodes, tempfile.TemporaryDirectory(prefix="footprint-") as folder:
        measures: dict[str, tuple[Callable[[], dict[str, Any]], float]] = {
            "agent": (lambda: _agent(nodes, Path(folder), settings.seconds), settings.seconds + 10.0),
            "sender": (lambda: _sender(nodes[:1], Path(folder), USUAL), 8.0),
            "sender, bare": (lambda: _sender(nodes[:1], Path(folder), ()), 8.0),
            "import": (_import, 5.0),
        }
        measurements = [Measurement(name, *each) for name, each in measures.items() if settings.wants(name)]
        results = interleaved("footprint", measurements, settings.rounds, settings.wait_limit_s)
    return document("footprint", settings, results, began)


def _agent(nodes: Sequence[Broker], folder: Path, seconds: float) -> dict[str, Any]:
    """Two workers and ten services that have all been called once, and then nothing any more."""
    services = {f"math.add{number}": "Add" for number in range(SERVICES)}
    order = Order("RESTING", [host(broker) for broker in nodes], calls=services)
    with running([order], folder) as (node,):
        for only in order.hosts:
            with Sender(sender_configuration([only])) as sender:
                for service in services:
                    sender.call(node.address(service), [1, 2], timeout=60.0)
        time.sleep(min(_SETTLES_S, seconds))
        processes = node.processes()
        before, started = sum(map(cpu_s, processes)), time.monotonic()
        time.sleep(seconds)
        spent = (sum(map(cpu_s, processes)) - before) / (time.monotonic() - started)
        return {"processes": _parts(node), "cpu_share": spent}


def _parts(node: Node) -> list[dict[str, Any]]:
    master, *workers = node.processes()
    named = [("master", master), *((f"worker {number}", each) for number, each in enumerate(workers, 1))]
    return [{"name": name, "threads": process.num_threads(), **_memory(process.pid)} for name, process in named]


def _memory(pid: int) -> dict[str, float]:
    """MB of resident pages: all of them, our part of each, and of that what is no file's."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return {name.lower(): kib[name] * 1024 / 1e6 for name in ("Rss", "Pss", "Pss_Anon", "Pss_File")}


def _sender(nodes: Sequence[Broker], folder: Path, has: Sequence[str]) -> dict[str, Any]:
    hosts = [host(broker) for broker in nodes]
    with running([Order("CALLED", hosts)], folder) as (node,):
        order = {"config": {**common(hosts), "node_name": "CALLER"}, "address": node.address(), "has": has}
        done = subprocess.run([sys.executable, str(PROGRAM), json.dumps(order)], capture_output=True, text=True,
                              check=False)  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"the program with the Sender failed: {done.stderr.strip()[-500:]}")
    told: dict[str, Any] = json.loads(done.stdout)
    if told["wrong"]:
        raise RuntimeError("wrong answers")
    return told


def _import() -> dict[str, Any]:
    import_ms(MODULE)  # so that everything is compiled
    clock, cpu = zip(*(import_ms(MODULE) for _ in range(IMPORTS)), strict=True)
    return {"ms": clock, "cpu_ms": cpu, "dearest": dearest(MODULE)}


def figures(found: Mapping[str, Any]) -> dict[str, Spread | None]:
    """What the goals are about."""
    results = [result for result in found["results"] if "error" not in result]
    return {
        "agent MB": Spread.of(_agent_mb(each) for each in _of(results, "agent")),
        "agent at rest %": Spread.of(each["cpu_share"] * 100 for each in _of(results, "agent")),
        "Sender MB": Spread.of(_sender_mb(each) for each in _of(results, "sender")),
        "Sender MB, bare": Spread.of(_sender_mb(each) for each in _of(results, "sender, bare")),
        "import ms": Spread.of(statistics.median(each["ms"]) for each in _of(results, "import")),
        "import CPU ms": Spread.of(statistics.median(each["cpu_ms"]) for each in _of(results, "import")),
    }


def goals(found: Mapping[str, Any]) -> list[Goal]:
    """Memory of the agent and of a Sender, the agent at rest, the time of an import."""
    return [
        Goal("memory", _TITLES[name], f"below {GOALS[name]:g}", cell(spread),
             None if spread is None else _result(name, spread) == "met")
        for name, spread in figures(found).items() if name in GOALS
    ]  # fmt: skip


def report(found: Mapping[str, Any]) -> Report:
    results = [result for result in found["results"] if "error" not in result]
    rows = [
        [_TITLES[name], cell(spread), f"< {GOALS[name]:g}" if name in GOALS else "-", _result(name, spread)]
        for name, spread in figures(found).items()
    ]
    summary = Table("Memory and idle", ["figure", "measured", "goal", "verdict"], rows)
    details = [table for table in (_agent_table(results), _sender_table(results), _import_table(results)) if table]
    return Report("Footprint", [summary, *details])


_TITLES = {
    "agent MB": f"agent with two workers and {SERVICES} services, MB in all (shared pages counted once)",
    "agent at rest %": "the same, % of a core at rest",
    "Sender MB": "a Sender adds to a program that has asyncio, ssl, logging, ..., MB (after a thousand calls)",
    "Sender MB, bare": "a Sender adds to an interpreter that has imported nothing, MB (the same)",
    "import ms": f"import of {MODULE}, ms (median of {IMPORTS})",
    "import CPU ms": "the same, ms of CPU: what is left of it on a busy machine",
}


def _of(results: Sequence[Mapping[str, Any]], name: str) -> list[Mapping[str, Any]]:
    return [result for result in results if result["name"] == name]


def _agent_mb(result: Mapping[str, Any]) -> float:
    return float(sum(process["pss"] for process in result["processes"]))


def _sender_mb(result: Mapping[str, Any]) -> float:
    return (result["steps"][-1][1]["rss"] - result["before"]["rss"]) * 1024 / 1e6  # type: ignore[no-any-return]


def _result(name: str, spread: Spread | None) -> str:
    if spread is None:
        return "not measured"
    if name not in GOALS:
        return "-"
    return "met" if spread.median < GOALS[name] else "MISSED"


def _agent_table(results: Sequence[Mapping[str, Any]]) -> Table | None:
    agents = _of(results, "agent")
    if not agents:
        return None
    rows = [
        [
            process["name"],
            str(process["threads"]),
            *(number(process[key]) for key in ("rss", "pss", "pss_anon", "pss_file")),
        ]
        for process in agents[-1]["processes"]
    ]
    headings = ["process", "threads", "RSS MB", "PSS MB", "of it its own data", "of it files"]
    return Table("Where the agent's memory is (last round)", headings, rows)


def _sender_table(results: Sequence[Mapping[str, Any]]) -> Table | None:
    senders = _of(results, "sender, bare")
    if not senders:
        return None
    rows, last = [], senders[-1]["before"]
    for name, held in senders[-1]["steps"]:
        rows.append([name, *(number((held[key] - last[key]) * 1024 / 1e6) for key in ("rss", "pss"))])
        last = held
    before = number(senders[-1]["before"]["rss"] * 1024 / 1e6)
    note = (
        f"Each import brings what it needs and is not there yet. The interpreter alone has {before} MB."
        " The configuration is a dict: one that is read from a file brings yaml."
    )
    return Table(
        "What a Sender adds to a bare interpreter, step by step (last round)", ["step", "RSS MB", "PSS MB"], rows, note
    )


def _import_table(results: Sequence[Mapping[str, Any]]) -> Table | None:
    imports = _of(results, "import")
    if not imports:
        return None
    rows = [[name, number(ms)] for name, ms in imports[-1]["dearest"]]
    return Table("Whose the time of the import is (last round)", ["package", "ms"], rows,
                 "By -X importtime, which slows it down; each package without what it imports of others.")  # fmt: skip
