"""``servicebus doctor``: what is wrong with the bus, why, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from servicebus.cli.exit_codes import ExitCode
from servicebus.cli.management_option import by_host, management_option, management_urls, rabbitmqctl_option
from servicebus.cli.options import Seconds, config_option, host_named, json_option, node_named
from servicebus.cli.output import Output, said_while_waiting, warn
from servicebus.configuration import Configuration, Secret
from servicebus.errors import TransportError
from servicebus.wire.printable import counted, printable

if TYPE_CHECKING:
    from servicebus.operations.doctor.checks import Unchecked
    from servicebus.operations.doctor.facts import FleetFacts
    from servicebus.operations.doctor.finding import DoctorFinding
    from servicebus.operations.session import Session

_QUIET_S = 0.25
_BACKLOG = 1000


@click.command()
@config_option
@click.option(
    "--node", "nodes", multiple=True, metavar="NAME", help="Look at its queues in full. Default: that of the file."
)
@management_option
@rabbitmqctl_option
@click.option("--fix", is_flag=True, help="Declare and bind what is missing. Nothing is removed or changed.")
@click.option("--dry-run", is_flag=True, help="With --fix: only say what would be done.")
@click.option("--if-lost", "lost", metavar="HOST", help="Only say what would still answer without this broker.")
@click.option(
    "--backlog", type=click.IntRange(1), default=_BACKLOG, show_default=True, help="So many messages are many."
)
@click.option(
    "--timeout",
    type=Seconds(),
    default=2.0,
    metavar="SECONDS",
    help="For the answers of nodes, 2 by default, and of management APIs, 5.",
)
@json_option
@click.pass_context
def doctor(
    ctx: click.Context, configuration: Configuration, nodes: Sequence[str], urls: Sequence[str],
    commands: Sequence[str], fix: bool, dry_run: bool, lost: str | None, backlog: int, timeout: float,
) -> None:  # fmt: skip
    """Look at every broker of the file, and at the nodes behind them: what is wrong, why, and how to mend it.

    It changes nothing without --fix. Exit status 0 if nothing was found, 1 if something was, 4 if no broker could be
    reached; with --if-lost 0 if all nodes and services would still answer, 1 if some would not, 4 if none answers now.
    """
    from servicebus.cli.fleet import fleet_of

    if lost is not None:
        from servicebus.cli.forecast import forecast

        forecast(ctx, configuration, host_named(configuration, lost, "--if-lost"), timeout)
        return
    if dry_run and not fix:
        raise click.UsageError("--dry-run belongs to --fix; without it nothing is changed anyway")
    fleet = fleet_of(configuration, [node_named(configuration, each) for each in nodes], backlog)
    output = ctx.ensure_object(Output)
    ways = management_urls(configuration, urls), by_host(configuration, commands, "--rabbitmqctl")
    with said_while_waiting("the brokers and nodes to answer"):
        findings, missing, mended = _examined(fleet, ways, timeout, fix=fix, dry_run=dry_run)
    document = {
        "brokers": [broker.name for broker in fleet.brokers],
        "nodes": sorted(fleet.nodes),
        "findings": [each.to_json() for each in findings],
        "unchecked": [each._asdict() for each in missing],
        "mended": mended,
        "dry_run": dry_run,
    }
    output.result(document, "\n".join(_lines(fleet, findings, missing, mended, is_dry=dry_run)))
    if not fleet.reached:
        ctx.exit(ExitCode.UNAVAILABLE)
    ctx.exit(ExitCode.FAILED if findings else ExitCode.OK)


def _examined(
    fleet: FleetFacts, ways: tuple[dict[str, Secret], dict[str, str]], timeout_s: float, *, fix: bool, dry_run: bool
) -> tuple[list[DoctorFinding], list[Unchecked], list[dict[str, Any]]]:
    """Findings, what could not be checked, and what was mended (or would be)."""
    from servicebus.operations.doctor.checks import examine, unchecked
    from servicebus.operations.doctor.gather import administrations, look_for_nodes, looked_at
    from servicebus.operations.doctor.management import ANSWER_S

    admins = administrations(fleet.config, *ways, max(timeout_s, ANSWER_S))
    with ExitStack() as stack:
        sessions = stack.enter_context(looked_at(fleet, admins))
        _ask_nodes(fleet, timeout_s)
        look_for_nodes(fleet, sessions, fleet.nodes)
        findings = examine(fleet)
        mended = [] if not fix else _mended(fleet, findings, sessions, dry_run=dry_run)
        if any(each["done"] for each in mended):
            again = stack.enter_context(looked_at(fleet, admins))
            look_for_nodes(fleet, again, fleet.nodes)
            findings = examine(fleet)
        return findings, unchecked(fleet), mended


def _ask_nodes(fleet: FleetFacts, timeout_s: float) -> None:
    """Over those brokers that have the exchange: on others a Sender would declare it."""
    from servicebus.cli.fleet import ask_nodes, hear_refusals
    from servicebus.sender import Sender  # here, so that --help and completion do not wait for pika

    exchange = fleet.config.exchange_name
    hosts = tuple(facts.host for facts in fleet.reached if facts.exchanges.get(exchange) != "missing")
    if hosts:
        with Sender(fleet.config.replaced(hosts=hosts)) as sender:
            ask_nodes(sender, fleet, timeout_s, _QUIET_S)
            hear_refusals(sender, fleet, [*fleet.own_nodes, *_consumed_nodes(fleet)], timeout_s)


def _consumed_nodes(fleet: FleetFacts) -> list[str]:
    """Nodes whose queue for control is consumed, as far as a management API names it."""
    return [
        name.removesuffix(".control")
        for broker in fleet.reached
        if broker.managed is not None
        for name, queue in (broker.managed.queues or {}).items()
        if name.endswith(".control") and queue.get("consumers")
    ]


def _mended(
    fleet: FleetFacts, findings: Sequence[DoctorFinding], sessions: dict[str, Session], *, dry_run: bool
) -> list[dict[str, Any]]:
    from servicebus.operations.doctor.repairs import mend

    found = []
    for finding in findings:
        if finding.repair is None or finding.host not in sessions:
            continue
        why = ""
        if not dry_run:
            try:
                mend(sessions[finding.host], fleet, finding)
            except TransportError as error:
                why = str(error)
                warn(f"{finding.repair.describe()}: {why}")
        done = not (dry_run or why)
        found.append({"host": finding.host, "code": finding.code, "what": finding.repair.describe(), "done": done})
    return found


def _lines(
    fleet: FleetFacts, findings: Sequence[DoctorFinding], missing: Sequence[Unchecked],
    mended: Sequence[dict[str, Any]], *, is_dry: bool,
) -> list[str]:  # fmt: skip
    lines = []
    for each in findings:
        where = each.host or each.node or "the bus"
        lines += [
            f"{where}: {each.severity}: {each.what} [{each.code}]",
            f"    cause: {each.cause}",
            f"    fix:   {each.fix}",
        ]
    for done in mended:
        word = "would" if is_dry else "done:" if done["done"] else "failed:"
        lines.append(f"{done['host']}: {word} {done['what']}")
    lines += [f"not checked: {f'{each.host}: ' if each.host else ''}{each.what} ({each.why})" for each in missing]
    errors = sum(each.severity == "error" for each in findings)
    counts = (
        f"{counted(errors, 'error')}, {counted(len(findings) - errors, 'warning')}" if findings else "nothing is wrong"
    )
    reached = f"{len(fleet.reached)} of {counted(len(fleet.brokers), 'broker')} reached"
    lines.append(f"{counts}; {reached}, {counted(len(fleet.nodes), 'node')}")
    return [printable(line) for line in lines]
