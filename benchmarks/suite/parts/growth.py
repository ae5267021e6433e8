"""``bench growth``: what a call costs when there is more and more of something, and the shape of each curve."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click

from benchmarks.suite.charts import Curves
from benchmarks.suite.goals import Goal
from benchmarks.suite.growth import backlog
from benchmarks.suite.growth.curves import CURVES, Stage
from benchmarks.suite.growth.shapes import Points, shape
from benchmarks.suite.results import Report, document, keep, load
from benchmarks.suite.rounds import interleaved
from benchmarks.suite.settings import Settings, shared_options
from benchmarks.suite.spread import Spread, cell, number
from benchmarks.suite.tables import Table

BACKLOG = "backlog"
NAMES = (*list(CURVES)[:5], BACKLOG, *list(CURVES)[5:])
LABELS = {**{name: curve.x_label for name, curve in CURVES.items()}, BACKLOG: "messages in the node's queue"}
NOTES = {
    **{name: curve.note for name, curve in CURVES.items()},
    BACKLOG: "The node's message service is held up; 0 is another node beside it, which has no messages.",
}
BACKLOG_GOAL = 1.10
MEASURES = {
    "us": "on the clock",
    "cpu_us": "CPU of all",
    "client_us": "caller",
    "node_us": "node",
    "broker_us": "broker",
}


@click.command("growth")
@click.option("--most", type=int, help="Of messages in the backlog; a million by default.")
@shared_options(rounds=3, seconds=1.0)
def command(settings: Settings, most: int | None) -> None:
    """What a call costs against services, hosts, callers, nodes, params, backlog, workers and journal."""
    found = run(settings, most)
    keep(found, settings, report(found))


def run(settings: Settings, most: int | None = None) -> dict[str, Any]:
    began = time.time()
    levels = [level for level in backlog.LEVELS if most is None or level <= most]
    results: list[dict[str, Any]] = []
    for name in NAMES:
        if not settings.wants(name):
            continue
        with _stage(settings) as stage:
            if name == BACKLOG:
                results += backlog.measure(stage, settings, levels)
            else:
                measurements = CURVES[name].measurements(stage)
                results += interleaved(f"growth, {name}", measurements, settings.rounds, settings.wait_limit_s)
    return document("growth", settings, _with_those_of_before(settings, results), began)


@contextmanager
def _stage(settings: Settings) -> Iterator[Stage]:
    with tempfile.TemporaryDirectory(prefix="growth-") as folder, ExitStack() as stack:
        yield Stage(Path(folder), settings.seconds, stack)


def _with_those_of_before(settings: Settings, results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Curves that were not measured now stay as they were: each runs alone, and one table shows all."""
    measured = {_curve(result) for result in results}
    before = load(settings.results, "growth")
    kept = [result for result in (before["results"] if before else []) if _curve(result) not in measured]
    return [{"measured": time.strftime("%Y-%m-%d %H:%M"), **result} for result in results] + kept


def _curve(result: Mapping[str, Any]) -> str:
    """Also of one that failed, and has nothing but its name."""
    return str(result["name"]).partition(" ")[0]


def report(found: Mapping[str, Any]) -> Report:
    results = found["results"]
    by_curve = {name: [result for result in results if _curve(result) == name] for name in NAMES}
    measured = {name: rows for name, rows in by_curve.items() if rows}
    tables = [_shapes_table(by_curve)]
    tables += [_curve_table(name, rows) for name, rows in measured.items()]
    charts = [
        Curves(f"A call against {LABELS[name]}", LABELS[name], "us", _drawn(rows), log_y=name == "params")
        for name, rows in measured.items()
        if _drawn(rows)
    ]
    return Report("Growth", tables, charts)


def goals(found: Mapping[str, Any]) -> list[Goal]:
    """Calls while a million messages wait, within a tenth of those without."""
    rows = [result for result in found["results"] if _curve(result) == BACKLOG]
    made = []
    for line in lines_of(rows):
        took = Spread.of(backlog_ratios(rows, line, max(backlog.LEVELS)))
        is_met = None if took is None else took.median <= BACKLOG_GOAL
        text = cell(took) if took is None else f"{took} of its time"
        made.append(Goal("backlog", f"without, {line}", f"{BACKLOG_GOAL:g} of its time", text, is_met))
    return made


