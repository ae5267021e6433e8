"""``servicebus nodes``, ``services`` and ``gather``: what is there, and one call at all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from servicebus.cli.exit_codes import ExitCode
from servicebus.cli.options import TEXT, Command, Seconds, config_option, json_option, params_argument, timeout_option
from servicebus.cli.output import Output, as_json, warn
from servicebus.cli.terminating import term_as_ctrl_c
from servicebus.configuration import Configuration
from servicebus.wire.printable import counted, describe, printable

if TYPE_CHECKING:
    from servicebus.sender import Gathered, NodeInfo, ServiceInfo


_pattern = click.argument("pattern", type=TEXT, default="*")


def _quiet(default: float) -> Callable[[Command], Command]:
    return click.option(
        "--quiet",
        type=Seconds(),
        default=default,
        metavar="SECONDS",
        help=f"End once no further node has answered for so long. Default: {default:g}.",
    )


@click.command()
@_pattern
@config_option
@timeout_option("2", 2.0)
@_quiet(0.25)
@json_option
@click.pass_context
def nodes(ctx: click.Context, pattern: str, configuration: Configuration, timeout: float, quiet: float) -> None:
    """List the nodes that answer, with the brokers that reach each.

    PATTERN is one for their names: 'NODE-*'. Exit status 4 if none answers, 10 if a broker could not be asked.
    """
    from servicebus.sender import Sender  # here, so that --help and completion do not wait for pika

    output = ctx.ensure_object(Output)
    with Sender(configuration) as sender:
        found = sender.nodes(pattern, timeout, quiet=quiet)
    document = {
        "nodes": [{"name": each.name, "brokers": list(each.brokers)} for each in found],
        "unreachable": dict(found.unreachable),
    }
    output.result(document, "\n".join(_node(each) for each in found))
    _end(ctx, output, len(found), found.unreachable)


@click.command()
@_pattern
@config_option
@timeout_option("2", 2.0)
@_quiet(0.25)
@json_option
@click.pass_context
def services(ctx: click.Context, pattern: str, configuration: Configuration, timeout: float, quiet: float) -> None:
    """List the services that nodes have, with the names of the nodes.

    PATTERN is one for the names of nodes: 'NODE-*'. Exit status 4 if none has any, 10 if a broker could not be asked.
    """
    from servicebus.sender import Sender

    output = ctx.ensure_object(Output)
    with Sender(configuration) as sender:
        found = sender.services(pattern, timeout, quiet=quiet)
    document = {
        "services": [{"name": each.name, "kind": each.kind, "nodes": list(each.nodes)} for each in found],
        "unreachable": dict(found.unreachable),
    }
    output.result(document, "\n".join(_service(each) for each in found))
    _end(ctx, output, len(found), found.unreachable)


@click.command()
@click.argument("address", type=TEXT)
@params_argument
@config_option
@timeout_option("300, or call_timeout of the file")
@_quiet(0.05)
@json_option
@click.pass_context
def gather(
    ctx: click.Context, address: str, params: Any, configuration: Configuration, timeout: float | None, quiet: float
) -> None:
    """Call one service at all nodes that have it, and print each result.

    ADDRESS is NODE.category.name, where NODE is a pattern: 'NODE-*.host.facts'. Results go to stdout, a line for each
    node; errors, and who did not answer, to stderr. Exit status 4 if no node was found, 8 if none of them has the
    service, 10 unless all that have it gave a result and all brokers could be asked.
    """
    from servicebus.sender import Sender

    output = ctx.ensure_object(Output)
    with term_as_ctrl_c(), Sender(configuration) as sender:
        found = sender.gather(address, params, timeout, quiet=quiet)
    output.result(_gathered(found), "\n".join(_results(found)))
    failed = {**found.errors, **found.unanswered}
    if not output.json:
        for node, error in sorted(failed.items()):
            warn(f"{node}: {describe(error)}")
    if failed:
        _warn_of(found.unreachable, output)
        ctx.exit(ExitCode.PARTIAL)
    if found.lacking and not found.results:
        if not output.json:
            warn(f"{counted(len(found.lacking), 'node')} answered, and none has that service")
        ctx.exit(ExitCode.UNKNOWN_SERVICE)
    _end(ctx, output, len(found.results), found.unreachable)


def _end(ctx: click.Context, output: Output, count: int, unreachable: Mapping[str, str]) -> None:
    _warn_of(unreachable, output)
    if not count:
        if not output.json:
            warn("no node has answered")
        ctx.exit(ExitCode.UNAVAILABLE)
    ctx.exit(ExitCode.PARTIAL if unreachable else ExitCode.OK)


def _warn_of(unreachable: Mapping[str, str], output: Output) -> None:
    if not output.json:
        for broker, why in unreachable.items():
            warn(f"nodes behind {broker} may be missing: {why}")


def _node(found: NodeInfo) -> str:
    return printable(f"{found.name}  {', '.join(found.brokers)}")


def _service(found: ServiceInfo) -> str:
    kind = "" if found.kind == "call" else f" ({found.kind})"
    return printable(f"{found.name}{kind}  {counted(len(found.nodes), 'node')}: {', '.join(found.nodes)}")


def _results(found: Gathered) -> Iterator[str]:
    for node, value in sorted(found.results.items()):
        yield f"{printable(node)}  {as_json(value)}"


def _gathered(found: Gathered) -> dict[str, Any]:
    return {
        "results": found.results,
        "errors": _described(found.errors),
        "unanswered": _described(found.unanswered),
        "lacking": list(found.lacking),
        "unreachable": dict(found.unreachable),
    }


def _described(errors: Mapping[str, BaseException]) -> dict[str, Any]:
    return {node: {"error": type(error).__name__, "message": str(error)} for node, error in errors.items()}
