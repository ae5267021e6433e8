"""``servicebus status --fleet``: all nodes over all brokers, as they answer now."""

from __future__ import annotations

import time

import click

from servicebus.cli.output import Output, said_while_waiting, warn
from servicebus.configuration import Configuration

__all__ = ["fleet_status"]


def fleet_status(
    ctx: click.Context, configuration: Configuration, pattern: str, timeout_s: float, over_s: float
) -> None:
    """Print how the nodes of *pattern* are, and end with the status that says it.

    Args:
        timeout_s: for the answers to each of two questions.
        over_s: from the first to the second: rates are over this time.

    Raises:
        AddressError: no node has a name like *pattern*.
        NoBrokerAvailable: no broker could be used.
    """
    from servicebus.cli.fleet_tables import end_with_status, table_of, text_of
    from servicebus.fleet.columns import Column, node_columns
    from servicebus.fleet.document import document_of_fleet
    from servicebus.fleet.texts import headline, problem_lines
    from servicebus.fleet.view import NodeView
    from servicebus.fleet.watch import FleetWatch, unseen_fleet
    from servicebus.operations.dead_counts import count_dead_letters
    from servicebus.sender import Sender  # here, so that --help and completion do not wait for pika

    output = ctx.ensure_object(Output)
    with Sender(configuration) as sender, said_while_waiting("the nodes"):
        watch = FleetWatch(sender, unseen_fleet(configuration), pattern=pattern, load_every_s=0, timeout_s=timeout_s)
        watch.look()
        time.sleep(over_s)
        watch.look()
        if watch.failure is not None:
            raise watch.failure
        view = watch.view
        lost = [broker.name for broker in view.brokers if broker.problem]
        hosts = [host for host in configuration.hosts if host.name not in lost]
        counts, failed = count_dead_letters(configuration, hosts, list(view.nodes))
    document = document_of_fleet(view, time.time())
    for node in document["nodes"]:
        node["dead_letters"] = counts.get(node["name"], {})

    def dead(node: NodeView) -> int:
        return sum(counts.get(node.name, {}).values())

    columns = [*node_columns(view), Column("dead letters", lambda node: str(dead(node)), dead, True)]
    shown = [table_of(columns, view.nodes.values())] if view.nodes else []
    lines = [*problem_lines(view), headline(view)]
    output.result(document, "" if output.json else text_of(*shown, *lines))
    if not output.json:
        for error in failed.values():
            warn(f"dead letters were not counted: {error}")
    end_with_status(ctx, view, output, failed)
