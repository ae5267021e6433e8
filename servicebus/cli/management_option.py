"""Where the management API and rabbitmqctl of a broker are, for the commands that use them."""

from __future__ import annotations

from collections.abc import Sequence

import click

from servicebus.cli.options import TEXT, Command, host_named
from servicebus.configuration import Configuration, Secret
from servicebus.configuration.checks import Unacceptable
from servicebus.configuration.hosts import management_url

__all__ = ["by_host", "management_option", "management_urls", "rabbitmqctl_option"]

_HINT = "--management"


def management_option(command: Command) -> Command:
    """The command gets ``urls``, for ``management_urls()``."""
    return click.option(
        _HINT,
        "urls",
        multiple=True,
        metavar="[HOST=]URL",
        type=TEXT,
        help="The management API of a broker, where the file names none. Its user is that of the file.",
    )(command)


def rabbitmqctl_option(command: Command) -> Command:
    """The command gets ``commands``, for ``by_host()``."""
    return click.option(
        "--rabbitmqctl",
        "commands",
        multiple=True,
        metavar="[HOST=]COMMAND",
        type=TEXT,
        help="How rabbitmqctl of a broker is run: 'sudo rabbitmqctl'.",
    )(command)


def by_host(configuration: Configuration, given: Sequence[str], hint: str) -> dict[str, str]:
    """What is said of each broker, by the names of hosts; of the only one without ``HOST=``. Raises BadParameter."""
    found = {}
    for text in given:
        head, separator, rest = text.partition("=")
        is_named = bool(separator) and any(head in (host.name, host.host) for host in configuration.hosts)
        if not is_named and len(configuration.hosts) != 1:
            raise click.BadParameter("say of which broker of the file: HOST=...", param_hint=hint)
        host = host_named(configuration, head, hint) if is_named else configuration.hosts[0]
        found[host.name] = rest if is_named else text
    return found


def management_urls(configuration: Configuration, given: Sequence[str]) -> dict[str, Secret]:
    """By the names of hosts. A text that is refused is not shown: it may hold a password. Raises BadParameter."""
    try:
        return {name: management_url(url) for name, url in by_host(configuration, given, _HINT).items()}
    except Unacceptable as problem:
        raise click.BadParameter(str(problem), param_hint=_HINT) from problem
