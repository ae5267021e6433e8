"""``servicebus what``: what became of calls, messages and events, by their ids."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from servicebus.cli.exit_codes import ExitCode
from servicebus.cli.options import TEXT, Seconds, config_option, json_option, node_named, timeout_option
from servicebus.cli.output import Output, ProgressLine, said_while_waiting, warn
from servicebus.configuration import Configuration
from servicebus.errors import NoBrokerAvailable

if TYPE_CHECKING:
    from servicebus._id_search import IdSearch

_SENDER = re.compile(r"[0-9a-f]{16}", re.ASCII)
_COUNT = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)


def _wire_ids(texts: Sequence[str], sender: str | None) -> list[str]:
    """The ids as on the wire, each once; an event id alone is one of *sender*."""
    from servicebus._id_search import WHAT_IDS_ARE, is_searchable

    if sender is not None and not _SENDER.fullmatch(sender):
        raise click.BadParameter(f"{sender!r} is none; they are 16 digits, 0 to 9 and a to f", param_hint="--sender")
    found: dict[str, None] = {}
    for text in texts:
        if sender is not None and _COUNT.fullmatch(text):
            found[f"{sender}-{text}"] = None
        elif is_searchable(text):
            found[text] = None
        elif _COUNT.fullmatch(text):
            what = f"{text} is the event id alone, and each Sender has one of its own: say which by --sender"
            raise click.UsageError(f"{what}; {WHAT_IDS_ARE}")
        else:
            raise click.UsageError(f"{text!r} is no id; {WHAT_IDS_ARE}")
    return list(found)


@click.command()
@click.argument("ids", metavar="ID...", type=TEXT, nargs=-1, required=True)
@config_option
@click.option("--sender", metavar="DIGITS", help="The ids are event ids of this Sender: the digits before the dash.")
@click.option(
    "--node", "nodes", multiple=True, metavar="NAME", help="A node that has to answer. Default: that of the file."
)
@click.option("--outbox", "outboxes", multiple=True, metavar="FILE", help="Look in this outbox of a Sender, too.")
@click.option("--log", "logs", multiple=True, metavar="FILE", help="Show the lines of this log file that name it, too.")
@timeout_option("2, for the answers of nodes", 2.0)
@click.option(
    "--quiet", type=Seconds(), default=0.25, metavar="SECONDS",
    help="No node is waited for any more when none has answered for so long. Default: 0.25.",
)  # fmt: skip
@json_option
@click.pass_context
def what(
    ctx: click.Context, ids: Sequence[str], configuration: Configuration, sender: str | None, nodes: Sequence[str],
    outboxes: Sequence[str], logs: Sequence[str], timeout: float, quiet: float,
) -> None:  # fmt: skip
    """Say what became of calls, messages and events, by their ids: 0123456789abcdef-17.

    It asks the journals of all nodes, and looks at their dead letters on every broker of the file. Exit status 0 if
    each was found, 1 if one was not, 4 if no broker could be reached, 10 if a broker, node or file could not be asked.
    """
    from servicebus._id_search import IdSearch
    from servicebus._id_search_text import as_text, document_of
    from servicebus.sender import Sender  # here, so that --help and completion do not wait for pika

    named = [node_named(configuration, each) for each in nodes]
    if not named and configuration.names_node:
        named = [configuration.node_name]
    search, progress = IdSearch(configuration, _wire_ids(ids, sender), named), ProgressLine("dead letters looked at")
    with said_while_waiting("the nodes and brokers"):
        with Sender(configuration) as asking:
            search.ask_nodes(asking, timeout, quiet)
        search.look_on_brokers(progress.update)
    for path in outboxes:
        search.look_in_outbox(path)
    for path in logs:
        search.look_in_log(path)
    output = ctx.ensure_object(Output)
    output.result(document_of(search), as_text(search))
    _end(ctx, output, search)


def _end(ctx: click.Context, output: Output, search: IdSearch) -> None:
    if not output.json:
        for each in search.unasked:
            warn(f"not asked: {each.broker or each.node or each.file}: {each.why}")
    if not search.brokers and not search.nodes:
        attempts = [(each.broker, each.why) for each in search.unasked if each.broker]
        raise NoBrokerAvailable("the nodes and dead letters", attempts, "nothing was asked")
    if search.unasked:
        ctx.exit(ExitCode.PARTIAL)
    ctx.exit(ExitCode.OK if all(each.places for each in search.found.values()) else ExitCode.FAILED)
