"""``servicebus events``: the subscriptions of a node on each broker, and how to remove one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from servicebus.cli.group import CommandGroup
from servicebus.cli.options import TEXT, config_option, json_option, node_named
from servicebus.cli.output import Output
from servicebus.cli.unreachable import end_with, no_broker
from servicebus.configuration import BrokerHost, Configuration
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
@click.pass_context
def list_(ctx: click.Context, services: tuple[str, ...], configuration: Configuration, node: str | None) -> None:
    """Say for each SERVICE (category.name) how many events wait on each broker, and how many workers take them.

    By default for those that agents of this machine have noted. One that is taken by no worker is away, or is
    not registered any more. Exit status 10 if a broker could not be asked, 4 if none could.
    """
    from servicebus.operations.session import on_each_broker  # here, so that --help does not wait for pika
    from servicebus.runtime.known_subscriptions import known_subscriptions

    configuration = configuration.with_node_name(node_named(configuration, node))
    names = services or tuple(sorted(known_subscriptions(configuration)))
    found: list[dict[str, Any]] = []

    def look(session: Session, host: BrokerHost) -> None:
        found.extend([_facts(session, host, configuration.node_name, each) for each in names])

    hosts = configuration.hosts if names else ()
    failed = on_each_broker(hosts, configuration, look, purpose="events")
    if failed and len(failed) == len(hosts):
        raise no_broker(f"the subscriptions of {configuration.node_name}", failed)
    lines = [_line(each) for each in found] or ["no subscription of this node is known here; name one"]
    document = {"node": configuration.node_name, "subscriptions": found, "unreachable": _told(failed)}
    ctx.ensure_object(Output).result(document, "\n".join(lines))
    end_with(ctx, failed)


@events.command()
@click.argument("service", type=TEXT)
@config_option
@_node
@click.option("--force", is_flag=True, help="Also where workers take events from it, or events wait in it.")
@json_option
@click.pass_context
def drop(ctx: click.Context, service: str, configuration: Configuration, node: str | None, force: bool) -> None:
    """Remove the subscription of SERVICE (category.name) on each broker, with what waits in it.

    The service should not be registered any more: an agent that has it declares its queue again. If it is in use on
    one broker it stays on all. Exit status 10 if it may still be on a broker that could not be reached: run it again.
    """
    from servicebus.operations.session import on_each_broker
    from servicebus.runtime.known_subscriptions import forget_subscription

    configuration = configuration.with_node_name(node_named(configuration, node))
    queue = event_queue(configuration.node_name, service)
    dropped: dict[str, int] = {}

    def look(session: Session, _host: BrokerHost) -> None:
        if (facts := session.facts(queue)) is not None:
            _refuse_if_used(session, queue, facts)

    def remove(session: Session, host: BrokerHost) -> None:
        dropped[host.name] = _drop(session, configuration, queue, force=force)

    if not force:
        on_each_broker(configuration.hosts, configuration, look, purpose="events")
    failed = on_each_broker(configuration.hosts, configuration, remove, purpose="events")
    if len(failed) == len(configuration.hosts):
        raise no_broker(f"queue {queue}", failed)
    if not failed:
        forget_subscription(configuration, service)
    lines = [f"{host}: {queue} is gone, with {counted(count, 'event')}" for host, count in dropped.items()]
    document = {"queue": queue, "dropped": dropped, "unreachable": _told(failed)}
    ctx.ensure_object(Output).result(document, "\n".join(lines))
    end_with(ctx, failed)


def _told(failed: Mapping[str, TransportError]) -> dict[str, str]:
    return {host: str(error) for host, error in failed.items()}


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
    is_looked_at = not force and type_of(session, configuration, queue)[0].startswith("classic")
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


def _facts(session: Session, host: BrokerHost, node: str, service: str) -> dict[str, Any]:
    facts = session.facts(event_queue(node, service))
    found: dict[str, Any] = {"host": host.name, "service": service, "exists": facts is not None}
    return found | ({} if facts is None else {"events": facts.ready, "workers": facts.consumers})


def _line(found: dict[str, Any]) -> str:
    head = f"{found['host']}: {found['service']}"
    if not found["exists"]:
        return f"{head} has no queue there"
    return f"{head}: {counted(found['events'], 'event', 'wait')}, {counted(found['workers'], 'worker', 'take')} them"
