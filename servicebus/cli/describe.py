"""``servicebus describe``: what a node offers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from servicebus.cli.contract_source import SOURCES, is_node, load_contract
from servicebus.cli.exit_codes import ExitCode
from servicebus.cli.group import Failure
from servicebus.cli.options import TEXT, config_source, json_option, timeout_option
from servicebus.cli.output import Output
from servicebus.configuration import Configuration
from servicebus.wire.printable import counted, printable

if TYPE_CHECKING:
    from servicebus.contracts import EventContract, NodeContract, ServiceContract


@click.command(epilog=f"SOURCE: {SOURCES}.")
@click.argument("source", type=TEXT)
@click.argument("address", type=TEXT, required=False)
@config_source(required=False)
@timeout_option("10", 10.0)
@json_option
@click.pass_obj
def describe(
    output: Output, source: str, address: str | None, configuration: Configuration | None, timeout: float
) -> None:
    """Print what SOURCE offers: its services, what they take and return, their docstrings, and the events it publishes.

    ADDRESS (category.name) is that of one service; of a node NODE.category.name means the same. With --json the
    description that the other commands read from a file.

    Example: servicebus describe NODE-01 math.add
    """
    if not is_node(source):
        contract = load_contract(source, configuration, timeout, "SOURCE")
        is_one = address is not None
        if address is not None:
            contract = _only(contract, source, address, output)
    else:
        contract = load_contract(f"{source}.{address}" if address else source, configuration, timeout, "SOURCE")
        is_one = address is not None or "." in source
    text = "\n".join(_details(contract) if is_one else _overview(contract, contract.node or source))
    output.result(contract.to_json(), printable(text, keep_newlines=True))


def _only(contract: NodeContract, source: str, address: str, output: Output) -> NodeContract:
    services = tuple(each for each in contract if each.key == address)
    if not services:
        message = f"{source} describes no service {address}"
        raise Failure("UnknownService", message, ExitCode.UNKNOWN_SERVICE, as_json=output.json)
    return replace(contract, services=services, publishes=())


def _overview(contract: NodeContract, name: str) -> Iterator[str]:
    from servicebus.contracts.notation import Notation, signature_of

    events = f" and publishes {counted(len(contract.publishes), 'event')}" if contract.publishes else ""
    yield f"{name} offers {counted(len(contract), 'service')}{events}"
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
        yield f"{contract.node}.{_heading(service)}".lstrip(".")
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
