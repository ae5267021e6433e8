"""``servicebus drill``: one broker out of service for a minute, under load, and back; and what that has cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from servicebus.cli.exit_codes import ExitCode
from servicebus.cli.group import Failure
from servicebus.cli.options import (
    TEXT,
    Seconds,
    config_option,
    host_named,
    json_option,
    params_option,
    rate_option,
    timeout_option,
)
from servicebus.cli.output import Output, note, warn
from servicebus.cli.terminating import term_as_ctrl_c
from servicebus.configuration import BrokerHost, Configuration
from servicebus.wire.printable import counted, printable

if TYPE_CHECKING:
    from servicebus.operations.drill import DrillReport
    from servicebus.operations.load import Begin
    from servicebus.sender import Sender

_ASK_S = 2.0
_UNDER_WAY = 64
"""To each target at most; what is due beyond that is begun late, and counts from when it was due."""


@click.command()
@click.argument("host")
@config_option
@click.option("--for", "for_s", type=Seconds(), default=60.0, show_default=True, help="How many seconds it is out.")
@click.option("--around", type=Seconds(), default=10.0, show_default=True, help="Seconds of load before and after.")
@click.option(
    "--address", "addresses", type=TEXT, multiple=True, metavar="ADDRESS",
    help="Call this service (NODE.category.name), in place of pinging all nodes. May be repeated.",
)  # fmt: skip
@params_option
@rate_option(5, "Requests a second to each node or address.")
@timeout_option("10, for each request", 10.0)
@click.option("--force", is_flag=True, help="Although nodes or services would be lost meanwhile.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done, and what would be lost.")
@json_option
@click.pass_context
def drill(
    ctx: click.Context, /, host: str, configuration: Configuration, addresses: tuple[str, ...], **chosen: Any
) -> None:  # fmt: skip
    """Take the broker HOST of the file out of service for a while, under load, and back; say what failed meanwhile.

    No worker takes calls there and no caller uses it, as after servicebus drain; it comes back by itself within
    seconds, also if this command is killed. It begins only if all nodes and services would still answer without HOST.

    Exit status 0 if nothing failed and all workers are back, 1 if not, or if something would be lost, 4 if no node
    answers or takes calls there, 130 after Ctrl-C or TERM.
    """
    from servicebus._load_targets import calls_of, pings_of, preferring
    from servicebus.sender import Sender  # here, so that --help and completion do not wait for pika

    output = ctx.ensure_object(Output)
    broker = host_named(configuration, host, "HOST")
    with Sender(preferring(configuration, broker)) as sender:
        found = _found(sender, broker)
        timeout_s = chosen["timeout"]
        targets = calls_of(sender, addresses, chosen["params"], timeout_s) or pings_of(sender, found.all, timeout_s)
        if chosen["dry_run"]:
            _tell(output, broker, found, targets, chosen["for_s"])
            ctx.exit(ExitCode.FAILED if found.risks else ExitCode.OK)
        if found.risks and not chosen["force"]:
            message = f"nothing was changed: {'; '.join(found.risks)}; --force does it all the same"
            raise Failure("WouldBeLost", message, ExitCode.FAILED, as_json=output.json)
        report = _run(configuration, broker, found.here, targets, chosen, output)
    output.result(report.to_json(), "\n".join(map(printable, _lines(report))))
    if report.is_stopped:
        ctx.exit(ExitCode.INTERRUPTED)
    ctx.exit(ExitCode.OK if report.is_good else ExitCode.FAILED)


class _Found(NamedTuple):
    """What answers now."""

    all: Sequence[str]
    """Nodes, over any broker."""
    here: Sequence[str]
    """Those that answer over the broker."""
    risks: Sequence[str]
    """What would be lost without it."""


def _found(sender: Sender, broker: BrokerHost) -> _Found:
    from servicebus.cli.forecast import forecast_now

    drawn, found = forecast_now(sender, broker.name, _ASK_S)
    for host, why in found.nodes.unreachable.items():
        if host != broker.name:
            warn(f"{host} could not be asked: {why}; what answers over it alone is not in this")
    here = [node.name for node in found.nodes if broker.name in node.brokers]
    return _Found([*drawn.nodes], here, drawn.risks())


def _tell(output: Output, broker: BrokerHost, found: _Found, targets: Mapping[str, Begin], for_s: float) -> None:
    """What would be done."""
    lines = [
        f"{broker.name} would be out of service for {for_s:g} s",
        f"  nodes that take calls there: {', '.join(found.here) or 'none'}",
        f"  asked meanwhile: {', '.join(targets) or 'nothing'}",
        *(f"  {risk}" for risk in found.risks),
    ]
    document = {"broker": broker.name, "for_s": for_s, "nodes": found.here, "targets": [*targets]}
    output.result({**document, "risks": found.risks, "dry_run": True}, "\n".join(map(printable, lines)))


def _run(
    configuration: Configuration, broker: BrokerHost, nodes: Sequence[str], targets: Mapping[str, Begin],
    chosen: dict[str, Any], output: Output,
) -> DrillReport:  # fmt: skip
    from servicebus.operations.drill import Drill, DrillRefused
    from servicebus.operations.load import LoadGenerator

    load = LoadGenerator(targets, in_flight=_UNDER_WAY, per_s=chosen["rate"], limit_s=chosen["timeout"])
    how = {"for_s": chosen["for_s"], "around_s": chosen["around"]}
    try:
        with term_as_ctrl_c():
            return Drill(configuration, broker, nodes, load, **how, on_step=note).run()
    except DrillRefused as error:
        message = f"nothing was changed: {error}"
        raise Failure("DrillRefused", message, ExitCode.UNAVAILABLE, as_json=output.json) from error


def _lines(report: DrillReport) -> Iterator[str]:
    from servicebus.operations.drill import PHASES

    yield f"{report.broker} was out of service for {report.out_s:.0f} s: {report.outcome()}"
    names = sorted({name for targets in report.figures.values() for name in targets})
    width = max(map(len, ["all", *names]))
    yield f"{'':{width}}" + "".join(f"{phase + text:>16}" for phase in PHASES for text in (" failed", " p99 ms"))
    for name in (["all"] if len(names) > 1 else []) + names:
        cells = []
        for phase in PHASES:
            figures = report.of_phase(phase) if name == "all" else report.of(phase, name)
            p99_ms = figures.latencies.percentile(99) * 1000
            cells += [f"{figures.failed} of {figures.requests}", f"{p99_ms:.1f}"]
        yield f"{name:{width}}" + "".join(f"{cell:>16}" for cell in cells)
    for node in report.nodes:
        left = "did not leave" if node.left_s is None else f"left after {node.left_s:.1f} s"
        back = "IS NOT BACK" if node.back_s is None else f"back after {node.back_s:.1f} s"
        yield f"{node.name}: {counted(node.workers, 'worker')}, {left}, {back}"
    for phase in PHASES:
        yield from (f"failed {phase}: {text}" for text in report.of_phase(phase).texts)
