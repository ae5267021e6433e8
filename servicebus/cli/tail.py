"""``servicebus tail``: the log records of nodes as they come, over the bus itself."""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING, Any

import click

from servicebus.cli.exit_codes import ExitCode
from servicebus.cli.options import TEXT, Seconds, config_option, json_option
from servicebus.cli.output import Output, note, warn
from servicebus.cli.terminating import term_as_ctrl_c
from servicebus.configuration import Configuration
from servicebus.errors import NoBrokerAvailable
from servicebus.wire.printable import counted, printable

if TYPE_CHECKING:
    from servicebus.client.tails import LogTail, Tailed

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_LOOK_S = 0.5
_FIRST_S = 3.0
"""So long nodes have to answer before it is said that none has."""
_COLOURS = ((logging.ERROR, "red"), (logging.WARNING, "yellow"), (logging.INFO, "green"))


@click.command()
@click.argument("pattern", type=TEXT, default="*")
@config_option
@click.option(
    "--level", type=click.Choice(LEVELS, case_sensitive=False), default="DEBUG", metavar="LEVEL",
    help="Records at this level and above. Default: all that nodes log.",
)  # fmt: skip
@click.option(
    "--service", type=TEXT, default="", metavar="PATTERN",
    help="Records made while such a service ('math.*') runs; of a name without wildcards also those that name it.",
)  # fmt: skip
@click.option(
    "--id", "request", type=TEXT, default="", metavar="ID",
    help="Records made while this request is served, and those that name it.",
)  # fmt: skip
@click.option("--timeout", type=Seconds(), metavar="SECONDS", help="End after so long. Default: with Ctrl-C.")
@json_option
@click.pass_context
def tail(
    ctx: click.Context, pattern: str, configuration: Configuration, level: str, service: str, request: str,
    timeout: float | None,
) -> None:  # fmt: skip
    """Show the log records of nodes as they come, over every broker of the file.

    PATTERN is one for the names of nodes: 'NODE-*'. No way to their machines is needed, and no log server. Exit status
    4 if none answers, 6 if all refuse, 10 if one refuses or a broker could not be used; without --timeout it ends with
    Ctrl-C: 130.
    """
    from servicebus._discovering import tail_logs
    from servicebus.sender import Sender  # here, so that --help and completion do not wait for pika

    output, ends_at = ctx.ensure_object(Output), math.inf if timeout is None else time.monotonic() + timeout
    number = getattr(logging, level.upper())
    with term_as_ctrl_c(), Sender(configuration) as sender:
        with tail_logs(sender, pattern, number, service=service, request=request) as found:
            told = Told(output, found)
            while (left_s := ends_at - time.monotonic()) > 0 and not (told.is_hopeless or found.has_ended):
                for each in found.take(min(left_s, _LOOK_S)):
                    output.result(document_of(each), as_text(each))
                told.look()
        _end(ctx, output, found, pattern)


class Told:
    """What is said on stderr beside the records: who sends them, who does not, and why."""

    def __init__(self, output: Output, found: LogTail):
        self._is_quiet = output.json
        self._found = found
        self._nodes: set[str] = set()
        self._problems: dict[str, str] = {}
        self._refusals: set[str] = set()
        self._first_at = time.monotonic() + _FIRST_S
        self._has_missed = False

    @property
    def is_hopeless(self) -> bool:
        """All that have answered refuse."""
        return bool(self._found.refusals) and not self._found.nodes and time.monotonic() > self._first_at

    def look(self) -> None:
        """Say what has changed."""
        if self._is_quiet:
            return
        nodes, problems = set(self._found.nodes), dict(self._found.problems)
        if fresh := nodes - self._nodes:
            note(f"{', '.join(sorted(fresh))}: log records come from here on")
        for broker, why in problems.items():
            if why != self._problems.get(broker):
                warn(f"{broker}: nothing comes over this broker: {why}")
        for broker in self._problems.keys() - problems.keys():
            note(f"{broker}: log records come over this broker again")
        for why in set(self._found.refusals) - self._refusals:
            warn(why)
        if not (nodes or self._has_missed) and time.monotonic() > self._first_at:
            self._has_missed = True
            warn("no node has answered yet; they are asked again until one does")
        self._nodes, self._problems, self._refusals = nodes, problems, set(self._found.refusals)


def _end(ctx: click.Context, output: Output, found: LogTail, pattern: str) -> None:
    if found.nodes:
        ctx.exit(ExitCode.PARTIAL if found.refusals or found.problems else ExitCode.OK)
    if found.refusals:
        ctx.exit(ExitCode.REFUSED)
    if found.problems:
        raise NoBrokerAvailable(pattern, [*found.problems.items()], "no node has answered")
    if not output.json:
        warn("no node has answered")
    ctx.exit(ExitCode.UNAVAILABLE)


def document_of(each: Tailed) -> dict[str, Any]:
    """Of ``--json``: a line for each record, or for what was left out."""
    where = {
        "node": each.node,
        "machine": each.machine,
        "broker": each.broker,
        "process": each.process,
        "pid": each.pid,
    }
    if each.record is None:
        return {**where, "left_out": each.left_out}
    record = each.record
    return {
        "time": record.created,
        "level": record.level_name,
        **where,
        "logger": record.logger,
        "thread": record.thread,
        "service": record.service,
        "request_id": record.request_id,
        "caller": record.caller,
        "trace_id": record.trace_id,
        "span_id": record.span_id,
        "message": record.message,
    }


def as_text(each: Tailed) -> str:
    """A line for people, its further lines indented; nothing in it moves the cursor. Colours are left to a terminal."""
    record = each.record
    if record is None:
        where = f"{each.node} {each.process}[{each.pid}]" if each.node else "here"
        return click.style(printable(f"-- {where}: {counted(each.left_out, 'record')} left out"), fg="magenta")
    second = int(record.created)
    moment = f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(second))}.{int((record.created - second) * 1000):03d}"
    colour = next((colour for level, colour in _COLOURS if record.level >= level), None)
    level, id = printable(record.level_name), printable(record.request_id)
    about = f" [{id}]" if id and id not in record.message else ""
    parts = [
        moment,
        click.style(printable(each.node), bold=True),
        printable(f"{each.process}[{each.pid}]"),
        click.style(level, fg=colour) if colour else level,
        f"{printable(record.logger)}:",
    ]
    first, *others = printable(record.message, keep_newlines=True).split("\n")
    return "\n".join([f"{' '.join(parts)} {first}{about}", *(f"    {line}" for line in others)])
