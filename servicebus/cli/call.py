"""``servicebus call``: one call from the command line."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import click

from servicebus.cli.options import TEXT, config_option, context_option, json_option, params_argument, timeout_option
from servicebus.cli.output import Output, as_json
from servicebus.cli.terminating import term_as_ctrl_c
from servicebus.configuration import Configuration

if TYPE_CHECKING:
    from servicebus.client.route import Route
    from servicebus.sender import Sender


@click.command()
@click.argument("address", type=TEXT)
@params_argument
@config_option
@timeout_option("call_timeout of the file")
@context_option
@click.option("--no-resend", is_flag=True, help="Fail instead of sending a second time when the path dies.")
@click.option("--trace", is_flag=True, help="Print the way of the call over the brokers, to stderr.")
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
    trace: bool,
) -> None:
    """Call the service at ADDRESS (NODE.category.name) and print its result as JSON.

    JSON is what the service gets, null if left out; - reads it from stdin.

    Example: servicebus call NODE-01.math.add '[1, 2]'
    """
    from servicebus.sender import Sender  # here, so that --help and completion do not wait for pika

    with term_as_ctrl_c(), Sender(configuration) as sender:
        started = time.monotonic()
        traced: AbstractContextManager[dict[str, Any]] = _traced(sender, output) if trace else nullcontext({})
        with traced as route:
            event_id, value = sender.call(address, params, timeout=timeout, resend=not no_resend, context=context)
        seconds = round(time.monotonic() - started, 6)
    output.result({"id": event_id, "value": value, "seconds": seconds, **route}, as_json(value))


@contextmanager
def _traced(sender: Sender, output: Output) -> Iterator[dict[str, Any]]:
    """Gives what the document says of the route; as text it is printed before the answer, or the error."""
    from servicebus.client.route import CallTracer

    tracer, said = CallTracer(sender), dict[str, Any]()
    try:
        yield said
    finally:
        for route in tracer.routes:
            said |= {"wire_id": route.id, "route": [step.to_json() for step in route.steps]}
            if output.json:
                output.beside_error.update(said)
            else:
                click.echo("\n".join(_lines(route)), err=True)


def _lines(route: Route) -> Iterator[str]:
    yield f"call {route.id}"
    for step in route.steps:
        took = "" if step.took_s is None else f"{step.took_s * 1000:.1f} ms"
        what = (
            f"{step.phase}: {step.outcome}"
            if step.attempt is None
            else f"attempt {step.attempt} {step.phase}: {step.outcome}"
        )
        yield f"{step.at_s * 1000:10.1f} ms  {step.broker or '-':<20} {took:>12}  {what}"
