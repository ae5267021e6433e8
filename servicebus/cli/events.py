"""``servicebus events``: the subscriptions of a node on each broker, and how to remove one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from servicebus.cli.group import CommandGroup
from servicebus.cli.options import TEXT, config_option, json_option, node_named
from servicebus.cli.output import Output
from servicebus.configuration import Configuration
from servicebus.errors import ServiceBusError, TransportError
from servicebus.wire.events import event_queue
from servicebus.wire.printable import counted

if TYPE_CHECKING:
    from servicebus.operations.session import Session
    from servicebus.operations.session_channel import QueueFacts

_IN_USE = 406
"""What a broker answers for a queue that is not empty, or has consumers."""


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

    configuration = configuration.with_node_name(node_named(configuration, node))
    queue = event_queue(configuration.node_name, service)
    dropped: dict[str, int] = {}
    for host in configuration.hosts:
        with open_session(host, configuration, purpose="events") as session:
            dropped[host.name] = _drop(session, configuration, queue, force=force)
    forget_subscription(configuration, service)
    lines = [f"{host}: {queue} is gone, with {counted(count, 'event')}" for host, count in dropped.items()]
    output.result({"queue": queue, "dropped": dropped}, "\n".join(lines))


def _drop(session: Session, configuration: Configuration, queue: str, *, force: bool) -> int:
    """How many events went with it. Raises ServiceBusError: it is in use."""
    from servicebus.operations.queue_types import type_of
    from servicebus.transport.steps import delete_queue

    facts = session.facts(queue)
    if facts is None:
        return 0
    if not force:
        _refuse_if_used(session, queue, facts)
    # Of a classic queue the broker looks and deletes in one step; quorum queues do not know these conditions.
    is_looked_at = not force and type_of(session, configuration, queue)[0] == "classic"
    try:
        with session.channel() as channel:
            step = delete_queue(queue, if_unused=is_looked_at, if_empty=is_looked_at)
            return int(channel.run(step, f"the end of queue {queue}"))
    except TransportError as error:
        if error.reply_code == _IN_USE and (facts := session.facts(queue)) is not None:
            _refuse_if_used(session, queue, facts)
        raise


def _refuse_if_used(session: Session, queue: str, facts: QueueFacts) -> None:
    if facts.ready or facts.consumers:
        used = f"{counted(facts.ready, 'event', 'wait')} in it, {counted(facts.consumers, 'worker', 'take')} from it"
        raise ServiceBusError(f"{session.host.name}: queue {queue} stays: {used}; --force removes it all the same")


def _facts(session: Session, node: str, service: str) -> dict[str, Any]:
    facts = session.facts(event_queue(node, service))
    found: dict[str, Any] = {"host": session.host.name, "service": service, "exists": facts is not None}
    return found | ({} if facts is None else {"events": facts.ready, "workers": facts.consumers})


def _line(found: dict[str, Any]) -> str:
    head = f"{found['host']}: {found['service']}"
    if not found["exists"]:
        return f"{head} has no queue there"
    return f"{head}: {counted(found['events'], 'event', 'wait')}, {counted(found['workers'], 'worker', 'take')} them"
