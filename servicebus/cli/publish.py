"""``servicebus publish``: one event from the command line."""

from __future__ import annotations

from typing import Any

import click

from servicebus.cli.options import TEXT, config_option, context_option, json_option, params_argument, timeout_option
from servicebus.cli.output import Output
from servicebus.configuration import Configuration


@click.command()
@click.argument("event", type=TEXT)
@params_argument
@config_option
@timeout_option("send_timeout of the file")
@context_option
@json_option
@click.pass_obj
def publish(
    output: Output,
    event: str,
    params: Any,
    configuration: Configuration,
    timeout: float | None,
    context: dict[str, str],
) -> None:
    """Publish the event EVENT (words joined by dots); ends when a broker has confirmed it.

    Confirmed means: a broker has stored it for every subscription that it knows. That it knows none is no error, and is
    said.

    JSON is what the services get, null if left out; - reads it from stdin.

    Example: servicebus publish orders.created '{"id": 1}'
    """
    from servicebus.sender import Sender  # here, so that --help and completion do not wait for pika

    with Sender(configuration) as sender:
        receipt = sender.publish(event, params, timeout=timeout, context=context)
    said = "confirmed" if receipt.subscribers else "no broker that was asked knows a subscriber"
    output.result({"id": int(receipt), "confirmed": True, "subscribers": receipt.subscribers}, said)
