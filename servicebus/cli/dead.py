"""``servicebus dead``: list, show, requeue and drop the dead letters of a node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from servicebus.cli.dead_text import Summary, as_list, as_result, as_show, document_of, facts, shown_facts
from servicebus.cli.exit_codes import ExitCode
from servicebus.cli.group import CommandGroup, Failure
from servicebus.cli.options import Command, config_option, host_named, json_option, node_named
from servicebus.cli.output import Output, ProgressLine, note, warn
from servicebus.cli.unreachable import end_with, no_broker
from servicebus.configuration import Configuration
from servicebus.operations.filters import Filter, parse_age, parse_rate
from servicebus.wire.address import dead_queue
from servicebus.wire.printable import counted

if TYPE_CHECKING:
    from servicebus.operations.dead_letters import BrokerReport, DeadLetters, Found
    from servicebus.operations.growing_requeue import GrowingReport

LISTED = 100
SHOWN = 10


def _as(parse: Callable[[str], float]) -> Callable[..., float | None]:
    """A callback that reads an option's text with *parse*, which says by ValueError how it is written."""

    def read(_ctx: click.Context, _param: click.Parameter, text: str | None) -> float | None:
        try:
            return None if text is None else parse(text)
        except ValueError as error:
            raise click.BadParameter(str(error)) from error

    return read


_SELECTING = (
    config_option,
    click.option("--node", metavar="NAME", help="Whose dead letters. Default: node_name of the file."),
    click.option("--host", "hosts", metavar="HOST", multiple=True, help="Only on this broker of the file."),
    click.option("--service", "services", metavar="GLOB", multiple=True, help="category.name; * and ? are wildcards."),
    click.option(
        "--reason", "reasons", metavar="GLOB", multiple=True, help="Only with this reason, as `list` shows it."
    ),
    click.option("--since", callback=_as(parse_age), metavar="AGE", help="Only of the last 90s, 15m, 2h, 3d."),
    click.option("--until", callback=_as(parse_age), metavar="AGE", help="Only older than that."),
    click.option("--id", "ids", metavar="ID", multiple=True, help="Only the one with this id."),
)
_ALL = click.option("--all", "is_all", is_flag=True, help="Every dead letter: needed where no other option selects.")


def _selecting(command: Command) -> Command:
    """The options that select dead letters."""
    for option in reversed(_SELECTING):
        command = option(command)
    return command


class _Selection:
    """The node, its brokers and the filter that the options of ``_SELECTING`` name."""

    def __init__(
        self,
        configuration: Configuration,
        node: str | None,
        hosts: Sequence[str],
        services: Sequence[str],
        reasons: Sequence[str],
        since: float | None,
        until: float | None,
        ids: Sequence[str],
    ):
        if since is not None and until is not None and since <= until:
            raise click.UsageError(
                "no dead letter is older than --until and younger than --since: --since must be longer"
            )
        self.node = node_named(configuration, node)
        self.hosts = tuple(host_named(configuration, name, "--host") for name in hosts) or configuration.hosts
        self.wanted = Filter(frozenset(ids), tuple(services), tuple(reasons), youngest_s=until, oldest_s=since)
        self.configuration = configuration

    def dead_letters(self) -> DeadLetters:
        from servicebus.operations.dead_letters import DeadLetters  # here, so that --help does not wait for pika

        progress = ProgressLine("dead letters looked at")
        return DeadLetters(
            self.configuration,
            self.node,
            self.hosts,
            on_progress=lambda report: progress.update(report.host, report.looked_at, report.total),
        )

    def must_say_which(self, is_all: bool) -> None:
        if self.wanted.is_empty and not is_all:
            raise click.UsageError("say which letters: by --service, --reason, --since, --until, --id, or --all")


@click.group(cls=CommandGroup)
@json_option
def dead() -> None:
    """Look at the dead letters of a node, send them back, or drop them.

    Exit status 0 if all was done, 10 if a broker could not be reached or letters had to stay where they are, 4 if no
    broker could be reached.
    """


