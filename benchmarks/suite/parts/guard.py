"""``bench guard``: this commit against an earlier one, pair by pair; fails if it has become slower or larger."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.progress import track

from benchmarks.suite.growth.nodes import host
from benchmarks.suite.guard.results import LIMIT, Finding, exit_status, judge
from benchmarks.suite.guard.revisions import has_changes, last_release, python_of, resolve
from benchmarks.suite.guard.sides import PHASES, Side, sides
from benchmarks.suite.results import Report, document, keep
from benchmarks.suite.settings import RESULTS, ROOT, Settings
from benchmarks.suite.spread import Spread, cell
from benchmarks.suite.tables import Table
from servicebus.testing import brokers

ENVIRONMENTS = ROOT / ".venv" / "guard"
MEMORY = "memory"
CPU = {phase: f"CPU, {phase}" for phase in PHASES}
"""What a call or message costs; far less noisy than how many there are a second."""
_AWAKE_S = 0.2
"""Between two phases both sides are awake for so long, and the one that was stopped answers its pings."""


@click.command("guard")
@click.option("--against", metavar="REVISION", help="The last release by default.")
@click.option("--rounds", default=9, show_default=True, help="Pairs; with fewer than four nothing can be told.")
@click.option("--seconds", default=1.5, show_default=True, help="Length of one measured phase.")
@click.option(
    "--environments", type=click.Path(path_type=Path), default=ENVIRONMENTS, help="Folder for what is installed."
)
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, help="Folder.")
@click.option("--json", "prints_json", is_flag=True, help="Print the document instead of the tables.")
def command(
    against: str | None, rounds: int, seconds: float, environments: Path, results: Path, prints_json: bool
) -> None:
    """This commit against an earlier one, pair by pair.

    Exit status 1 if sequential calls, 64 in flight, messages, the CPU time of one of each, or memory are worse by more
    than a tenth (median of the pairs), 2 if the pairs differ too much to tell, 0 if all is well. What is not committed
    is not measured.
    """
    revision = against or last_release()
    settings = Settings(rounds=rounds, seconds=seconds, results=results, prints_json=prints_json)
    if has_changes():
        click.echo("servicebus/ has changes that are not committed; they are not measured", err=True)
    found = run(settings, {"ours": resolve("HEAD"), "theirs": resolve(revision)}, revision, environments)
    keep(found, settings, report(found))
    sys.exit(exit_status(_findings(found)))


def run(settings: Settings, commits: Mapping[str, str], revision: str, environments: Path) -> dict[str, Any]:
    began = time.time()
    pythons = {name: python_of(commit, environments.absolute()) for name, commit in commits.items()}
    rounds = []
    with (
        brokers(count=1) as (broker,),
        tempfile.TemporaryDirectory(prefix="guard-") as folder,
        sides(pythons, [host(broker)], Path(folder)) as (ours, theirs),
    ):
        for side in (ours, theirs):
            for phase in PHASES:
                side.measure(phase, min(1.0, settings.seconds))
        for number in track(range(settings.rounds), "guard", transient=True):
            # Who is first changes: whatever a phase leaves behind hits both alike.
            pair = (ours, theirs) if number % 2 else (theirs, ours)
            rounds.append(_round(pair, settings.seconds))
    return document("guard", settings, rounds, began, against=revision, commits=dict(commits))


def _round(pair: tuple[Side, Side], seconds: float) -> dict[str, Any]:
    found: dict[str, Any] = {side.name: {} for side in pair}
    for phase in PHASES:
        for side, other in (pair, pair[::-1]):
            time.sleep(_AWAKE_S)
            other.freeze()
            try:
                found[side.name][phase], found[side.name][CPU[phase]] = side.measure(phase, seconds)
            finally:
                other.thaw()
    for side in pair:
        found[side.name][MEMORY] = side.memory_mb()
    return found


def times_worse(rounds: list[dict[str, Any]], figure: str) -> list[float]:
    """Of ours, round by round: more than 1 is slower, or larger."""
    pairs = [(each["ours"][figure], each["theirs"][figure]) for each in rounds]
    return [theirs / ours if figure in PHASES else ours / theirs for ours, theirs in pairs]


def _findings(found: Mapping[str, Any]) -> list[Finding]:
    return [judge(figure, times_worse(found["results"], figure)) for figure in (*PHASES, *CPU.values(), MEMORY)]


def report(found: Mapping[str, Any]) -> Report:
    rows = []
    for finding in _findings(found):
        spreads = [Spread.of(each[side][finding.name] for each in found["results"]) for side in ("ours", "theirs")]
        rows.append([finding.name, *map(cell, spreads), finding.text(), finding.result.value])
    commits = found["commits"]
    headings = ["figure", "this commit", found["against"], f"times worse (limit {LIMIT:.2f})", "verdict"]
    ours, theirs = (commits[side][:12] for side in ("ours", "theirs"))
    note = (
        "Calls or messages a second; microseconds of CPU of master, worker and caller for one; their MB. "
        f"{ours} against {theirs}."
    )
    return Report("Guard", [Table("This commit against an earlier one", headings, rows, note)])
