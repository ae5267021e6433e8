"""``servicebus stream``: the items of a stream, one in a line."""

from __future__ import annotations

from typing import Any

import click

from servicebus.cli.options import (
    TEXT,
    Seconds,
    config_option,
    context_option,
    json_option,
    params_argument,
    timeout_option,
)
from servicebus.cli.output import Output, as_json
from servicebus.cli.terminating import term_as_ctrl_c
from servicebus.configuration import Configuration


@click.command()
@click.argument("address", type=TEXT)
@params_argument
@config_option
@timeout_option("none; --item-timeout bounds each wait")
@click.option(
    "--item-timeout", type=Seconds(), metavar="SECONDS", help="Seconds to wait for each item; call_timeout of the file."
)
@click.option("--position", type=click.IntRange(0), help="Begin with this item; only of a service that is resumable.")
@context_option
@json_option
@click.pass_obj
def stream(
    output: Output,
    address: str,
    params: Any,
    configuration: Configuration,
    timeout: float | None,
    item_timeout: float | None,
    position: int | None,
    context: dict[str, str],
) -> None:
    """Ask the service at ADDRESS (NODE.category.name) for a stream, and print each item as a line of JSON.

    JSON is what the service gets, null if left out; - reads it from stdin.

    Example: servicebus stream NODE-01.report.rows '{"year": 2026}'
    """
    from servicebus.sender import Sender  # here, so that --help and completion do not wait for pika

    how: dict[str, Any] = {"item_timeout": item_timeout, "position": position, "context": context}
    with term_as_ctrl_c(), Sender(configuration) as sender, sender.stream(address, params, timeout, **how) as items:
        for item in items:
            output.result(item, as_json(item))