@dead.command(name="list")
@_selecting
@click.option("--limit", type=click.IntRange(0), default=LISTED, show_default=True, help="At most so many; 0: all.")
@click.option("--summary", is_flag=True, help="Count them by service and reason instead; all of them.")
@json_option
@click.pass_context
def list_dead_letters(ctx: click.Context, /, limit: int, summary: bool, **chosen: Any) -> None:
    """List dead letters, the oldest of each broker first. Loses and changes none.

    Only a letter that a quorum queue has given out ten times goes to the end of its queue, so that no delivery limit
    drops it.

    The note says what keeps a letter from going back; without one the node would take it.
    """
    output, selection = ctx.ensure_object(Output), _Selection(**chosen)
    found: list[Found] = []
    sums = Summary()

    def see(letter: Found) -> bool:
        if summary:
            sums.add(letter)
            return True
        found.append(letter)
        return not limit or len(found) < limit

    reports = selection.dead_letters().look(selection.wanted, see)
    document = document_of(selection.node, reports)
    if summary:
        output.result(document | {"summary": sums.document()}, sums.text(reports))
    else:
        is_cut = bool(limit) and len(found) == limit
        output.result(document | {"letters": [facts(each) for each in found]}, as_list(found, reports, is_cut=is_cut))
    _end(ctx, selection, reports)


@dead.command()
@click.argument("wanted_ids", metavar="[ID]...", nargs=-1)
@_selecting
@click.option("--limit", type=click.IntRange(0), default=SHOWN, show_default=True, help="At most so many; 0: all.")
@click.option("--full", is_flag=True, help="Parameters and traceback in full length.")
@json_option
@click.pass_context
def show(ctx: click.Context, /, wanted_ids: tuple[str, ...], limit: int, full: bool, **chosen: Any) -> None:
    """Show dead letters with everything that is known of them, and their parameters as JSON. Changes as little as list.

    Exit status 1 if there is none.
    """
    chosen["ids"] = (*chosen["ids"], *wanted_ids)
    output, selection = ctx.ensure_object(Output), _Selection(**chosen)
    if selection.wanted.is_empty:
        raise click.UsageError("say which letters: by their IDs, or by --service, --reason, --since, --until")
    found: list[Found] = []

    def see(letter: Found) -> bool:
        found.append(letter)
        return not limit or len(found) < limit

    reports = selection.dead_letters().look(selection.wanted, see)
    if not found:
        _end(ctx, selection, reports)
        raise Failure("NoSuchLetter", "no dead letter matches", ExitCode.FAILED, as_json=output.json)
    document = document_of(selection.node, reports)
    output.result(
        document | {"letters": [shown_facts(each, full=full) for each in found]},
        "\n\n".join(as_show(each, full=full) for each in found),
    )
    _end(ctx, selection, reports)


@dead.command()
@_selecting
@_ALL
@click.option("--limit", type=click.IntRange(1), help="At most so many.")
@click.option(
    "--rate", callback=_as(parse_rate), metavar="RATE", help="At most 10/s, 90/m, 500/h. Default: as fast as it goes."
)
@click.option("--growing", is_flag=True, help="In growing batches; stop when one of them fails again.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option(
    "--reseal",
    is_flag=True,
    help="Also stale ones, of which the node cannot know whether they ran since: one that did runs again.",
)
@json_option
@click.pass_context
def requeue(
    ctx: click.Context,
    /,
    is_all: bool,
    limit: int | None,
    rate: float | None,
    growing: bool,
    dry_run: bool,
    reseal: bool,
    **chosen: Any,
) -> None:
    """Send dead letters back to the node, with their attempts counted from 1 again.

    Only letters that a worker of the node has signed go back; each gets a ticket, which is good once.

    One leaves the dead letters only after the broker has confirmed it in the node's queue, so the command may be
    killed at any moment; run it again then.
    """
    output, selection = ctx.ensure_object(Output), _Selection(**chosen)
    selection.must_say_which(is_all)
    if growing and not dry_run:
        _requeue_growing(ctx, selection, limit, rate, reseal)
        return
    reports = selection.dead_letters().requeue(
        selection.wanted, limit=limit, per_s=rate, reseal=reseal, dry_run=dry_run
    )
    done = "would go back" if dry_run else "went back"
    output.result(document_of(selection.node, reports) | {"dry_run": dry_run}, as_result(reports, done))
    _end(ctx, selection, reports)


