"""``servicebus top``: the fleet as it is now, over and over."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from servicebus.cli.options import TEXT, Seconds, config_option, json_option
from servicebus.cli.output import Output
from servicebus.cli.terminating import term_as_ctrl_c
from servicebus.configuration import Configuration

if TYPE_CHECKING:
    from rich.table import Table

    from servicebus.fleet.view import Change, FleetView
    from servicebus.fleet.watch import FleetWatch

__all__ = ["top"]

_SORTS = ("service", "per s", "failed/s", "p99 ms", "in flight")
_MOST_CHANGES = 20
_FIRST_S = 1.0
"""From the first question to the second, without which there are no rates."""


@click.command()
@click.argument("pattern", type=TEXT, default="*")
@config_option
@click.option("--interval", type=Seconds(), default=2.0, metavar="SECONDS", help="Ask the nodes so often. Default: 2.")
@click.option("--once", is_flag=True, help="Ask twice, one second apart, print what that shows, and end.")
@click.option(
    "--sort",
    type=click.Choice(_SORTS),
    default="per s",
    help="Services by this column. Default: per s.",
)
@click.option("--plain", is_flag=True, help="Tables without keys, also where the extra tui is installed.")
@json_option
@click.pass_context
def top(
    ctx: click.Context, pattern: str, configuration: Configuration, interval: float, once: bool, sort: str, plain: bool
) -> None:
    """Show nodes, services, rates and latencies, over all brokers, until a key or a signal ends it.

    PATTERN is one for the names of nodes: 'NODE-*'; a name shows this node alone. On a terminal, and with
    pip install servicebus-failover[tui], tables can be sorted and filtered by keys. Into a pipe goes a table for each
    interval, or with --json a line of JSON. Exit status of --once as of status --fleet.

    Example: servicebus top -c conf/sender.yaml
    """
    from servicebus.fleet.watch import FleetWatch, unseen_fleet
    from servicebus.sender import Sender  # here, so that --help and completion do not wait for pika

    output = ctx.ensure_object(Output)
    changes: deque[Change] = deque(maxlen=_MOST_CHANGES)
    with Sender(configuration) as sender:
        known, how = unseen_fleet(configuration), {"every_s": interval, "load_every_s": 0.0}
        watch = FleetWatch(sender, known, lambda _view, found: changes.extend(found), pattern=pattern, **how)
        if once:
            _print_once(ctx, watch, output, sort)
        elif output.json or not _is_terminal():
            _print_each(watch, interval, lambda view: _print(view, output, sort))
        elif plain or not _has_screen():
            _draw(watch, interval, sort)
        else:
            _run_screen(watch, changes)


def _print_once(ctx: click.Context, watch: FleetWatch, output: Output, sort: str) -> None:
    from servicebus.cli.fleet_tables import end_with_status

    watch.look()
    time.sleep(_FIRST_S)
    watch.look()
    if watch.failure is not None:
        raise watch.failure
    _print(watch.view, output, sort)
    end_with_status(ctx, watch.view, output)


def _print_each(watch: FleetWatch, interval_s: float, show: Callable[[FleetView], None]) -> None:
    """Until a signal ends it, or the reader of the pipe has gone."""
    watch.look()
    time.sleep(min(_FIRST_S, interval_s))
    while True:
        began = time.monotonic()
        watch.look()
        show(watch.view)
        time.sleep(max(0.1, began + interval_s - time.monotonic()))


def _print(view: FleetView, output: Output, sort: str) -> None:
    from servicebus.cli.fleet_tables import text_of
    from servicebus.fleet.document import document_of_fleet

    now = time.time()
    output.result(document_of_fleet(view, now), "" if output.json else f"{text_of(*_parts(view, now, sort))}\n")


def _parts(view: FleetView, now: float, sort: str) -> list[Table | str]:
    """Tables and lines, from top to bottom."""
    from servicebus.cli.fleet_tables import table_of
    from servicebus.fleet.columns import SERVICE_COLUMNS, node_columns, sorted_by
    from servicebus.fleet.texts import headline, problem_lines, uncounted_line

    column = next(each for each in SERVICE_COLUMNS if each.title == sort)
    parts: list[Table | str] = [f"{time.strftime('%H:%M:%S', time.localtime(now))}  {headline(view)}"]
    parts += problem_lines(view)
    if view.nodes:
        parts += ["", table_of(node_columns(view), view.nodes.values())]
    if services := sorted_by(column, view.sums()):
        parts += ["", table_of(SERVICE_COLUMNS, services)]
    if uncounted := uncounted_line(view):
        parts += ["", uncounted]
    return parts


def _draw(watch: FleetWatch, interval_s: float, sort: str) -> None:
    """In place, on a terminal that has no more than rich."""
    from rich import console
    from rich.live import Live
    from rich.text import Text

    def drawn(view: FleetView) -> console.Group:
        parts = _parts(view, time.time(), sort)
        return console.Group(*(Text(part) if isinstance(part, str) else part for part in parts))

    # A terminal that is left as it was drawn on takes no more commands.
    with term_as_ctrl_c(), Live(drawn(watch.view), screen=True, auto_refresh=False) as live:
        _print_each(watch, interval_s, lambda view: live.update(drawn(view), refresh=True))


def _is_terminal() -> bool:
    return sys.stdout.isatty()


def _has_screen() -> bool:
    """Whether the extra tui is installed, and the terminal is where textual reads keys and draws."""
    from importlib.util import find_spec

    return sys.stdin.isatty() and sys.stderr.isatty() and find_spec("textual") is not None


def _run_screen(watch: FleetWatch, changes: deque[Change]) -> None:
    from servicebus.tui.app import TopApp

    watch.look()
    changes.clear()  # all that is there was new
    watch.start()
    try:
        TopApp(watch, changes).run()
    finally:
        watch.stop()
