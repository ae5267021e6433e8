"""``bench storm``: how a fleet comes back to a broker that was away, simulated with the real backoff code."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.progress import track

from benchmarks.suite.charts import Curves
from benchmarks.suite.results import Report, document, keep, load
from benchmarks.suite.settings import RESULTS, Settings
from benchmarks.suite.spread import Spread, number
from benchmarks.suite.storm import Scene, Storm, simulate
from benchmarks.suite.tables import Table

SHARES = (0.5, 0.9, 0.99, 1.0)
MEASURED_BY = "fleet"
"""The part that measures what a broker takes: handshakes a second, and what a worker and a Sender are in handshakes."""
ASSUMED = {"handshakes_per_s": 300.0, "worker_setup": 5.0, "sender_setup": 0.5, "accept_work": 0.1}
"""For those who have not run it; the document says so."""


@click.command("storm")
@click.option("--nodes", multiple=True, type=int, default=(1000, 5000), show_default=True, help="May be repeated.")
@click.option("--senders", default=1.0, show_default=True, help="For each node.")
@click.option("--handshakes", type=float, help="That the broker can do in a second; else as measured by `bench fleet`.")
@click.option("--cores", default=4.0, show_default=True, help="Of the broker; with what was measured.")
@click.option("--backlog", default=128, show_default=True, help="tcp_listen_options.backlog of the broker.")
@click.option("--limit", default=600.0, show_default=True, help="Seconds after the return that are simulated at most.")
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, help="Folder.")
@click.option("--json", "prints_json", is_flag=True, help="Print the document instead of the tables.")
def command(
    nodes: tuple[int, ...],
    senders: float,
    handshakes: float | None,
    cores: float,
    backlog: int,
    limit: float,
    results: Path,
    prints_json: bool,
) -> None:
    """How long a fleet takes to come back to a broker that was away, and how hard it knocks (simulated)."""
    settings = Settings(rounds=1, seconds=0.0, results=results, prints_json=prints_json)
    broker, source = _what_a_broker_takes(results, handshakes, cores)
    found = run(settings, nodes, senders, broker, source, backlog=backlog, limit_s=limit)
    keep(found, settings, report(found))


def run(
    settings: Settings,
    nodes: tuple[int, ...],
    senders: float,
    broker: Mapping[str, Any],
    source: str,
    **others: Any,
) -> dict[str, Any]:
    began = time.time()
    scenes = {
        f"{count:,} nodes, {name}": Scene(count, round(count * senders), **broker, **others, **changed)
        for count in nodes
        for name, changed in WAYS.items()
    }
    storms = [(name, simulate(scene)) for name, scene in track(scenes.items(), "storms", transient=True)]
    return document("storm", settings, [_kept(name, storm) for name, storm in storms], began, broker=dict(broker),
                    source=source, backlog=others["backlog"])  # fmt: skip


WAYS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "packets were lost meanwhile": {"is_host_alive": False},
    "calls wait, no other broker": {"is_hurrying": True},
    "if every pause went up to 15 s": {"cap_s": 15.0},
}


def report(found: Mapping[str, Any]) -> Report:
    headings = ["storm", *(f"{share:.0%} back after" for share in SHARES), "not less than", "most begun in 1 s",
                "begun in vain"]  # fmt: skip
    rows = [_row(result) for result in found["results"]]
    broker = found["broker"]
    note = (
        f"Simulated. The broker does {number(broker['handshakes_per_s'])} handshakes a second ({found['source']}); a"
        f" worker is 2 and {number(broker['worker_setup'])} more for its channels and queues, a Sender 1 and"
        f" {number(broker['sender_setup'])}. The kernel's queue holds {found['backlog']}. *Not less than* is what the"
        " work alone takes. Connections, not clients, are counted in the last two columns; a worker begins two."
    )
    lines = {
        result["name"]: [(float(second), _exactly(count)) for second, count in result["attempts"]]
        for result in found["results"]
        if result["attempts"]
    }
    charts = [Curves("Connections begun", "seconds after the broker's return", "in a second", lines, log_x=False,
                     log_y=True)]  # fmt: skip
    return Report("Storms of reconnects", [Table("Back after a broker's return", headings, rows, note)], charts)


def _what_a_broker_takes(results: Path, handshakes: float | None, cores: float) -> tuple[dict[str, float], str]:
    measured = load(results, MEASURED_BY)
    if measured is None or measured["broker"] is None:
        broker, source = dict(ASSUMED), "assumed"
    else:
        broker, source = dict(measured["broker"]), f"measured with one core, times {cores:g}"
        broker["handshakes_per_s"] *= cores
    return (broker, source) if handshakes is None else ({**broker, "handshakes_per_s": handshakes}, "given")


def _kept(name: str, storm: Storm) -> dict[str, Any]:
    return {
        "name": name,
        "clients": storm.scene.clients,
        "back_s": {f"{share:g}": storm.back_share_at(share) for share in SHARES},
        "missing": storm.missing,
        "limit_s": storm.scene.limit_s,
        "shortest_s": storm.scene.shortest_s,
        "peak": storm.peak,
        "in_vain": max(0, storm.attempts_after - 2 * storm.scene.workers - storm.scene.senders),
        "failed": dict(storm.failed),
        "attempts": sorted((second, count) for second, count in storm.attempts.items() if second >= 0),
    }


def _row(result: Mapping[str, Any]) -> list[str]:
    never = f"not in {result['limit_s']:g} s"
    back = [never if at is None else f"{number(at)} s" for at in result["back_s"].values()]
    return [result["name"], *back, f"{number(result['shortest_s'])} s", f"{result['peak']:,}",
            f"{result['in_vain']:,}"]  # fmt: skip


def _exactly(count: float) -> Spread:
    return Spread(count, count, count, 1)