def _requeue_growing(
    ctx: click.Context, selection: _Selection, limit: int | None, rate: float | None, reseal: bool
) -> None:
    from servicebus.operations.growing_requeue import GrowingRequeue

    output = ctx.ensure_object(Output)

    def tell(report: GrowingReport) -> None:
        if not output.json:
            note(f"batch {len(report.batches)}: {report.batches[-1]} went back, {report.done} in all")

    requeue = GrowingRequeue(
        selection.dead_letters(), selection.configuration, selection.node, selection.hosts, on_batch=tell
    )
    report = requeue.run(selection.wanted, limit=limit, per_s=rate, reseal=reseal)
    reports = list(report.brokers.values())
    said = {"dry_run": False, "batches": report.batches, "stopped": report.stopped}
    output.result(document_of(selection.node, reports) | said, as_result(reports, "went back"))
    if report.stopped:
        if not output.json:
            warn(f"stopped: {report.stopped}")
        _end(ctx, selection, reports)
        ctx.exit(ExitCode.PARTIAL)
    _end(ctx, selection, reports)


@dead.command()
@_selecting
@_ALL
@click.option("--limit", type=click.IntRange(1), help="At most so many.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_context
def drop(ctx: click.Context, /, is_all: bool, limit: int | None, dry_run: bool, yes: bool, **chosen: Any) -> None:
    """Drop dead letters for good. Asks first, and then drops only those that it has counted."""
    output, selection = ctx.ensure_object(Output), _Selection(**chosen)
    selection.must_say_which(is_all)
    if output.json and not (yes or dry_run):
        raise click.UsageError("--json does not ask: add --yes, or --dry-run")
    wanted = selection.wanted
    if dry_run or not yes:
        ids: set[str] = set()

        def see(letter: Found) -> bool:
            ids.add(letter.dead_letter.id)
            return limit is None or len(ids) < limit

        reports = selection.dead_letters().look(wanted, see)
        count = sum(report.done for report in reports)
        if dry_run or not count:
            output.result(document_of(selection.node, reports) | {"dry_run": dry_run}, as_result(reports, "would go"))
            _end(ctx, selection, reports)
            return
        places = ", ".join(f"{report.done} on {report.host}" for report in reports if report.done)
        question = f"Drop {counted(count, 'dead letter')} of {selection.node} ({places}) for good?"
        click.confirm(question, abort=True, err=True)
        wanted = Filter(ids=frozenset(ids))
    reports = selection.dead_letters().drop(wanted, limit=limit)
    output.result(document_of(selection.node, reports) | {"dry_run": False}, as_result(reports, "dropped"))
    _end(ctx, selection, reports)


def _end(ctx: click.Context, selection: _Selection, reports: Sequence[BrokerReport]) -> None:
    """Say on stderr what could not be done, and end with the status that says so; come back if all was well."""
    failed = {report.host: report.error for report in reports if report.error is not None}
    if len(failed) == len(reports) and not any(report.looked_at for report in reports):
        raise no_broker(f"the dead letters of {selection.node}", failed)
    if not (ctx.ensure_object(Output).json or failed or any(report.exists for report in reports)):
        warn(f"no broker has a queue {dead_queue(selection.node)}; is {selection.node} the right node?")
    end_with(ctx, failed, is_partial=any(report.stays for report in reports))
