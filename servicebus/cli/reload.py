"""``servicebus reload``: has the agent of this machine read its configuration again, and says what became of it."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import click

from servicebus.cli.agent_socket import AgentAnswer, ask_agent, socket_option, socket_path
from servicebus.cli.exit_codes import ExitCode
from servicebus.cli.group import Failure
from servicebus.cli.options import config_source, json_option, timeout_option
from servicebus.cli.output import Output, note, said_while_waiting
from servicebus.configuration import Configuration
from servicebus.wire.printable import printable

_ASK_S = 3.0
_LOOK_S = 0.1
_DEFAULT_S = 300.0
_ENDS = {"done": "reloaded", "refused": "refused, nothing was changed", "taken-back": "taken back"}


@click.command()
@config_source(is_argument=True, required=False)
@socket_option
@timeout_option("300", _DEFAULT_S)
@json_option
@click.pass_context
def reload(ctx: click.Context, configuration: Configuration | None, path: str | None, timeout: float) -> None:
    """Have the agent that FILE describes read its file again, and wait until all of its workers have it.

    Calls go on meanwhile. Exit status 0 if all of it holds now, 10 if something needs a restart, 3 if the file
    cannot be used, 1 if a worker does not serve with it, 4 if no agent answers, 5 if it takes too long.
    """
    output = ctx.ensure_object(Output)
    place = socket_path(configuration, path)
    before = ask_agent(place, _ASK_S, output)
    count = _count(before.document, output)
    _hang_up(before, output)
    with said_while_waiting("the workers to be replaced", _said_by(output)):
        document = _wait(place, count, timeout, output)
    report = {"node": document["node"], "pid": before.pid, **document["reload"]}
    output.result(report, "" if output.json else _as_text(report))
    ctx.exit(_status_of(report))


def _count(document: dict[str, Any], output: Output) -> int:
    if document.get("stopping"):
        raise Failure("AgentStopping", "the agent is stopping", ExitCode.UNAVAILABLE, as_json=output.json)
    try:
        return int(document["reload"]["count"])
    except (KeyError, TypeError, ValueError):
        what = "the agent is of a version that does not tell what becomes of a reload: send it HUP"
        raise Failure("AgentOutdated", what, ExitCode.FAILED, as_json=output.json) from None


def _hang_up(agent: AgentAnswer, output: Output) -> None:
    try:
        if agent.pid <= 0:
            raise ProcessLookupError
        os.kill(agent.pid, signal.SIGHUP)
    except ProcessLookupError:
        what = "the agent's process cannot be seen from here: run this in its container, or send it HUP there"
        raise Failure("AgentUnavailable", what, ExitCode.UNAVAILABLE, as_json=output.json) from None
    except PermissionError:
        what = f"no right to send HUP to the agent (pid {agent.pid}): run this as its user, or as root"
        raise Failure("NoPermission", what, ExitCode.REFUSED, as_json=output.json) from None


def _wait(place: str, count: int, timeout_s: float, output: Output) -> dict[str, Any]:
    """The agent's document when a reload after *count* is over."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        document = ask_agent(place, _ASK_S, output).document
        report = document["reload"]
        if report["count"] > count and report["state"] != "running" and not report["running"]:
            return document
        time.sleep(_LOOK_S)
    what = f"the reload is not over after {timeout_s:g} s; see servicebus status --json"
    raise Failure("ReloadUnfinished", what, ExitCode.TIMEOUT, as_json=output.json)


def _said_by(output: Output) -> Any:
    return (lambda _text: None) if output.json else note


def _status_of(report: dict[str, Any]) -> ExitCode:
    if report["state"] == "refused":
        return ExitCode.CONFIGURATION
    if report["state"] != "done" or report["failed"]:
        return ExitCode.FAILED
    return ExitCode.PARTIAL if report["needs_restart"] else ExitCode.OK


def _as_text(report: dict[str, Any]) -> str:
    took = f" ({report['seconds']:g} s)" if report["seconds"] is not None else ""
    lines = [f"{report['node']} (pid {report['pid']}): {_ENDS.get(report['state'], report['state'])}{took}"]
    lines += [report["error"]] if report["error"] else []
    if report["state"] == "done":
        changed = [f"  {each['key']}: {each['what']}" for each in report["changed"]]
        lines += ["changed:", *changed] if changed else ["no setting has changed; all workers were replaced"]
    if report["needs_restart"]:
        lines += ["needs a restart of the agent:"]
        lines += [f"  {each['key']}: {each['what']}" for each in report["needs_restart"]]
    lines += [f"failed: {each}" for each in report["failed"]]
    return printable("\n".join(lines), keep_newlines=True)
