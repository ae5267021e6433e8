"""``servicebus migrate-queue``: give a node's stored queues the type that the configuration says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from servicebus.cli.options import TEXT, config_option, host_named, json_option, node_named
from servicebus.cli.output import Output, ProgressLine
from servicebus.configuration import Configuration
from servicebus.errors import AddressError
from servicebus.wire.events import check_pattern, event_queue, subscriber_of
from servicebus.wire.printable import counted

if TYPE_CHECKING:
    from servicebus.operations.migrate import QueueStatus
    from servicebus.operations.session import Session


@click.command("migrate-queue")
@click.argument("host")
@config_option
@click.option(
    "--queue", "queues", metavar="NAME", multiple=True, help="Only this one. Default: all that store messages."
)
@click.option(
    "--pattern",
    "patterns",
    metavar="PATTERN",
    multiple=True,
    type=TEXT,
    help="With one --queue, of events: by what its service subscribes. Default: what this machine has noted.",
)
@click.option("--node", metavar="NAME", help="Whose queues. Default: node_name of the file.")
@click.option("--dry-run", is_flag=True, help="Only say what there is to do.")
@json_option
@click.pass_obj
def migrate_queue(
    output: Output,
    host: str,
    configuration: Configuration,
    queues: tuple[str, ...],
    patterns: tuple[str, ...],
    node: str | None,
    dry_run: bool,
) -> None:
    """Move the messages of a node's queues on the broker HOST into queues of the type that queue_type says, with the
    priorities that it wants.

    For NODE.messages, its delay queues and NODE.dead, and for those of its subscriptions to events that were noted on
    this machine, under the names they have. On RabbitMQ 4 a quorum queue with a
    delivery limit is moved into one without. No message is lost, whatever is killed; after an interruption run it
    again. Agents that have the new queue_type or priorities wait for this command; while others consume the old queues
    it changes nothing.
    """
    from servicebus.operations.migrate import look_at_all  # here, so that --help does not wait for pika
    from servicebus.operations.queue_mover import LARGEST_BYTES
    from servicebus.operations.session import open_session

    broker = host_named(configuration, host, "HOST")
    configuration = configuration.with_node_name(node_named(configuration, node))
    known = _known_queues(configuration, queues, patterns)
    with open_session(broker, configuration, purpose="migrate-queue", most_bytes=LARGEST_BYTES) as session:
        before = look_at_all(session, configuration, queues or tuple(known))
        after = before if dry_run else [_moved(session, configuration, each, known[each.queue]) for each in before]
    document = {
        "host": broker.name,
        "queue_type": configuration.message_queue_type,
        "dry_run": dry_run,
        "queues": [{**asdict(then), "was": first.state} for first, then in zip(before, after, strict=True)],
    }
    output.result(
        document, "\n".join(_line(first, then, configuration) for first, then in zip(before, after, strict=True))
    )


def _known_queues(
    configuration: Configuration, queues: Sequence[str], patterns: Sequence[str]
) -> dict[str, Sequence[str]]:
    """The queues of the node that can be moved, and the patterns of those of events."""
    from servicebus.runtime.known_subscriptions import known_subscriptions
    from servicebus.transport.stored import stored_queues

    node = configuration.node_name
    known: dict[str, Sequence[str]] = dict.fromkeys(stored_queues(node), ())
    known |= {event_queue(node, each): found.patterns for each, found in known_subscriptions(configuration).items()}
    for name in queues:
        if name not in known and not subscriber_of(name, node):
            raise click.BadParameter(f"{name} is none of {', '.join(known)}", param_hint="--queue")
        known.setdefault(name, ())
    if patterns:
        if len(queues) != 1 or not subscriber_of(queues[0], node):
            raise click.BadParameter("they belong to one --queue, of events", param_hint="--pattern")
        for each in patterns:
            try:
                check_pattern(each)
            except AddressError as error:
                raise click.BadParameter(str(error), param_hint="--pattern") from error
        known[queues[0]] = patterns
    return known


def _moved(session: Session, configuration: Configuration, found: QueueStatus, patterns: Sequence[str]) -> QueueStatus:
    """What there is of the queue, after its messages were moved if they had to be."""
    if found.is_done:
        return found
    from servicebus.operations.migrate import Migration

    progress = ProgressLine("copied")
    total = found.messages + (found.moving or 0)
    count = 0

    def update(queue: str, more: int) -> None:
        nonlocal count
        count += more
        # Each message is copied twice: beside, and back.
        progress.update(f"{session.host.name}: {queue}", count, 2 * total)

    return Migration(session, configuration, found.queue, update, patterns).run()


def _line(before: QueueStatus, after: QueueStatus, configuration: Configuration) -> str:
    from servicebus.operations.queue_types import wanted_type

    wanted = wanted_type(configuration, before.queue)
    if before.state == "missing":
        return f"{before.queue:<32} not there"
    if before.state == "fine":
        return f"{before.queue:<32} {wanted}, {counted(before.messages, 'message')}; nothing to do"
    if after is not before:
        return f"{before.queue:<32} {wanted}, {counted(after.messages, 'message')}; moved"
    if before.state == "unfinished":
        return f"{before.queue:<32} to be finished: {counted(before.moving or 0, 'message')} still beside it"
    beside = f", {before.moving} beside it" if before.moving is not None else ""
    used = f"; still has {counted(before.consumers, 'consumer')}" if before.consumers else ""
    return f"{before.queue:<32} {before.current}, to be {wanted}; {counted(before.messages, 'message')}{beside}{used}"
