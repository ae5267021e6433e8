"""What was promised, and whether it is met: ``goals.rst``, from the JSON of the parts.

A part that decides some of it has ``goals(document)``, which returns `Goal` objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.suite import cli
from benchmarks.suite.readings import Found, Reader, by_round
from benchmarks.suite.results import load
from benchmarks.suite.spread import NOT_MEASURED, Spread, number
from benchmarks.suite.tables import Table

MET, MISSED = "met", "MISSED"
ROWS = {
    "one caller": "one caller, blocking `call`, service in its own thread",
    "in flight": "64 in flight, `call_async`",
    "threads": "64 blocking threads",
    "end to end": "confirmed durable messages, end to end through handler and ack",
    "publish": "confirmed publish, many in flight",
    "events": "events to ten subscribing nodes",
    "100 KB": "params of 100 KB, one caller",
    "workers": "two workers per host, two client processes",
    "backlog": "calls with 1,000,000 messages waiting for the same node",
    "logs": "log records through to the file, 8 processes",
    "failover": "failover",
    "memory": "memory and idle",
}
"""By the key that goals name, in the order of the table."""


@dataclass(frozen=True)
class Goal:
    """One promise. ``is_met`` is None where it was not measured."""

    row: str
    """A key of `ROWS`."""
    what: str
    """Against whom, or of what."""
    wanted: str
    found: str
    is_met: bool | None

    @property
    def result(self) -> str:
        return NOT_MEASURED if self.is_met is None else MET if self.is_met else MISSED


def at_least(row: str, what: str, limit: float, found: Spread | None) -> Goal:
    """So many times as fast as another."""
    text = NOT_MEASURED if found is None else f"{found.median:.2f} x" + _range(found)
    return Goal(row, what, f"{limit:g} x", text, None if found is None else found.median >= limit)


def ratios(
    document: Found, ours: tuple[str, Reader], theirs: Sequence[tuple[str, Reader]]
) -> tuple[str, Spread | None]:
    """How many times as fast as the best of *theirs*, and who that is: the ratio of the medians, and of each round."""
    mine = by_round(document, *ours)
    others = {name: by_round(document, name, read) for name, read in theirs}
    medians = {name: spread for name, values in others.items() if (spread := Spread.of(values.values())) is not None}
    our_median = Spread.of(mine.values())
    if our_median is None or not medians:
        return "", None
    best = max(medians, key=lambda name: medians[name].median)
    each = [mine[number] / others[best][number] for number in mine.keys() & others[best].keys()]
    ratio = our_median.median / medians[best].median
    return best, Spread(ratio, min(each, default=ratio), max(each, default=ratio), len(each))


def write(folder: Path) -> Table | None:
    """Write ``goals.rst``; returns the table, None if nothing was measured."""
    found: list[Goal] = []
    dates = []
    for name in cli.PARTS:
        document = load(folder, name)
        if document is not None and (goals := getattr(cli.part(name), "goals", None)) is not None:
            found += goals(document)
            dates.append(f"{name} {document['machine']['date']} ({document['rounds']} rounds)")
    if not found:
        return None
    made = table(found, ", ".join(dates))
    (folder / "goals.rst").write_text(made.rst())
    return made


def table(found: Iterable[Goal], dates: str) -> Table:
    """In the order of the rows; one that no part has decided says that it was not measured."""
    rows: list[list[str]] = []
    by_row: dict[str, list[Goal]] = {key: [] for key in ROWS}
    for goal in found:
        by_row[goal.row].append(goal)
    for key, goals in by_row.items():
        if not goals:
            rows.append([ROWS[key], "", "", NOT_MEASURED, NOT_MEASURED])
        rows += [[ROWS[key] if not index else "", goal.what, goal.wanted, goal.found, goal.result]
                 for index, goal in enumerate(goals)]  # fmt: skip
    note = f"Ratios of medians, and of the single rounds from lowest to highest. Measured: {dates}."
    return Table("What was promised", ["", "against, or of", "wanted", "found", "verdict"], rows, note)


def _range(found: Spread) -> str:
    return f" ({number(found.low)} to {number(found.high)})" if found.count > 1 else ""
