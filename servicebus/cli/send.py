"""``servicebus send``: one message from the command line."""

from __future__ import annotations

from typing import Any

import click

from servicebus.cli.options import TEXT, config_option, context_option, json_option, params_argument, timeout_option
from servicebus.cli.output import Output
from servicebus.configuration import Configuration
from servicebus.errors import UnknownService


@click.command()
@click.argument("address", type=TEXT)
@params_argument
@config_option
@timeout_option("send_timeout of the file")
@context_option
@click.option("--check", is_flag=True, help="First ask the node whether it has the service; without it send nothing.")
@json_option
@click.pass_obj
def send(
    output: Output,
    address: str,
    params: Any,
    configuration: Configuration,
    timeout: float | None,
    context: dict[str, str],
    check: bool,
) -> None:
    """Send a message to the service at ADDRESS (NODE.category.name); ends when a broker has confirmed it.

    Confirmed means: a broker has stored it in the queue of the node. Whether the node has that service, and knows the
    secret, shows when it takes the message; what it refuses goes to its dead letters. --check asks before.

    JSON is what the service gets, null if left out; - reads it from stdin.

    Example: servicebus send NODE-01.audit.note '{"what": "restart"}'
    """
    from servicebus.sender import Sender  # here, so that --help and completion do not wait for pika

    with Sender(configuration) as sender:
        if check and not sender.offers(
            address, is_call=False, timeout=configuration.send_timeout if timeout is None else timeout
        ):
            raise UnknownService(address)
        event_id = sender.send(address, params, timeout=timeout, context=context)
    output.result({"id": event_id, "confirmed": True}, "confirmed")
