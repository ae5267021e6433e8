"""``servicebus check``: a plugin for Nagios, Icinga and what else takes their exit codes and performance data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import click

from servicebus.cli.agent_socket import ask_agent, socket_option
from servicebus.cli.check_formats import FORMATS, PluginResult
from servicebus.cli.group import Failure
from servicebus.cli.options import config_source, json_option, node_named, timeout_option
from servicebus.cli.output import Output
from servicebus.configuration import Configuration
from servicebus.errors import ServiceBusError
from servicebus.observability.measures import AGENT_MEASURES, BROKER_MEASURES, agent_measures
from servicebus.observability.thresholds import Measured, Range, Ranges, Severity, worst

_MEASURES = {**AGENT_MEASURES, **BROKER_MEASURES}
Given = Mapping[str, Range | None]
T = TypeVar("T")


class _Plugin(click.Command):
    """A command whose every end is one of the four of a plugin: wrong arguments and files are UNKNOWN, on stdout."""

    def make_context(self, *arguments: Any, **options: Any) -> click.Context:
        """As click's."""
        return _or_unknown(lambda: super(_Plugin, self).make_context(*arguments, **options))

    def invoke(self, ctx: click.Context) -> Any:
        """As click's."""
        return _or_unknown(lambda: super(_Plugin, self).invoke(ctx))


def _or_unknown(do: Callable[[], T]) -> T:
    try:
        return do()
    except (click.exceptions.Exit, click.Abort):
        raise
    except (click.ClickException, ServiceBusError) as error:
        _end_as_unknown(error.format_message() if isinstance(error, click.ClickException) else str(error))


def _end_as_unknown(why: str) -> NoReturn:
    result = PluginResult("", [], {}, Severity.UNKNOWN, [" ".join(why.split())])
    click.echo(FORMATS["nagios"](result))
    raise click.exceptions.Exit(Severity.UNKNOWN)


def _read_ranges(ctx: click.Context, param: click.Parameter, texts: Sequence[str]) -> dict[str, Range | None]:
    found: dict[str, Range | None] = {}
    for text in texts:
        name, equals, given = text.partition("=")
        if not equals or name not in _MEASURES:
            raise click.BadParameter(f"{text!r} is not NAME=RANGE; the names are {', '.join(_MEASURES)}")
        try:
            found[name] = Range.parse(given) if given else None
        except ValueError:
            raise click.BadParameter(f"{given!r} is no range; write 10, 10:, ~:10, 10:20 or @10:20") from None
    return found


def _range_option(*names: str, word: str) -> Callable[[Any], Any]:
    return click.option(
        *names, multiple=True, metavar="NAME=RANGE", callback=_read_ranges,
        help=f"Where NAME is no {word}: 10 is 0 to 10, 10: at least 10; nothing behind = for never. May be repeated.",
    )  # fmt: skip


@click.command(cls=_Plugin)
@config_source(is_argument=True, required=False)
@socket_option
@click.option(
    "--agent/--no-agent",
    "of_agent",
    default=None,
    help="Ask the agent of this machine. Default: if its status socket is known.",
)
@click.option(
    "--brokers/--no-brokers",
    "of_brokers",
    default=None,
    help="Look at the brokers of the file. Default: if no agent is asked.",
)
@click.option("--node", metavar="NAME", help="Whose queues are looked at on the brokers. Default: that of the file.")
@_range_option("-w", "--warn", word="warning")
@_range_option("-C", "--critical", word="critical state")
@click.option("--format", "form", type=click.Choice(list(FORMATS)), default="nagios", show_default=True)
@timeout_option("3", 3.0)
@json_option
@click.pass_context
def check(
    ctx: click.Context, configuration: Configuration | None, path: str | None, of_agent: bool | None,
    of_brokers: bool | None, node: str | None, warn: Given, critical: Given, form: str, timeout: float,
) -> None:  # fmt: skip
    """Say whether the agent of this machine, or the brokers of FILE, are well: for monitoring.

    Exit status as of all monitoring plugins: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN, also for wrong arguments.
    """
    place = path or (configuration.status_socket if configuration is not None else None)
    of_agent = bool(place) if of_agent is None else of_agent
    of_brokers = not of_agent if of_brokers is None else of_brokers
    if not (of_agent or of_brokers):
        raise click.UsageError("--no-agent and --no-brokers leave nothing to look at")
    name = ""
    measured: list[Measured] = []
    why: list[str] = []
    if of_agent:
        if place is None:
            raise click.UsageError("no status_socket in the file: name one by --socket PATH, or say --no-agent")
        try:
            document = ask_agent(place, timeout, ctx.ensure_object(Output)).document
            name, measured = str(document.get("node", "")), [*agent_measures(document)]
        except Failure as failure:
            why.append(failure.message)
    if of_brokers:
        name, found = _of_brokers(configuration, node)
        measured += found
    result = _result(name, measured, _limits(warn, critical), why)
    click.echo(FORMATS["json" if ctx.ensure_object(Output).json else form](result))
    ctx.exit(result.severity)


def _of_brokers(configuration: Configuration | None, node: str | None) -> tuple[str, list[Measured]]:
    from servicebus.operations.node_queues import looked_at, node_measures
    from servicebus.runtime.known_subscriptions import known_subscriptions
    from servicebus.wire.events import event_queue

    if configuration is None:
        raise click.UsageError("the brokers stand in a file: name it by -c FILE or as the argument FILE")
    name = node_named(configuration, node)
    known = known_subscriptions(configuration) if name == configuration.node_name else {}
    queues = looked_at(configuration, name, [event_queue(name, each) for each in known])
    return name, [*node_measures(queues, configuration.hosts)]


def _limits(warn: Given, critical: Given) -> dict[str, Ranges]:
    found = {}
    for name, measure in _MEASURES.items():
        low = warn[name] if name in warn else _default(measure.warn)
        high = critical[name] if name in critical else _default(measure.critical)
        found[name] = Ranges(low, high)
    return found


def _default(text: str) -> Range | None:
    return Range.parse(text) if text else None


def _result(node: str, measured: Sequence[Measured], limits: Mapping[str, Ranges], why: Sequence[str]) -> PluginResult:
    severity = Severity.CRITICAL if why else worst(each.severity(limits) for each in measured)
    return PluginResult(node, measured, limits, severity, why)
