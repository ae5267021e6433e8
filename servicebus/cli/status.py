"""``servicebus status``: how the workers of an agent are, asked over its status socket."""

from __future__ import annotations

import json
import socket
import time
from typing import TYPE_CHECKING, Any

import click

from servicebus.cli.exit_codes import ExitCode
from servicebus.cli.group import Failure
from servicebus.cli.options import CONFIG_VARIABLE, config_source, json_option, timeout_option
from servicebus.cli.output import Output
from servicebus.configuration import Configuration
from servicebus.errors import ConfigurationError
from servicebus.wire.printable import printable

if TYPE_CHECKING:
    from rich.table import Table

HEALTHY = ("consuming", "leaving", "drained")
"""``leaving`` and ``drained``: an operator takes the broker out of service."""
STALE_S = 5.0
"""A worker sends a heartbeat every second; one that has not for so long may have frozen in its last state."""
MAX_BYTES = 16 * 1024 * 1024


@click.command()
@config_source(is_argument=True, required=False)
@click.option("--socket", "path", metavar="PATH", help="The status socket itself, instead of the file that names it.")
@timeout_option("3", 3.0)
@json_option
@click.pass_context
def status(ctx: click.Context, configuration: Configuration | None, path: str | None, timeout: float) -> None:
    """Print how the workers of the agent are that FILE describes.

    Exit status 0 if every worker is consuming and healthy, 1 if one is not, 4 if no agent answers.
    """
    output = ctx.ensure_object(Output)
    document = _ask(_socket_path(configuration, path), timeout, output)
    output.result(document, "" if output.json else _as_table(document))
    workers = document["workers"]
    ctx.exit(ExitCode.OK if workers and all(map(_is_healthy, workers)) else ExitCode.FAILED)


def _is_healthy(worker: dict[str, Any]) -> bool:
    age = worker.get("heartbeat_age_s", worker.get("beat_age_s"))
    is_well = worker.get("state") in HEALTHY and (worker.get("state") != "consuming" or worker.get("healthy", True))
    return bool(is_well) and isinstance(age, (int, float)) and age < STALE_S


def _socket_path(configuration: Configuration | None, path: str | None) -> str:
    if path is not None:
        return path
    if configuration is None:
        raise click.UsageError(f"say which agent: FILE, -c FILE, ${CONFIG_VARIABLE} or --socket PATH")
    if configuration.status_socket is None:
        raise ConfigurationError("status_socket is not set, so the agent cannot be asked", path=configuration.path)
    return configuration.status_socket


def _ask(path: str, timeout_s: float, output: Output) -> dict[str, Any]:
    try:
        document = json.loads(_read_all(path, timeout_s))
        if isinstance(document, dict) and all(isinstance(worker, dict) for worker in document["workers"]):
            return document
        reason = "the answer is none of an agent"
    except TimeoutError:
        reason = f"no answer within {timeout_s:g} s"
    except OSError as error:
        reason = error.strerror or str(error)
    except (ValueError, KeyError, TypeError):
        reason = "the answer is none of an agent"
    raise Failure(
        "AgentUnavailable", f"no agent answers on {path}: {reason}", ExitCode.UNAVAILABLE, as_json=output.json
    )


def _read_all(path: str, timeout_s: float) -> bytes:
    """What the socket says until it ends; the limit holds for the whole of it, not for each piece."""
    deadline = time.monotonic() + timeout_s
    received = bytearray()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        connection.connect(path)
        while piece := connection.recv(65536):
            received += piece
            if time.monotonic() > deadline or len(received) > MAX_BYTES:
                raise TimeoutError
            connection.settimeout(max(deadline - time.monotonic(), 0.001))  # 0 would mean non-blocking
    return bytes(received)


def _as_table(document: dict[str, Any]) -> str:
    from rich.console import Console

    console = Console()
    with console.capture() as capture:
        console.print(_table(document))
    return capture.get().rstrip("\n")


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
        row[1].stylize("green" if _is_healthy(worker) else "bold red")
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
