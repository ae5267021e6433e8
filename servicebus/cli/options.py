"""Arguments and options that several commands share."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import click

from servicebus.cli.output import Output, warn
from servicebus.configuration import BrokerHost, Configuration

Command = TypeVar("Command", bound=Callable[..., Any])

CONFIG_VARIABLE = "SERVICEBUS_CONFIG"


class ConfigurationFile(click.Path):
    """A path, turned into the loaded Configuration; its warnings go to stderr unless the command logs them itself."""

    name = "file"

    def __init__(self, *, warns: bool = True):
        super().__init__()
        self._warns = warns

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Load the file. Raises ConfigurationError, which the group reports with exit status 3."""
        if isinstance(value, Configuration):
            return value
        configuration = Configuration.load(value)
        for message in configuration.warnings if self._warns else ():
            warn(message)
        return configuration


def params_argument(command: Command) -> Command:
    """The argument JSON: a JSON text, or ``-`` for the one on stdin. The command gets the value that it stands for."""
    return click.argument("params", default="null", metavar="[JSON]", callback=_decode)(command)


def _decode(ctx: click.Context, param: click.Parameter, value: str) -> Any:
    try:
        return json.loads(sys.stdin.read() if value == "-" else value, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"not JSON: {error}; a text stands in double quotes, as in '\"text\"'") from error


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


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


def config_option(command: Command) -> Command:
    """``--config FILE`` or the environment variable."""
    return click.option(
        "-c",
        "--config",
        "configuration",
        type=ConfigurationFile(),
        metavar="FILE",
        envvar=CONFIG_VARIABLE,
        required=True,
        show_envvar=True,
        help="YAML file with hosts, secret_token and the rest.",
    )(command)


def config_argument(*, warns: bool = True, required: bool = True) -> Callable[[Command], Command]:
    """The argument FILE, or the environment variable."""
    return click.argument(
        "configuration",
        type=ConfigurationFile(warns=warns),
        metavar="FILE" if required else "[FILE]",
        envvar=CONFIG_VARIABLE,
        required=required,
    )


def timeout_option(default_text: str, default: float | None = None) -> Callable[[Command], Command]:
    """``--timeout SECONDS``."""
    return click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        default=default,
        metavar="SECONDS",
        help=f"Give up after so long. Default: {default_text}.",
    )


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
