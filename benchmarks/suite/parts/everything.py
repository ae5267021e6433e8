"""``bench all``: every part with its defaults, then the goals."""

from __future__ import annotations

import click

from benchmarks.suite import cli
from benchmarks.suite.parts.again import write_goals


@click.command("all")
@click.option("--results", type=click.Path(path_type=str), help="Folder.")
@click.pass_context
def command(ctx: click.Context, results: str | None) -> None:
    """Every part with its defaults, one after the other, then the goals."""
    folder = ["--results", results] if results else []
    for name in cli.PARTS:
        cli.part(name).command.main([*folder], prog_name=f"bench {name}", standalone_mode=False)
    write_goals(folder[1] if folder else None)
