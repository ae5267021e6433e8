"""``bench all``: every part with its defaults, then the goals."""

from __future__ import annotations

import time
import traceback
from pathlib import Path

import click

from benchmarks.suite import cli
from benchmarks.suite.goals import write
from benchmarks.suite.page import fill
from benchmarks.suite.settings import RESULTS


@click.command("all")
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, help="Folder.")
@click.option("--rounds", type=int, help="For more detail; without it each part's own.")
def command(results: Path, rounds: int | None) -> None:
    """Every part with its defaults, one after the other, then the goals."""
    failed = []
    for name in cli.PARTS:
        started = time.monotonic()
        try:
            part = cli.part(name).command
            part.main(_arguments(part, results, rounds), prog_name=f"bench {name}", standalone_mode=False)
        except Exception:  # the other parts are worth their time all the same
            traceback.print_exc()
            failed.append(name)
        click.echo(f"bench: {name} took {time.monotonic() - started:.0f} s", err=True)
    if (goals := write(results)) is not None:
        click.echo(goals.markdown())
    if results == RESULTS:
        fill(results)
    if failed:
        raise click.ClickException(f"failed: {', '.join(failed)}")


def _arguments(part: click.Command, results: Path, rounds: int | None) -> list[str]:
    has_rounds = any(option.name == "rounds" for option in part.params)
    return ["--results", str(results), *(["--rounds", str(rounds)] if rounds and has_rounds else [])]
