"""``servicebus ping``: whether a node is there."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from servicebus.cli.exit_codes import ExitCode, exit_code_of
from servicebus.cli.group import Failure
from servicebus.cli.options import TEXT, config_option, json_option, timeout_option
from servicebus.cli.output import Output, warn
from servicebus.configuration import Configuration
from servicebus.errors import ServiceBusError
from servicebus.wire.printable import counted

if TYPE_CHECKING:
    from servicebus.sender import Sender


@click.command()
@click.argument("node", type=TEXT)
@config_option
@timeout_option("3", 3.0)
@click.option("--all", "over_all", is_flag=True, help="Over every broker; fails unless the node answers over each.")
@json_option
@click.pass_context
def ping(ctx: click.Context, node: str, configuration: Configuration, timeout: float, over_all: bool) -> None:
    """Ask the agent of NODE whether it is there.

    Exit status 0 if it answered; else what a call would end with: 4 if the node or all brokers are away, 5 if nothing
    came back in time, 6 if credentials, TLS or the signature were refused. With --all 4 unless it answered over each
    broker, and 6 if it answered over none because it was refused.
    """
    from servicebus.sender import Sender  # here, so that --help and completion do not wait for pika

    output = ctx.ensure_object(Output)
    name, dot, _ = node.partition(".")
    if name and dot:
        raise Failure("AddressError", f"ping takes a node: {name}", ExitCode.USAGE, as_json=output.json)
    with Sender(configuration) as sender:
        if over_all:
            ctx.exit(_ping_all(output, sender, node, timeout))
        _ping(output, sender, node, timeout)


def _ping(output: Output, sender: Sender, node: str, timeout: float) -> None:
    started = time.monotonic()
    error = sender.ping_error(node, timeout)
    seconds = round(time.monotonic() - started, 6)
    if isinstance(error, ServiceBusError):
        raise error
    answered = error is None
    text = f"{node} answered in {seconds * 1000:.1f} ms" if answered else f"{node} did not answer within {timeout:g} s"
    output.result({"node": node, "answered": answered, "seconds": seconds}, text)
    if not answered:
        raise click.exceptions.Exit(ExitCode.TIMEOUT)


def _ping_all(output: Output, sender: Sender, node: str, timeout: float) -> ExitCode:
    found = sender._ping_each(node, timeout)
    connected = sum(host["usable"] for host in sender.status()["hosts"])
    unanswered = {host: str(error) for host, error in found.items() if error is not None}
    answered, configured = len(found) - len(unanswered), len(found)
    document = {"node": node, "answered": answered, "connected": connected, "configured": configured}
    text = f"{node} answered over {answered} of {counted(configured, 'broker')} ({connected} connected)"
    output.result({**document, "unanswered": unanswered}, text)
    if not output.json:
        for host, why in unanswered.items():
            warn(f"over {host}: {why or f'no answer within {timeout:g} s'}")
    if not unanswered:
        return ExitCode.OK
    is_refused = not answered and any(
        isinstance(error, ServiceBusError) and exit_code_of(error) is ExitCode.REFUSED for error in found.values()
    )
    return ExitCode.REFUSED if is_refused else ExitCode.UNAVAILABLE
