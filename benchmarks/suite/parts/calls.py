"""``bench calls``: one caller, 64 in flight in each idiom, and params from 10 bytes to 1 MB."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import click

from benchmarks.suite import against as against_settings
from benchmarks.suite.charts import Bars, Chart, Curves
from benchmarks.suite.environment import usable, versions
from benchmarks.suite.goals import Goal, at_least, ratios
from benchmarks.suite.peers import ALL, FLOOR, NUROPB, OURS, RAW_PIKA, Peer, chosen, known
from benchmarks.suite.readings import Reader, cpu_us, failures, field, names, noise, over_rounds, phase_cell, rates
from benchmarks.suite.results import Report, document, keep
from benchmarks.suite.rounds import Measurement, interleaved
from benchmarks.suite.settings import Settings, shared_options
from benchmarks.suite.spread import NO_SUCH, Spread, cell, number, times
from benchmarks.suite.tables import Table
from benchmarks.suite.visit import Visit
from servicebus.testing import Broker, brokers

SIZES = {"10 B": 10, "1 KB": 1_000, "100 KB": 100_000, "1 MB": 1_000_000}
IDIOMS = {"futures": "64 futures", "tasks": "64 tasks", "threads": "64 threads"}
ONE = "seq"
_SIZE_SHARE = 1 / 3
"""A size is measured for this part of a phase's seconds."""


@click.command("calls")
@shared_options()
@against_settings.option
@click.option("--sizes/--no-sizes", default=True, help="Params of 10 B to 1 MB as well.")
def command(settings: Settings, against: tuple[str, ...], sizes: bool) -> None:
    """Calls: one caller; 64 in flight by futures, tasks, threads; params of 10 B to 1 MB."""
    found = run(settings, against, sizes=sizes)
    keep(found, settings, report(found), is_whole=sizes and not settings.only and not against)


def run(settings: Settings, against: Sequence[str] = (), *, sizes: bool = True) -> dict[str, Any]:
    """Measure all that ``--only`` names."""
    began = time.time()
    wanted = [peer for peer in chosen(settings) if peer.idioms] + against_settings.variants(against)
    peers, left_out = usable(wanted)
    with brokers(count=1) as (node,):
        measurements = [
            Measurement(
                peer.name,
                partial(measure, peer, node, settings, sizes=sizes),
                _expected_s(peer, settings, sizes),
            )
            for peer in peers
        ]
        results = interleaved("calls", measurements, settings.rounds, settings.wait_limit_s)
    return document("calls", settings, results, began, versions(peers), left_out=left_out)


def measure(peer: Peer, node: Broker, settings: Settings, *, sizes: bool) -> dict[str, Any]:
    """One visit: the main table's phases first, so that what sizes break does not reach it."""
    with Visit(peer, [node]) as visit:
        visit.phase(ONE, settings.seconds)
        for idiom in peer.idioms:
            visit.phase(idiom, settings.seconds)
        visit.note_memory()
        for label, size in SIZES.items() if sizes else ():
            seconds = settings.seconds * _SIZE_SHARE
            visit.phase(ONE, seconds, key=f"{ONE} {label}", bytes=size)
            if peer.in_flight_by_size and peer.best_idiom:
                visit.phase(peer.best_idiom, seconds, key=f"{peer.best_idiom} {label}", bytes=size)
        return visit.found


def _expected_s(peer: Peer, settings: Settings, sizes: bool) -> float:
    phases = 1 + len(peer.idioms) + (2 * len(SIZES) * _SIZE_SHARE if sizes else 0)
    return 4.0 + phases * settings.seconds


# -- what people read --------------------------------------------------------------------------------------------------


def best(found: dict[str, Any], name: str, label: str = "") -> Spread | None:
    """64 in flight the fastest way that the peer has."""
    key = f" {label}" if label else ""
    spreads = [over_rounds(found, name, field(idiom + key)) for idiom in IDIOMS]
    return max((spread for spread in spreads if spread is not None), key=lambda spread: spread.median, default=None)


def report(found: dict[str, Any]) -> Report:
    """Tables of rates, ratios, sizes and CPU; bars of the first two."""
    shown = names(found)
    tables = [_rates(found, shown), _ratios(found, shown), _cpu(found, shown)]
    by_size = _by_size(found, shown)
    if by_size:
        tables.append(_sizes(found, shown, "one caller", ONE))
        tables.append(_sizes(found, shown, "64 in flight, the peer's best way", ""))
    charts: list[Chart] = [
        Bars("One caller", "calls/s", rates(found, ONE)),
        Bars("64 in flight, the fastest way of each", "calls/s", {name: best(found, name) for name in shown}),
        Bars("64 threads", "calls/s", rates(found, "threads")),
    ]
    if by_size:
        charts.append(Curves("One caller, by the length of the params", "bytes", "calls/s", by_size, log_y=True))
    notes = [_what(), *(f"- {line}" for line in failures(found)), noise(found)]
    return Report("Calls", tables, charts, notes)


