"""``servicebus describe``: what a node offers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from servicebus.cli.options import TEXT, config_option, json_option, timeout_option
from servicebus.cli.output import Output
from servicebus.configuration import Configuration
from servicebus.wire.printable import counted, printable

if TYPE_CHECKING:
    from servicebus.contracts import EventContract, NodeContract, ServiceContract


@click.command()
@click.argument("node", type=TEXT)
@click.argument("address", type=TEXT, required=False)
@config_option
@timeout_option("10", 10.0)
@json_option
@click.pass_obj
def describe(output: Output, node: str, address: str | None, configuration: Configuration, timeout: float) -> None:
    """Print what NODE offers: its services, what they take and return, their docstrings, and the events it publishes.

    ADDRESS (category.name) is that of one service, and NODE.category.name means the same. With --json the description
    that the other commands read from a file.

    Example: servicebus describe NODE-01 math.add
    """
    from servicebus.sender import Sender  # here, so that --help and completion do not wait for pika

    with Sender(configuration) as sender:
        contract = sender.describe(f"{node}.{address}" if address else node, timeout)
    is_one = bool(address) or "." in node
    text = "\n".join(_details(contract) if is_one else _overview(contract))
    output.result(contract.to_json(), printable(text, keep_newlines=True))


def _overview(contract: NodeContract) -> Iterator[str]:
    from servicebus.contracts.notation import Notation, signature_of

    events = f" and publishes {counted(len(contract.publishes), 'event')}" if contract.publishes else ""
    yield f"{contract.node} offers {counted(len(contract), 'service')}{events}"
    for service in contract:
        yield ""
        yield f"  {_heading(service)}"
        yield f"      {signature_of(service)}"
        if service.docs:
            yield f"      {service.docs.splitlines()[0]}"
    for event in contract.publishes:
        yield ""
        yield f"  publishes {_heading_of(event)}"
        if event.payload is not None:
            yield f"      {Notation(event.payload).of(event.payload)}"
        if event.docs:
            yield f"      {event.docs.splitlines()[0]}"


def _details(contract: NodeContract) -> Iterator[str]:
    from servicebus.contracts.notation import signature_of, structures_of

    for service in contract:
        yield f"{contract.node}.{_heading(service)}"
        yield f"    {signature_of(service)}"
        for line in service.docs.splitlines():
            yield f"    {line}".rstrip()
        for title, fields in structures_of(service):
            yield f"  {title}"
            yield from (f"    {each}" for each in fields)
        for error in service.errors:
            yield f"  raises {error.name}{': ' + error.docs.splitlines()[0] if error.docs else ''}"
        if service.options:
            yield f"  options: {', '.join(f'{name} {value}' for name, value in service.options.items())}"
        yield f"  hash: {service.hash or 'none, since no schema is known'}"


def _heading(service: ServiceContract) -> str:
    kind = "" if service.kind == "call" else f"({service.kind})"
    if service.events:
        kind = f"(events {', '.join(service.events)})"
    parts = [service.key, kind, service.version and f"version {service.version}"]
    if service.former:
        parts.append("(former version)")
    return " ".join(filter(None, [*parts, _deprecated(service)]))


def _heading_of(event: EventContract) -> str:
    return " ".join(filter(None, [event.event, event.version and f"version {event.version}", _deprecated(event)]))


def _deprecated(described: ServiceContract | EventContract) -> str:
    if not described.deprecated:
        return ""
    return "deprecated" if described.deprecated is True else f"deprecated: {described.deprecated}"
