"""``servicebus-logd``: the log server as a program.

Exit codes: 0 asked to stop, 2 wrong command line, 3 could not start.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from logging_service.lines import DEFAULT_FORMAT
from logging_service.server import EXIT_BAD_CONFIGURATION, LogServer, Options
from servicebus.configuration import LoggingSettings, Secret, load_logging, weak_secrets
from servicebus.errors import ConfigurationError
from servicebus.runtime.inherited import put_right

DEFAULT_PORT = 5500


@click.command("servicebus-logd")
@click.argument("config", required=False, type=click.Path())
@click.option("--file", type=click.Path(), help="The file to write.")
@click.option("--host", help="The address to listen on.  [default: 127.0.0.1]")
@click.option(
    "--port", type=click.IntRange(0, 65535), help=f"The UDP port; 0 takes a free one.  [default: {DEFAULT_PORT}]"
)
@click.option("--secret-file", type=click.Path(), help="One secret in each line: all of them are accepted.")
@click.option("--max-bytes", type=click.IntRange(4096), help="Rotate at this size, instead of at midnight.")
@click.option("--keep", type=click.IntRange(0), help="How many rotated files stay.  [default: 15]")
@click.option("--format", "line_format", help="The line, as Python's logging.Formatter takes it.")
def main(
    config: str | None,
    file: str | None,
    host: str | None,
    port: int | None,
    secret_file: str | None,
    max_bytes: int | None,
    keep: int | None,
    line_format: str | None,
) -> None:
    """Collect the log records of all processes into one file.

    CONFIG is a YAML file with a section "logging:", such as conf/logserver.yaml or the agent's own; options win over
    it. TERM ends the server within a second, HUP makes it reopen its file.
    """
    put_right()
    try:
        options = _from_settings(load_logging(config)) if config else Options(file="", port=DEFAULT_PORT)
        given = {"file": file, "host": host, "port": port, "keep": keep, "format": line_format}
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        options = replace(options, **changes)
        if max_bytes is not None:
            options = replace(options, max_bytes=max_bytes, at_midnight=False)
        if secret_file is not None:
            options = replace(options, secrets=_read_secrets(secret_file))
        if not options.file:
            raise ConfigurationError("no file to write: give --file, or logging.file in a configuration", key="file")
        server = LogServer(options)
    except ConfigurationError as error:
        click.echo(f"servicebus-logd: {error}", err=True)
        sys.exit(EXIT_BAD_CONFIGURATION)
    click.echo(f"servicebus-logd: listening on {options.host}:{server.port}, writing {options.file}")
    for text in _warnings(options.secrets):
        click.echo(f"servicebus-logd: {text}", err=True)
        server.warn(text)
    sys.exit(server.run())


def _warnings(secrets: tuple[Secret, ...]) -> tuple[str, ...]:
    if not secrets:
        return ("records are not signed, and anyone who reaches the port can write some: set logging.secret",)
    return weak_secrets("logging.secret", secrets)


def _from_settings(settings: LoggingSettings) -> Options:
    return Options(
        file=settings.file or "",
        port=settings.port,
        host=settings.host,
        secrets=settings.secrets,
        at_midnight=settings.rotate_when is not None,
        max_bytes=settings.rotate_max_bytes,
        keep=settings.keep,
        format=DEFAULT_FORMAT,
    )


def _read_secrets(path: str) -> tuple[Secret, ...]:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigurationError(f"the secret file {path} cannot be read: {reason}", key="secret-file") from None
    secrets = tuple(Secret(line.strip()) for line in lines if line.strip())
    if not secrets:
        raise ConfigurationError(f"the secret file {path} holds no secret", key="secret-file")
    return secrets


if __name__ == "__main__":
    main()
