"""``servicebus bench``: how many calls one's own brokers, nodes and services carry, and how long those take."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from servicebus.cli.exit_codes import ExitCode
from servicebus.cli.options import (
    TEXT,
    Seconds,
    config_option,
    host_named,
    json_option,
    params_argument,
    rate_option,
    timeout_option,
)
from servicebus.cli.output import Output, note, warn
from servicebus.configuration import BrokerHost, Configuration
from servicebus.wire.printable import counted, printable

if TYPE_CHECKING:
    from servicebus.operations.load import Begin, LoadFigures
    from servicebus.sender import Sender

_ROUNDS = 3
"""The brokers take turns so often, so that what else the machines do meets all of them."""
_REACH_S = 3.0
_MOST_BYTES = 4 * 1024 * 1024


@dataclass
class _Measured:
    """One broker."""

    host: str
    begin: Begin
    figures: LoadFigures
    seconds: float = 0.0

    @property
    def per_s(self) -> float:
        return self.figures.latencies.count / self.seconds if self.seconds else 0.0

    def report(self) -> dict[str, Any]:
        rates = {"calls_per_s": round(self.per_s, 1), "seconds": round(self.seconds, 3)}
        return {"host": self.host, **rates, **self.figures.report()}


@dataclass
class _Plan:
    """What is asked, and how."""

    target: str
    params: Any
    hosts: Sequence[BrokerHost]
    chosen: dict[str, Any]
    lacking: dict[str, str] = field(default_factory=dict)
    """Why a broker is not measured."""

    def __str__(self) -> str:
        what = "calls" if "." in self.target else "pings"
        rate, in_flight = self.chosen["rate"], self.chosen["in_flight"]
        how = f"{in_flight} at a time" if rate is None else f"{rate:g} a second"
        per_host_s = self.chosen["for_s"] + self.chosen["warm_up"]
        names = ", ".join(host.name for host in self.hosts)
        return f"{what} {self.target}, {how}, for {per_host_s:g} s over each of {names}"


@click.command()
@click.argument("target", type=TEXT)
@params_argument
@config_option
@click.option("--host", "names", multiple=True, metavar="HOST", help="Only this broker of the file. May be repeated.")
@click.option("--for", "for_s", type=Seconds(), default=5.0, show_default=True, help="Seconds over each broker.")
@click.option("--warm-up", type=Seconds(), default=1.0, show_default=True, help="Seconds before, not counted.")
@click.option("--in-flight", type=click.IntRange(1, 1000), default=8, show_default=True, help="Under way at a time.")
@rate_option(None, "Calls a second, in place of as many as are answered.")
@click.option("--size", type=click.IntRange(0, _MOST_BYTES), metavar="BYTES", help="JSON is a text of so many letters.")
@timeout_option("10, for each call", 10.0)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only say what load it would make.")
@json_option
@click.pass_context
def bench(ctx: click.Context, /, target: str, params: Any, configuration: Configuration, **chosen: Any) -> None:
    """Measure calls a second, and how long they take, over each broker of the file.

    TARGET is a node, which is pinged, or a service (NODE.category.name), which is called with JSON: one that may be
    called very often. It makes real load: whatever else uses these brokers and nodes meanwhile is slower for it.

    Exit status 0 if none failed, 1 if some did, 4 if TARGET answers over no broker, 10 if over some of them only.

    Example: servicebus bench NODE-01.math.add '[1, 2]' --in-flight 64
    """
    output = ctx.ensure_object(Output)
    if chosen["size"] is not None:
        if params is not None or "." not in target:
            raise click.UsageError("--size is for calls of a service, in place of JSON")
        params = "x" * chosen["size"]
    hosts = [host_named(configuration, name, "--host") for name in chosen["names"]] or configuration.hosts
    plan = _Plan(target, params, hosts, chosen)
    if chosen["dry_run"]:
        output.result({"would": str(plan), "hosts": [host.name for host in hosts]}, printable(f"it {plan}"))
        return
    _must_be_meant(plan, output, is_sure=chosen["yes"])
    with ExitStack() as stack:
        measured = _reached(stack, configuration, plan)
        _measure(measured, plan)
    document = {"target": target, "in_flight": chosen["in_flight"], "rate": chosen["rate"], "size": chosen["size"]}
    brokers = [each.report() for each in measured]
    output.result({**document, "brokers": brokers, "unreachable": plan.lacking}, "\n".join(_lines(measured)))
    if not measured:
        ctx.exit(ExitCode.UNAVAILABLE)
    if any(each.figures.failed for each in measured):
        ctx.exit(ExitCode.FAILED)
    ctx.exit(ExitCode.PARTIAL if plan.lacking else ExitCode.OK)


def _must_be_meant(plan: _Plan, output: Output, *, is_sure: bool) -> None:
    if is_sure:
        return
    if output.json:
        raise click.UsageError("--json does not ask: add --yes, or --dry-run")
    click.confirm(printable(f"This {plan}. Go on?"), abort=True, err=True)


def _reached(stack: ExitStack, configuration: Configuration, plan: _Plan) -> list[_Measured]:
    """Brokers over which the node answers; the Senders are closed with *stack*."""
    from servicebus._load_targets import calls_of, pings_of
    from servicebus.operations.load import LoadFigures
    from servicebus.sender import Sender  # here, so that --help and completion do not wait for pika

    found = []
    for host in plan.hosts:
        sender: Sender = stack.enter_context(Sender(configuration.replaced(hosts=(host,))))
        node = plan.target.partition(".")[0]
        timeout_s = plan.chosen["timeout"]
        if "." in plan.target:
            (begin,) = calls_of(sender, [plan.target], plan.params, timeout_s).values()
        else:
            (begin,) = pings_of(sender, [node], timeout_s).values()
        error = sender.ping_error(node, _REACH_S)
        if error is None:
            found.append(_Measured(host.name, begin, LoadFigures()))
            continue
        plan.lacking[host.name] = str(error) or f"no answer within {_REACH_S:g} s"
        warn(f"{host.name} is not measured: {plan.lacking[host.name]}")
    return found


def _measure(measured: Sequence[_Measured], plan: _Plan) -> None:
    warm_up_s, for_s = plan.chosen["warm_up"], plan.chosen["for_s"]
    for each in measured:
        _run(each, plan, warm_up_s, is_counted=False)
    for number in range(_ROUNDS):
        for each in measured:
            note(f"round {number + 1} of {_ROUNDS}: {each.host}")
            _run(each, plan, for_s / _ROUNDS)


def _run(measured: _Measured, plan: _Plan, seconds: float, *, is_counted: bool = True) -> None:
    from servicebus.operations.load import LoadGenerator

    how = {"in_flight": plan.chosen["in_flight"], "per_s": plan.chosen["rate"], "limit_s": plan.chosen["timeout"]}
    load = LoadGenerator({measured.host: measured.begin}, **how)
    began = time.monotonic()
    load.start("")
    try:
        time.sleep(seconds)
    finally:
        load.stop()
    if is_counted:
        measured.seconds += time.monotonic() - began
        measured.figures.merge(load.figures[""][measured.host])


def _lines(measured: Sequence[_Measured]) -> Iterator[str]:
    if not measured:
        return
    width = max(len(each.host) for each in measured)
    heads = ("calls/s", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "longest", "failed", "of best")
    yield " " * width + "".join(f"{head:>10}" for head in heads)
    best = max(each.per_s for each in measured)
    for each in measured:
        told = each.figures.report()
        times = [told[name] for name in ("p50_ms", "p90_ms", "p99_ms", "p99.9_ms", "longest_ms")]
        share = f"{each.per_s / best:.0%}" if best else "-"
        cells = [f"{each.per_s:.0f}", *(f"{time_ms:.2f}" for time_ms in times), str(each.figures.failed), share]
        yield f"{each.host:<{width}}" + "".join(f"{cell:>10}" for cell in cells)
    for each in measured:
        if each.figures.failed:
            yield f"{each.host}: {counted(each.figures.failed, 'call')} failed: {dict(each.figures.errors)}"
            yield from (f"  {text}" for text in each.figures.texts)
