"""``servicebus doctor --if-lost``: which nodes and services would still answer without a broker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import click

from servicebus.cli.exit_codes import ExitCode
from servicebus.cli.output import Output, warn
from servicebus.configuration import BrokerHost, Configuration
from servicebus.errors import TransportError
from servicebus.operations.doctor.forecast import Forecast, without
from servicebus.wire.address import messages_queue
from servicebus.wire.printable import counted, printable

if TYPE_CHECKING:
    from servicebus._discovering import Survey
    from servicebus.operations.session import Session
    from servicebus.sender import Sender

__all__ = ["forecast", "forecast_now"]

_QUIET_S = 0.25


def forecast(ctx: click.Context, configuration: Configuration, lost: BrokerHost, timeout_s: float) -> None:
    """Ask over all brokers, say what would be left without *lost*, and end with the status that says so."""
    from servicebus.sender import Sender

    output = ctx.ensure_object(Output)
    with Sender(configuration) as sender:
        drawn, found = forecast_now(sender, lost.name, timeout_s)
    waiting = _waiting(configuration, lost, [each.name for each in found.nodes])
    unheard = {host: why for host, why in found.nodes.unreachable.items() if host != lost.name}
    document = {**drawn.to_json(), "waiting": waiting, "unreachable": dict(found.nodes.unreachable)}
    output.result(document, "\n".join(map(printable, _lines(drawn, waiting))))
    if not output.json:
        for host, why in unheard.items():
            warn(f"{host} could not be asked: {why}; what answers over it alone is not in this")
    if not drawn.nodes:
        warn("no node has answered")
        ctx.exit(ExitCode.UNAVAILABLE)
    if drawn.lost_nodes or drawn.lost_services:
        ctx.exit(ExitCode.FAILED)
    ctx.exit(ExitCode.PARTIAL if unheard else ExitCode.OK)


def forecast_now(sender: Sender, lost: str, timeout_s: float) -> tuple[Forecast, Survey]:
    """What would be left without the broker *lost*, and what was found. Raises NoBrokerAvailable."""
    from servicebus._discovering import survey

    found = survey(sender, timeout_s, _QUIET_S)
    nodes = {each.name: each.brokers for each in found.nodes}
    return without(lost, nodes, [(each.name, each.kind, each.nodes) for each in found.services]), found


def _waiting(configuration: Configuration, lost: BrokerHost, nodes: list[str]) -> dict[str, int]:
    """Messages that are stored on the broker now, by node; none if it cannot be asked."""
    from servicebus.operations.session import on_each_broker

    found: dict[str, int] = {}

    def look(session: Session, _host: BrokerHost) -> None:
        for node in nodes:
            facts = session.facts(messages_queue(node))
            if facts is not None and facts.ready:
                found[node] = facts.ready

    failed: Mapping[str, TransportError] = on_each_broker([lost], configuration, look, purpose="doctor")
    for error in failed.values():
        warn(f"what waits on {lost.name} is not known: {error}")
    return found


def _lines(drawn: Forecast, waiting: Mapping[str, int]) -> Iterator[str]:
    yield f"without {drawn.broker}:"
    for name, left in drawn.nodes.items():
        if left:
            yield f"  {name} answers over {', '.join(left)}"
        else:
            yield f"  {name} IS LOST: it answers over {drawn.broker} alone"
    for each in drawn.services:
        kind = "" if each.kind == "call" else f" ({each.kind})"
        missing = f"; not {', '.join(each.lost)}" if each.lost else ""
        if each.left:
            yield f"  {each.name}{kind} has {counted(len(each.left), 'node')}: {', '.join(each.left)}{missing}"
        else:
            yield f"  {each.name}{kind} IS LOST: {', '.join(each.lost)}"
    for node, count in waiting.items():
        yield f"  {counted(count, 'message', 'wait')} for {node} on {drawn.broker}, and would until it is back"
    if drawn.lost_nodes:
        yield (
            f"to mend it: add further hosts to the files of {', '.join(drawn.lost_nodes)}; where they stand there,"
            " servicebus status on its machine says why no worker consumes"
        )
