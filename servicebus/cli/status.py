"""``servicebus status``: how the workers of an agent are, asked over its status socket; or how the fleet is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from servicebus.cli.agent_socket import ask_agent, socket_option, socket_path
from servicebus.cli.exit_codes import ExitCode
from servicebus.cli.fleet_status import fleet_status
from servicebus.cli.options import TEXT, Seconds, config_source, json_option, timeout_option
from servicebus.cli.output import Output
from servicebus.configuration import Configuration
from servicebus.wire.printable import printable

if TYPE_CHECKING:
    from rich.table import Table

HEALTHY = ("consuming", "leaving", "drained")
"""``leaving`` and ``drained``: an operator takes the broker out of service."""
STALE_S = 5.0
"""A worker sends a heartbeat every second; one that has not for so long may have frozen in its last state."""


@click.command()
@config_source(is_argument=True, required=False)
@socket_option
@click.option("--fleet", is_flag=True, help="All nodes, asked over the brokers of the file.")
@click.option("--nodes", "pattern", type=TEXT, metavar="PATTERN", help="As --fleet, but these alone: 'NODE-*'.")
@click.option(
    "--over", type=Seconds(), default=1.0, metavar="SECONDS", help="Of --fleet: rates are over so long. Default: 1."
)
@timeout_option("3", 3.0)
@json_option
@click.pass_context
def status(
    ctx: click.Context, configuration: Configuration | None, path: str | None, fleet: bool, pattern: str | None,
    over: float, timeout: float,
) -> None:  # fmt: skip
    """Print how the workers of the agent are that FILE describes; with --fleet, how all nodes are.

    Exit status 0 if every worker is consuming and healthy, 1 if one is not, 4 if no agent answers. Of the fleet, which
    is also what a file without node_name and status_socket means, 1 if something is wrong with a node, 4 if no node
    answers, 10 if a broker could not be asked.
    """
    if fleet or pattern is not None or (path is None and configuration is not None and _is_of_sender(configuration)):
        if configuration is None or path is not None:
            raise click.UsageError("the fleet is asked over the brokers of a file: name that, and no --socket")
        fleet_status(ctx, configuration, pattern or "*", timeout, over)
    output = ctx.ensure_object(Output)
    document = ask_agent(socket_path(configuration, path), timeout, output).document
    output.result(document, "" if output.json else _as_table(document))
    workers = document["workers"]
    ctx.exit(ExitCode.OK if workers and all(map(is_healthy, workers)) else ExitCode.FAILED)


def _is_of_sender(configuration: Configuration) -> bool:
    """No agent is meant: its file would say which."""
    return configuration.status_socket is None and not configuration.names_node


def is_healthy(worker: dict[str, Any]) -> bool:
    age = worker.get("heartbeat_age_s", worker.get("beat_age_s"))
    is_well = worker.get("state") in HEALTHY and (worker.get("state") != "consuming" or worker.get("healthy", True))
    return bool(is_well) and isinstance(age, (int, float)) and age < STALE_S


def _as_table(document: dict[str, Any]) -> str:
    from rich.console import Console

    console = Console()
    with console.capture() as capture:
        console.print(_table(document))
    return "\n".join([capture.get().rstrip("\n"), *_of_reload(document.get("reload", {}))])


def _of_reload(report: dict[str, Any]) -> list[str]:
    """Of the last one, what an operator has to do."""
    lines = [f"the last reload was {report['state']}: {report['error']}"] if report.get("error") else []
    pending = ", ".join(each["key"] for each in report.get("needs_restart", ()))
    lines += [f"needs a restart: {pending}"] if pending else []
    lines += [f"since the last reload: {each}" for each in report.get("failed", ())]
    return list(map(printable, lines))


def _table(document: dict[str, Any]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(printable(f"{document.get('node', '?')} (pid {document.get('pid', '?')})")), title_justify="left"
    )
    for heading in ("host", "state", "pid", "heartbeat", "restarts", "details"):
        table.add_column(heading, overflow="fold")
    for worker in document["workers"]:
        host, state, pid, restarts = (str(worker.get(key, "?")) for key in ("host", "state", "pid", "restarts"))
        # Text, because rich reads markup in plain strings: the host [::1]:5672 would lose its address.
        row = [Text(printable(cell)) for cell in (host, state, pid, _age(worker), restarts, _details(worker))]
        row[1].stylize("green" if is_healthy(worker) else "bold red")
        table.add_row(*row)
    return table


def _age(worker: dict[str, Any]) -> str:
    age = worker.get("heartbeat_age_s", worker.get("beat_age_s"))
    return f"{age:.1f} s ago" if isinstance(age, (int, float)) else "never"


def _details(worker: dict[str, Any]) -> str:
    if worker.get("last_error"):
        return str(worker["last_error"])
    if worker.get("problems"):
        return "; ".join(map(str, worker["problems"]))
    counters = worker.get("counters")
    return "  ".join(f"{name} {value}" for name, value in counters.items()) if isinstance(counters, dict) else ""
