"""Tables of the fleet for a terminal or a pipe, and the exit status that says how it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from servicebus.cli.exit_codes import ExitCode
from servicebus.cli.output import Output, warn
from servicebus.fleet.columns import Column
from servicebus.fleet.view import FleetView

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["end_with_status", "table_of", "text_of"]

_PIPE_COLUMNS = 240
"""A pipe has no width, and a row shall be a line."""


def table_of(columns: Sequence[Column[Any]], rows: Iterable[Any]) -> Table:
    """A table for rich."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(Text(column.title), justify="right" if column.is_number else "left", overflow="fold")
    for row in rows:
        # Text, because rich reads markup in plain strings: the host [::1]:5672 would lose its address.
        table.add_row(*(Text(column.text(row), column.style(row)) for column in columns))
    return table


def text_of(*parts: Table | str) -> str:
    """*parts*, one below the other, as wide as the terminal."""
    from rich.console import Console
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console = Console(width=_PIPE_COLUMNS)
    with console.capture() as capture:
        for part in parts:
            console.print(Text(part) if isinstance(part, str) else part)
    return "\n".join(line.rstrip() for line in capture.get().rstrip("\n").splitlines())


def end_with_status(ctx: click.Context, view: FleetView, output: Output, unasked: Iterable[str] = ()) -> None:
    """End the command with the status that *view* comes to.

    Args:
        unasked: brokers that could not be asked for something else.
    """
    if not any(node.answers for node in view.nodes.values()):
        if not output.json:
            warn("no node has answered")
        ctx.exit(ExitCode.UNAVAILABLE)
    if any(not node.is_well for node in view.nodes.values()):
        ctx.exit(ExitCode.FAILED)
    is_partial = any(broker.problem for broker in view.brokers) or any(True for _ in unasked)
    ctx.exit(ExitCode.PARTIAL if is_partial else ExitCode.OK)
