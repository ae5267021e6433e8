"""``servicebus drain``: takes a broker out for maintenance, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from servicebus.cli.exit_codes import ExitCode
from servicebus.cli.group import Failure
from servicebus.cli.options import config_option, host_named, json_option, node_named, timeout_option
from servicebus.cli.output import Output, warn
from servicebus.configuration import Configuration
from servicebus.wire.printable import counted

if TYPE_CHECKING:
    from servicebus.operations.maintenance import DrainMark, NodeStatus

WAIT_S = 60.0


@click.command()
@click.argument("host")
@config_option
@click.option("--undo", is_flag=True, help="The maintenance is over: take the broker back into service.")
@click.option("--status", "only_status", is_flag=True, help="Only say whether it is drained, and what is left there.")
@click.option(
    "--node", "nodes", metavar="NAME", multiple=True, help="Wait for this node; may be given again. Default: node_name."
)
@timeout_option(f"{WAIT_S:g}; the mark stays", WAIT_S)
@json_option
@click.pass_context
def drain(
    ctx: click.Context,
    /,
    host: str,
    configuration: Configuration,
    undo: bool,
    only_status: bool,
    nodes: tuple[str, ...],
    timeout: float,
) -> None:
    """Take the broker HOST of the file out for maintenance: new work goes to the others, what is there is finished.

    Ends when nothing is left and the broker may be stopped. It stays drained, over restarts too, until `--undo`.

    Exit status 0 if that was reached, 5 if not within the timeout: wait with `--status`, or give up with `--undo`. 4 if
    a node has no queues on HOST; only `--undo` changes anything then.
    """
    if undo and only_status:
        raise click.UsageError("--undo and --status do not go together")
    from servicebus.operations.maintenance import DrainMark  # here, so that --help does not wait for pika
    from servicebus.operations.session import open_session

    output = ctx.ensure_object(Output)
    broker = host_named(configuration, host, "HOST")
    wanted = tuple(node_named(configuration, each) for each in nodes or (None,))
    with open_session(broker, configuration, purpose="drain") as session:
        mark = DrainMark(session, configuration)
        if undo:
            mark.remove()
            found = mark.wait_returned(wanted, timeout)
            is_reached = all(each.workers for each in found)
        else:
            if not only_status:
                _refuse_unknown([mark.status_of(node) for node in wanted], broker.name, output)
                _refuse_in_drill(mark, broker.name, output)
                mark.set()
            found = mark.wait_left(wanted, 0.0 if only_status else timeout)
            is_reached = all(each.has_left for each in found)
        is_marked = mark.stands()
    if len(configuration.hosts) == 1 and is_marked:
        warn("the file names no other broker: while this one is drained, the nodes cannot be reached")
    document = {"host": broker.name, "marked": is_marked, "nodes": [asdict(each) for each in found]}
    output.result(document, "\n".join(_lines(broker.name, found, is_marked=is_marked)))
    if not all(each.is_known for each in found):
        ctx.exit(ExitCode.UNAVAILABLE)
    ctx.exit(ExitCode.OK if is_reached or only_status else ExitCode.TIMEOUT)


def _refuse_unknown(found: Sequence[NodeStatus], host: str, output: Output) -> None:
    """Before anything is changed: what waits for a node that is not there would report that all is well."""
    unknown = [each.node for each in found if not each.is_known]
    if unknown:
        message = (
            f"{host} has no queues of {', '.join(unknown)}: no agent of that name was ever there; nothing was changed"
        )
        raise Failure("NodeUnavailable", message, ExitCode.UNAVAILABLE, as_json=output.json)


def _refuse_in_drill(mark: DrainMark, host: str, output: Output) -> None:
    """The mark of a drill is removed at its end: the broker would come back while the operator works on it."""
    from servicebus.operations.maintenance import LEASE_S

    if mark.is_leased(LEASE_S):
        message = (
            f"{host}: a drill is under way, which takes the broker back by itself; wait for its end, or end it by"
            f" servicebus drain {host} --undo; nothing was changed"
        )
        raise Failure("DrillUnderWay", message, ExitCode.UNAVAILABLE, as_json=output.json)


def _lines(host: str, found: Sequence[NodeStatus], *, is_marked: bool) -> list[str]:
    return [f"{host}: {'taken out of service' if is_marked else 'in service'}", *map(_line, found)]


def _line(node: NodeStatus) -> str:
    if not node.is_known:
        return f"  {node.node}: has no queues there: no agent of that name was ever on this broker"
    if node.has_left:
        return f"  {node.node}: nothing is under way there"
    waiting = f"{counted(node.calls, 'call')} and {counted(node.messages, 'message')} wait"
    return f"  {node.node}: {counted(node.workers, 'worker', 'take')} calls there, {waiting}"
