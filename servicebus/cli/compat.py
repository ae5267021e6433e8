"""``servicebus compat``: the way of a program, a configuration or a node from py-servicebus 2.x."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from servicebus.cli.exit_codes import ExitCode
from servicebus.cli.options import TEXT, Seconds, config_source, json_option, node_named
from servicebus.cli.output import Output
from servicebus.configuration import Configuration
from servicebus.errors import ConfigurationError, ServiceBusError
from servicebus.wire.printable import counted, printable

if TYPE_CHECKING:
    from servicebus.operations.takeover import NodeSight
    from servicebus.operations.takeover_file import Setting, TakeoverObstacle

_AT_ONCE = 8
_PROGRAM_NEXT = "run it on a broker of your own (servicebus broker up), then take the node over: docs/coming-from"
_FILE_NEXT = "servicebus doctor -c FILE looks at its brokers; servicebus compat check NODE -c FILE at the node there"


@click.group()
def compat() -> None:
    """Come from py-servicebus 2.x, program by program and node by node."""


@compat.command()
@click.argument("target", type=TEXT, metavar="FILE|NODE")
@config_source(required=False)
@click.option("--timeout", type=Seconds(), default=2.0, metavar="SECONDS", help="For the answer of a node. Default: 2.")
@json_option
@click.pass_context
def check(ctx: click.Context, target: str, configuration: Configuration | None, timeout: float) -> None:
    """Say what stands in the way of taking a program, a configuration or a node over, and what to do next.

    FILE is a program (its name ends in .py) or a configuration of py-servicebus 2.x, which is read and not run. NODE is
    looked at on every broker of -c FILE; nothing is changed there. Exit status 0 if nothing stands in the way, 1 if
    something does, 4 if no broker could be reached.
    """
    if Path(target).is_file():
        _check_file(ctx, target)
        return
    if configuration is None:
        raise click.UsageError(f"{target} is no file; to look at the node of that name say -c FILE")
    _check_node(ctx, node_named(configuration, target), configuration, timeout)


# -- a file ------------------------------------------------------------------------------------------------------------


def _check_file(ctx: click.Context, path: str) -> None:
    from servicebus.operations.takeover_file import in_program, in_settings

    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{path}: {error}", param_hint="FILE") from error
    if path.endswith(".py"):
        found, settings = in_program(text, path)
        found += in_settings(settings, path) if settings is not None else []
        next_step = _PROGRAM_NEXT
    else:
        found, next_step = in_settings(_keys_of(text, path), path), _FILE_NEXT
        found += _of_reading(path) if not any(each.code == "unknown-key" for each in found) else []
    is_blocked = any(each.is_blocking for each in found)
    next_step = "change what is named above, and check again" if is_blocked else next_step
    document = {"file": path, "obstacles": [_to_json(each) for each in found], "next": next_step}
    _end(ctx, document, [], found, next_step)


def _keys_of(text: str, path: str) -> dict[str, Setting]:
    """The keys of a YAML or JSON file as they are written: neither variables nor files are put in."""
    import yaml

    from servicebus.operations.takeover_file import UNKNOWN, Setting

    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigurationError("it is neither YAML nor JSON", path=path) from error
    if not isinstance(root, yaml.MappingNode):
        raise ConfigurationError("a configuration is a mapping of keys", path=path)

    def value(node: yaml.Node) -> object:
        if isinstance(node, yaml.ScalarNode):
            return node.value if node.tag.startswith("tag:yaml.org") else UNKNOWN
        return [value(each) for each in node.value] if isinstance(node, yaml.SequenceNode) else UNKNOWN

    return {key.value: Setting(f"{path}:{key.start_mark.line + 1}", value(given)) for key, given in root.value}


def _of_reading(path: str) -> Iterator[TakeoverObstacle]:
    from servicebus.operations.takeover_file import TakeoverObstacle

    try:
        Configuration.load(path)
    except ConfigurationError as error:
        where = f"{path}:{error.line}" if error.line else path
        yield TakeoverObstacle(
            "unreadable", True, where, str(error).removeprefix(f"{where}: "), "see docs/configuration"
        )


# -- a node ------------------------------------------------------------------------------------------------------------


def _check_node(ctx: click.Context, node: str, configuration: Configuration, timeout_s: float) -> None:
    from servicebus.operations.takeover import look_at_node, next_step, obstacles_of
    from servicebus.sender import Sender

    def answers(at_host: Configuration) -> bool:
        with suppress(ServiceBusError), Sender(at_host) as sender:
            return sender.ping(node, timeout=timeout_s)
        return False

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        sights = list(pool.map(lambda host: look_at_node(node, host, configuration, answers), configuration.hosts))
    reached = [each for each in sights if not each.failure]
    found = [obstacle for sight in sights for obstacle in obstacles_of(sight, node, configuration)]
    then = next_step({each.state for each in reached}, node) if reached else "reach the brokers first"
    document = {
        "node": node,
        "brokers": [each.to_json() for each in sights],
        "obstacles": [_to_json(each) for each in found],
        "next": then,
    }
    _end(ctx, document, [_line(each, node) for each in reached], found, then, is_reached=bool(reached))


def _line(sight: NodeSight, node: str) -> str:
    answers = [number for number, does in (("1", sight.answers_1), ("2", sight.answers_2)) if does]
    queues = [
        f"{name}: {counted(queue.consumers, 'consumer')}, {queue.ready} waiting"
        for name, queue in ((node, sight.old_queue), (f"{node}.rpc", sight.calls), (f"{node}.messages", sight.messages))
        if queue is not None
    ]
    spoken = f"answers in version {' and '.join(answers)}" if answers else "does not answer"
    return f"{sight.host}: {spoken}; {'; '.join(queues) or 'it has no queue there'}"


# -- both --------------------------------------------------------------------------------------------------------------


def _to_json(obstacle: TakeoverObstacle) -> dict[str, object]:
    return {
        "code": obstacle.code,
        "blocking": obstacle.is_blocking,
        "where": obstacle.where,
        "what": obstacle.what,
        "todo": obstacle.todo,
    }


def _end(
    ctx: click.Context, document: Mapping[str, object], lines: list[str], found: Sequence[TakeoverObstacle],
    next_step: str, *, is_reached: bool = True,
) -> None:  # fmt: skip
    for each in found:
        word = "in the way" if each.is_blocking else "otherwise"
        lines += [f"{each.where}: {word}: {each.what} [{each.code}]", f"    do: {each.todo}"]
    blocking = sum(each.is_blocking for each in found)
    if not blocking:
        lines.append("nothing stands in the way")
    lines.append(f"next: {next_step}")
    ctx.ensure_object(Output).result(document, "\n".join(map(printable, lines)))
    ctx.exit(ExitCode.FAILED if blocking and is_reached else ExitCode.OK if is_reached else ExitCode.UNAVAILABLE)
