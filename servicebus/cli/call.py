"""``servicebus call``: one call from the command line."""

from __future__ import annotations

import time
from typing import Any

import click

from servicebus.cli.options import TEXT, config_option, context_option, json_option, params_argument, timeout_option
from servicebus.cli.output import Output, as_json
from servicebus.configuration import Configuration


@click.command()
@click.argument("address", type=TEXT)
@params_argument
@config_option
@timeout_option("call_timeout of the file")
@context_option
@click.option("--no-resend", is_flag=True, help="Fail instead of sending a second time when the path dies.")
@json_option
@click.pass_obj
def call(
    output: Output,
    address: str,
    params: Any,
    configuration: Configuration,
    timeout: float | None,
    context: dict[str, str],
    no_resend: bool,
) -> None:
    """Call the service at ADDRESS (NODE.category.name) and print its result as JSON.

    JSON is what the service gets, null if left out; - reads it from stdin.

    Example: servicebus call NODE-01.math.add '[1, 2]'
    """
    from servicebus.sender import Sender  # here, so that --help and completion do not wait for pika

    with Sender(configuration) as sender:
        started = time.monotonic()
        event_id, value = sender.call(address, params, timeout=timeout, resend=not no_resend, context=context)
        seconds = round(time.monotonic() - started, 6)
    output.result({"id": event_id, "value": value, "seconds": seconds}, as_json(value))
