"""``servicebus events``: the subscriptions of a node on each broker, and how to remove one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from servicebus.cli.group import CommandGroup
from servicebus.cli.options import TEXT, config_option, json_option, node_named
from servicebus.cli.output import Output
from servicebus.configuration import Configuration
from servicebus.wire.events import event_queue
from servicebus.wire.printable import counted

if TYPE_CHECKING:
    from servicebus.operations.session import Session


@click.group(cls=CommandGroup)
@json_option
def events() -> None:
    """Look at the durable queues of a node's subscriptions to events, and remove those that no service has any more."""


_node = click.option("--node", metavar="NAME", help="Whose. Default: node_name of the file.")


@events.command("list")
@click.argument("services", nargs=-1, type=TEXT)
@config_option
@_node
@json_option
@click.pass_obj
def list_(output: Output, services: tuple[str, ...], configuration: Configuration, node: str | None) -> None:
    """Say for each SERVICE (category.name) how many events wait on each broker, and how many workers take them.

    By default for those that agents of this machine have noted. One that is taken by no worker is away, or is
    not registered any more.
    """
    from servicebus.operations.session import open_session  # here, so that --help does not wait for pika
    from servicebus.runtime.known_subscriptions import known_subscriptions

    configuration = configuration.with_node_name(node_named(configuration, node))
    names = services or tuple(sorted(known_subscriptions(configuration)))
    found: list[dict[str, Any]] = []
    for host in configuration.hosts if names else ():
        with open_session(host, configuration, purpose="events") as session:
            found += [_facts(session, configuration.node_name, each) for each in names]
    lines = [_line(each) for each in found] or ["no subscription of this node is known here; name one"]
    output.result({"node": configuration.node_name, "subscriptions": found}, "\n".join(lines))


@events.command()
@click.argument("service", type=TEXT)
@config_option
@_node
@click.option("--force", is_flag=True, help="Also where workers take events from it, or events wait in it.")
@json_option
@click.pass_obj
def drop(output: Output, service: str, configuration: Configuration, node: str | None, force: bool) -> None:
    """Remove the subscription of SERVICE (category.name) on each broker, with what waits in it.

    The service should not be registered any more: an agent that has it declares its queue again.
    """
    from servicebus.operations.session import open_session
    from servicebus.runtime.known_subscriptions import forget_subscription
    from servicebus.transport.steps import delete_queue

    configuration = configuration.with_node_name(node_named(configuration, node))
    queue = event_queue(configuration.node_name, service)
    dropped: dict[str, int] = {}
    for host in configuration.hosts:
        with open_session(host, configuration, purpose="events") as session, session.channel() as channel:
            step = delete_queue(queue, if_unused=not force, if_empty=not force)
            dropped[host.name] = channel.run(step, f"the end of queue {queue}")
    forget_subscription(configuration, service)
    lines = [f"{host}: {queue} is gone, with {counted(count, 'event')}" for host, count in dropped.items()]
    output.result({"queue": queue, "dropped": dropped}, "\n".join(lines))


def _facts(session: Session, node: str, service: str) -> dict[str, Any]:
    facts = session.facts(event_queue(node, service))
    found: dict[str, Any] = {"host": session.host.name, "service": service, "exists": facts is not None}
    return found | ({} if facts is None else {"events": facts.ready, "workers": facts.consumers})


def _line(found: dict[str, Any]) -> str:
    head = f"{found['host']}: {found['service']}"
    if not found["exists"]:
        return f"{head} has no queue there"
    return f"{head}: {counted(found['events'], 'event', 'wait')}, {counted(found['workers'], 'worker', 'take')} them"
