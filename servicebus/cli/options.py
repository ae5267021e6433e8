"""Arguments and options that several commands share."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import click
from click.core import ParameterSource

from servicebus._context import encode_context
from servicebus.cli.output import Output, warn
from servicebus.configuration import BrokerHost, Configuration
from servicebus.errors import AddressError, EnvelopeError
from servicebus.wire.address import check_node_name

Command = TypeVar("Command", bound=Callable[..., Any])

CONFIG_VARIABLE = "SERVICEBUS_CONFIG"
_ARGUMENT = "servicebus.cli.file"
_OR_FILE = " or as the argument FILE"


class _Text(click.types.StringParamType):
    """A text in UTF-8, whatever the locale: in the C locale Python makes surrogates of the bytes of an argument."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the bytes of the argument as UTF-8."""
        try:
            return os.fsencode(value).decode()
        except UnicodeError:
            self.fail("not UTF-8", param, ctx)


class Seconds(click.FloatRange):
    """A duration above 0. ``nan`` and ``inf`` are refused: no limit is not offered, since every wait has one."""

    name = "seconds"

    def __init__(self) -> None:
        super().__init__(min=0, min_open=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read a number of seconds."""
        found = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{value!r} is not a number of seconds", param, ctx)
        return found


TEXT = _Text()


def params_argument(command: Command) -> Command:
    """The argument JSON: a JSON text, or ``-`` for the one on stdin. The command gets the value that it stands for."""
    return click.argument("params", type=TEXT, default="null", metavar="[JSON]", callback=_decode)(command)


def params_option(command: Command) -> Command:
    """``--params JSON``, as ``params_argument``."""
    return click.option(
        "--params", type=TEXT, default="null", metavar="JSON", callback=_decode, help="What the service gets."
    )(command)


def rate_option(default: int | None, help_text: str) -> Callable[[Command], Command]:
    """``--rate NUMBER``, a second."""
    kind = click.IntRange(1, 100_000)
    return click.option("--rate", type=kind, default=default, show_default=default is not None, help=help_text)


def _decode(ctx: click.Context, param: click.Parameter, value: str) -> Any:
    try:
        return read_json(read_stdin() if value == "-" else value)
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"not JSON: {error}; a text stands in double quotes, as in '\"text\"'") from error


def read_json(text: str) -> Any:
    """What *text* stands for. Raises ValueError or RecursionError: it is no JSON."""
    return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_unique)


def read_stdin() -> str:
    """All of it, as UTF-8. Raises click.BadParameter: it is closed; ValueError: it is not UTF-8."""
    if sys.stdin is None:  # the program was started with it closed
        raise click.BadParameter("- reads the JSON from stdin, which is closed")
    return sys.stdin.buffer.read().decode().removeprefix("\ufeff")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {json.dumps(twice)} stands twice in an object")
    return found


def context_option(command: Command) -> Command:
    """``--context KEY=VALUE``, any number of times; the command gets a dict."""
    return click.option(
        "--context",
        type=TEXT,
        multiple=True,
        metavar="KEY=VALUE",
        callback=_read_pairs,
        help="A text pair that travels beside the parameters. May be repeated.",
    )(command)


def _read_pairs(ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]) -> dict[str, str]:
    parts = [text.partition("=") for text in texts]
    if not all(sign for _, sign, _ in parts):
        raise click.BadParameter("one is not KEY=VALUE")  # which is not shown: it may be a token
    pairs = {key: value for key, _, value in parts}
    if len(pairs) < len(parts):
        raise click.BadParameter("a key is there twice")
    try:
        encode_context(pairs)
    except EnvelopeError as error:
        raise click.BadParameter(error.detail.removeprefix("context: ")) from error
    return pairs


def _set_json(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        ctx.ensure_object(Output).json = True


def json_option(command: Command) -> Command:
    """``--json``, before or behind the command's name."""
    return click.option(
        "--json",
        is_flag=True,
        expose_value=False,
        callback=_set_json,
        is_eager=True,
        help="Print one JSON document, errors too (on stderr).",
    )(command)


def load(path: str) -> Configuration:
    """The configuration in the file *path*; what it warns of goes to stderr. Raises ConfigurationError."""
    configuration = Configuration.load(path)
    for message in configuration.warnings:
        warn(message)
    return configuration.replaced(traces=0.0)  # a command has no SDK, and does not wait for its API


def config_source(
    *, is_argument: bool = False, required: bool = True, read: Callable[[str], Any] = load
) -> Callable[[Command], Command]:
    """``-c FILE``, or the environment variable; the command gets ``configuration``, which *read* makes of the path.

    Args:
        is_argument: FILE may stand as an argument, too.
    """

    def chosen(ctx: click.Context, param: click.Parameter, path: str | None) -> Any:
        argument = ctx.meta.get(_ARGUMENT)
        if argument is not None and ctx.get_parameter_source(str(param.name)) is ParameterSource.COMMANDLINE:
            raise click.UsageError("the configuration is named twice: as an argument and by -c")
        found = argument or path
        if found is None and required and not ctx.resilient_parsing:
            raise click.UsageError(
                f"no configuration: name it by -c FILE{_OR_FILE * is_argument}, or ${CONFIG_VARIABLE}"
            )
        return None if found is None else read(found)

    def keep(ctx: click.Context, param: click.Parameter, path: str | None) -> None:
        ctx.meta[_ARGUMENT] = path

    option = click.option(
        "-c",
        "--config",
        "configuration",
        type=click.Path(),
        metavar="FILE",
        envvar=CONFIG_VARIABLE,
        show_envvar=True,
        callback=chosen,
        help="YAML file with hosts, secret_token and the rest.",
    )
    argument = click.argument(
        "file", type=click.Path(), metavar="[FILE]", required=False, is_eager=True, expose_value=False, callback=keep
    )

    def decorate(command: Command) -> Command:
        return option(argument(command) if is_argument else command)

    return decorate


config_option = config_source()


def timeout_option(default_text: str, default: float | None = None) -> Callable[[Command], Command]:
    """``--timeout SECONDS``."""
    return click.option(
        "--timeout",
        type=Seconds(),
        default=default,
        metavar="SECONDS",
        help=f"Give up after so long. Default: {default_text}.",
    )


def node_named(configuration: Configuration, name: str | None) -> str:
    """The node that ``--node`` names, else that of the file; the name of this machine says nothing about a Sender's."""
    if name is None:
        if not configuration.names_node:
            raise click.UsageError(f"{configuration.path} has no node_name: say which node is meant by --node NAME")
        return configuration.node_name
    try:
        check_node_name(name)
    except AddressError as error:
        raise click.BadParameter(str(error), param_hint="--node") from error
    return name


def host_named(configuration: Configuration, name: str, hint: str) -> BrokerHost:
    """The broker of the file that *name* means: ``host:port``, or the host alone if no other has it."""
    known = configuration.hosts
    exact = [host for host in known if host.name == name]
    found = exact or [host for host in known if host.host == name]
    if len(found) == 1:
        return found[0]
    names = ", ".join(host.name for host in found or known)
    problem = "means more than one" if found else "is no broker of the file"
    raise click.BadParameter(f"{name} {problem}: {names}", param_hint=hint)
