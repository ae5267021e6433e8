"""``bench report``: tables, plots, goals and the page of docs/ once more, from the JSON that is there."""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks.suite import cli
from benchmarks.suite.goals import write
from benchmarks.suite.page import fill
from benchmarks.suite.results import load, publish
from benchmarks.suite.settings import RESULTS


@click.command("report")
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, help="Folder.")
def command(results: Path) -> None:
    """Write the tables and plots again from the JSON of earlier runs, and the tables of docs/speed.rst."""
    for name in cli.PARTS:
        found = load(results, name)
        if found is not None:
            publish(found, results, cli.part(name).report(found))
            click.echo(f"{name}: {results / name}.rst")
    if (goals := write(results)) is not None:
        click.echo(goals.markdown())
    if results == RESULTS:
        fill(results)