def points(rows: Sequence[Mapping[str, Any]], line: str, measure: str) -> list[tuple[float, Spread]]:
    """One line of a curve, in ascending order of x."""
    xs = sorted({row["x"] for row in rows if row.get("line") == line})
    spreads = ((x, Spread.of(row[measure] for row in rows if row.get("line") == line and row["x"] == x)) for x in xs)
    return [(x, spread) for x, spread in spreads if spread is not None]


def lines_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(row["line"] for row in rows if "line" in row))


def failures(rows: Sequence[Mapping[str, Any]], line: str) -> list[float]:
    """The x at which a line failed, from the names of its measurements."""
    found = []
    for row in rows:
        _, x, name = row["name"].replace(", ", " ", 1).split(" ", 2)
        if "error" in row and name == line:
            found.append(float(x.replace(",", "")))
    return found


def _drawn(rows: Sequence[Mapping[str, Any]]) -> dict[str, Points]:
    drawn: dict[str, Points] = {}
    for line in lines_of(rows):
        drawn[f"{line}, clock"] = points(rows, line, "us")
        drawn[f"{line}, CPU of all"] = points(rows, line, "cpu_us")
    return drawn


def _shapes_table(by_curve: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table:
    rows = []
    for name, results in by_curve.items():
        if not results:
            rows.append([LABELS[name], "not measured", *[""] * 4])
        for line in lines_of(results):
            on_the_clock = points(results, line, "us")
            of_the_cpu = points(results, line, "cpu_us")
            failed = failures(results, line)
            rows.append([LABELS[name], line, _reach(on_the_clock), shape(on_the_clock, failed).text(),
                         shape(of_the_cpu, failed).text(), _goal(name, results, line)])  # fmt: skip
    headings = ["against", "line", "from, to", "on the clock", "CPU of all", "goal"]
    note = (
        "Flat is what stays within 15 % of its middle, linear what a + b x misses by no more; more is tolerated where"
        " the rounds of a point differ by more."
    )
    return Table("Shapes", headings, rows, note)


def _reach(line: Points) -> str:
    return f"{line[0][0]:,} to {line[-1][0]:,}" if line else "not measured"


def _goal(name: str, rows: Sequence[Mapping[str, Any]], line: str) -> str:
    if name != BACKLOG:
        return "-"
    ratios = backlog_ratios(rows, line, max(row["level"] for row in rows if "level" in row))
    if not ratios:
        return "not measured"
    verdict = "met" if statistics.median(ratios) <= BACKLOG_GOAL else "MISSED"
    return f"{verdict}: {number(statistics.median(ratios))} of without"


def backlog_ratios(rows: Sequence[Mapping[str, Any]], line: str, level: int) -> list[float]:
    """What a call costs with *level* messages waiting, in that of one without, round by round."""
    of_level = [row for row in rows if row.get("level") == level and row["line"] == line]
    without = {row["round"]: row["us"] for row in of_level if row["x"] == backlog.REFERENCE}
    return [row["us"] / without[row["round"]] for row in of_level if row["x"] == level and row["round"] in without]


def _curve_table(name: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    cells = []
    for line in lines_of(rows):
        for x, spread in points(rows, line, "us"):
            others = [cell(_at(rows, line, x, measure)) for measure in list(MEASURES)[1:]]
            per_s = _at(rows, line, x, "per_s")
            cells.append([f"{x:,}", line, cell(spread), cell(per_s), *others])
        cells += [[f"{x:,.0f}", line, "failed", *[""] * len(MEASURES)] for x in sorted(set(failures(rows, line)))]
    headings = [
        LABELS[name],
        "line",
        "us on the clock",
        "calls/s",
        *(f"us {text}" for text in list(MEASURES.values())[1:]),
    ]
    return Table(f"A call against {LABELS[name]}", headings, cells, _note(name, rows))


def _at(rows: Sequence[Mapping[str, Any]], line: str, x: float, measure: str) -> Spread | None:
    return dict(points(rows, line, measure)).get(x)


def _note(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    notes = [NOTES[name], f"Measured {max(row.get('measured', '') for row in rows)}."]
    if name == BACKLOG:
        notes += [
            f"With {level:,} sent, {min(row['waiting'] for row in rows if row.get('level') == level):,} or more waited"
            " in the node's queues."
            for level in sorted({row["level"] for row in rows if "level" in row})
        ]
    return " ".join(note for note in notes if note)
