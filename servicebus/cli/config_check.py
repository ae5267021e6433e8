"""``servicebus config check``: what is wrong with a configuration file, before an agent finds out."""

from __future__ import annotations

from typing import Any, NamedTuple

import click

from servicebus.cli.options import config_source, json_option, load
from servicebus.cli.output import Output, note
from servicebus.cli.run import build
from servicebus.configuration import BrokerHost, Configuration, LoggingSettings, MissingKey, load_logging, weak_secrets
from servicebus.configuration.mistakes import further_mistakes
from servicebus.configuration.values import host_and_port
from servicebus.errors import ConfigurationError
from servicebus.protocol.encryption import encryption_of
from servicebus.runtime.journal import check_journal, shown_journal
from servicebus.wire.encryption import key_id_of
from servicebus.wire.signing import Keyring


@click.group()
def config() -> None:
    """Work with configuration files."""


def _read(path: str) -> Configuration | LogServerFile:
    """A file of agents and senders, or one without hosts, for a log server alone. Raises ConfigurationError."""
    try:
        return load(path)
    except MissingKey as error:
        if error.key != "hosts":
            raise _last_of(path, error) from None
        settings = load_logging(path)
        if settings.file is None:
            raise _last_of(path, error) from None
        return LogServerFile(path, settings)
    except ConfigurationError as error:
        raise _last_of(path, error) from None


def _last_of(path: str, error: ConfigurationError) -> ConfigurationError:
    """What is to be raised of all mistakes in the file, of which *error* is the first: a line each, or one document."""
    output = click.get_current_context().ensure_object(Output)
    first, *further = [error, *further_mistakes(path, error)]
    if output.json:
        output.beside_error["further"] = [str(each) for each in further]
        return first
    *before, last = [first, *further]
    for each in before:
        note(str(each))
    return last


class LogServerFile(NamedTuple):
    """A file for ``servicebus-logd`` alone."""

    path: str
    settings: LoggingSettings

    def summary(self) -> dict[str, Any]:
        """What the file says, without secrets, as JSON can carry it."""
        found = self.settings
        return {
            "file": self.path,
            "log_server": {
                "address": host_and_port(found.host, found.port),
                "file": found.file,
                "level": found.level,
                "secrets": len(found.secrets),
            },
            "warnings": list(weak_secrets("logging.secret", found.secrets)),
        }

    def as_text(self) -> str:
        found = self.settings
        signed = "signed" if found.secrets else "not signed: any program that reaches the port can write records"
        return "\n".join(
            [
                f"{self.path}: fine, for servicebus-logd; a file for agents and senders needs hosts",
                f"listens {host_and_port(found.host, found.port)}, records are {signed}",
                f"writes  {found.file}, level {found.level}",
                *(f"warning {text}" for text in weak_secrets("logging.secret", found.secrets)),
            ]
        )


@config.command()
@config_source(is_argument=True, read=_read)
@click.option("--no-import", is_flag=True, help="Do not import the classes of the services.")
@json_option
@click.pass_obj
def check(output: Output, configuration: Configuration | LogServerFile, no_import: bool) -> None:
    """Read FILE as a program would: keys, values, secret files, TLS files and service classes; print what was found.

    FILE is one of an agent, a Sender or a log server. Nothing is connected to. Exit status 3 with the place of
    each mistake.
    """
    if isinstance(configuration, LogServerFile):
        output.result(configuration.summary(), configuration.as_text())
        return
    for host in configuration.hosts:
        host.ssl_context()
    check_journal(configuration)
    encryption_of(configuration)
    if configuration.services and not no_import:
        build(configuration)
    output.result(summary(configuration), _as_text(configuration))


def summary(configuration: Configuration) -> dict[str, Any]:
    """What the file says, without secrets, as JSON can carry it."""
    return {
        "file": configuration.path,
        "node": configuration.node_name,
        "hosts": [
            {"name": host.name, "user": host.user, "virtual_host": host.virtual_host, "tls": _tls_word(host)}
            for host in configuration.hosts
        ],
        "services": [
            {
                "kind": entry.kind or entry.form,
                "address": f"{configuration.node_name}.{entry.category}.{entry.name}" if entry.name else None,
                "target": entry.target,
                **entry.options,
            }
            for entry in configuration.services
        ],
        "secrets": len(configuration.secrets),
        "key_ids": list(Keyring(configuration.secrets).key_ids),
        "caller": configuration.caller,
        "callers": {name: list(Keyring(entry.secrets).key_ids) for name, entry in configuration.callers.items()},
        "encryption": _encryption_ids(configuration),
        "journal": _journal(configuration),
        "status_socket": configuration.status_socket,
        "log_file": configuration.logging.file,
        "warnings": list(configuration.warnings + configuration.secret_warnings),
    }


def _encryption_ids(configuration: Configuration) -> list[str] | None:
    """Of the keys that encrypt; None where nothing does."""
    settings = configuration.encryption
    return None if settings is None else [key_id_of(secret) for secret in dict.fromkeys(settings.secrets)]


def _journal(configuration: Configuration) -> str | None:
    is_of_an_agent = configuration.services or configuration.journal is not None
    return shown_journal(configuration) if is_of_an_agent else None


def _tls_word(host: BrokerHost) -> str:
    return ("verified" if host.tls.verify else "not verified") if host.use_ssl else "none"


def _service_words(entry: dict[str, Any]) -> str:
    return f"{entry['address']}  {entry['target']}" if entry["address"] else str(entry["target"])


def _as_text(configuration: Configuration) -> str:
    found = summary(configuration)
    lines = [f"{found['file']}: fine", f"node    {found['node']}"]
    lines += [f"host    {host['name']}  user {host['user']}  TLS {host['tls']}" for host in found["hosts"]]
    lines += [f"{entry['kind']:<7} {_service_words(entry)}" for entry in found["services"]]
    signs, *others = found["key_ids"]
    lines.append(f"secret  key {signs} signs" + (f"; {', '.join(others)} accepted" if others else ""))
    lines += [f"signs   as caller {found['caller']}"] if found["caller"] else []
    lines += [f"caller  {name}  key {', '.join(ids)}" for name, ids in found["callers"].items()]
    for name, key in (("journal", "journal"), ("status", "status_socket"), ("log", "log_file")):
        lines += [f"{name:<7} {found[key]}"] if found[key] else []
    lines += [f"warning {text}" for text in configuration.secret_warnings]  # the others are on stderr
    return "\n".join(lines)