def goals(found: dict[str, Any]) -> list[Goal]:
    """One caller, 64 in flight, 64 threads, params of 100 KB."""
    one = field(ONE)
    made = _against_wires(found, "one caller", (OURS, one), ONE, {NUROPB: 1.4, "raw pika": 1.05, FLOOR: 0.6})
    futures = (OURS, field("futures"))
    made += _against_wires(found, "in flight", futures, "", {NUROPB: 2.5, "raw pika": 1.7, FLOOR: 0.45})
    threads = (OURS, field("threads"))
    made += _against_wires(found, "threads", threads, "", {NUROPB: 1.5})
    others = [peer for peer in ALL if peer.is_framework and peer.name != OURS]
    rivals = [(peer.name, field("threads")) for peer in others if "threads" in peer.idioms]
    best_rival, times_as_fast = ratios(found, threads, rivals)
    made.append(at_least("threads", f"the best other framework with threads ({best_rival or '-'})", 5, times_as_fast))
    long = field(f"{ONE} 100 KB")
    best_rival, times_as_fast = ratios(found, (OURS, long), [(peer.name, long) for peer in others])
    made.append(at_least("100 KB", f"the best framework ({best_rival or '-'})", 1.2, times_as_fast))
    return made


def _against_wires(
    found: dict[str, Any], row: str, ours: tuple[str, Reader], phase: str, limits: dict[str, float]
) -> list[Goal]:
    """Against those of *limits*, raw pika being the better of its two; without a *phase* in the idiom of each."""
    made = []
    for who, limit in limits.items():
        peers = [known(name) for name in RAW_PIKA] if who == "raw pika" else [known(who)]
        theirs = [(peer.name, field(phase or peer.best_idiom or "")) for peer in peers]
        best_one, times_as_fast = ratios(found, ours, theirs)
        label = f"raw pika ({best_one or '-'})" if who == "raw pika" else who
        made.append(at_least(row, label, limit, times_as_fast))
    return made


def _what() -> str:
    return (
        "Medians (lowest to highest round). Client and server are one process each, params `[1, 2]`. "
        f"`{NO_SUCH}`: the peer has no such way, or no sensible one."
    )


def _rates(found: dict[str, Any], shown: Sequence[str]) -> Table:
    columns = ["", "one caller, calls/s", "p50 ms", "p99 ms", *(f"{label}, calls/s" for label in IDIOMS.values()),
               "client MiB", "server MiB", "start-up s"]  # fmt: skip
    rows = []
    for name in shown:
        row = [name, phase_cell(found, name, ONE)]
        row += [cell(over_rounds(found, name, field(ONE, key))) for key in ("p50_ms", "p99_ms")]
        row += [phase_cell(found, name, idiom) if idiom in known(name).idioms else NO_SUCH for idiom in IDIOMS]
        row += [cell(over_rounds(found, name, partial(_memory_mib, who))) for who in ("client", "server")]
        rows.append([*row, cell(over_rounds(found, name, lambda result: result.get("start_s")))])
    return Table("Calls per second", columns, rows)


def _memory_mib(who: str, result: dict[str, Any]) -> float | None:
    memory: dict[str, float] = result.get("memory_mib", {})
    return memory.get(who)


def _ratios(found: dict[str, Any], shown: Sequence[str]) -> Table:
    ours = {"one": over_rounds(found, OURS, field(ONE)), "best": best(found, OURS),
            "threads": over_rounds(found, OURS, field("threads"))}  # fmt: skip
    rows = []
    for name in shown:
        theirs = {"one": over_rounds(found, name, field(ONE)), "best": best(found, name),
                  "threads": over_rounds(found, name, field("threads"))}  # fmt: skip
        rows.append([name, *(times(ours[key], theirs[key]) for key in ours)])
    return Table(f"{OURS} is so many times as fast (medians)", ["", "one caller", "64 in flight", "64 threads"], rows)


def _sizes(found: dict[str, Any], shown: Sequence[str], title: str, phase: str) -> Table:
    rows = []
    for name in shown:
        spreads = [
            over_rounds(found, name, field(f"{phase} {label}")) if phase else best(found, name, label)
            for label in SIZES
        ]
        rows.append([name, *(cell(spread) for spread in spreads)])
    return Table(f"Calls per second by the length of the params: {title}", ["", *SIZES], rows)


def _by_size(found: dict[str, Any], shown: Sequence[str]) -> dict[str, list[tuple[float, Spread]]]:
    lines = {}
    for name in shown:
        points = [(size, over_rounds(found, name, field(f"{ONE} {label}"))) for label, size in SIZES.items()]
        lines[name] = [(float(size), spread) for size, spread in points if spread is not None]
    return {name: points for name, points in lines.items() if points}


def _cpu(found: dict[str, Any], shown: Sequence[str]) -> Table:
    whos = ("client", "server", "broker")
    columns = ["", *(f"one caller, {who}" for who in whos), *(f"64 in flight, {who}" for who in whos)]
    rows = []
    for name in shown:
        row = [name]
        for phase in (ONE, known(name).best_idiom or ""):
            row += [_us(over_rounds(found, name, cpu_us(phase, who))) for who in whos]
        rows.append(row)
    return Table("CPU of one call, microseconds (medians)", columns, rows)


def _us(spread: Spread | None) -> str:
    return cell(None) if spread is None else number(spread.median)
