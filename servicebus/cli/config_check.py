"""``servicebus config check``: what is wrong with a configuration file, before an agent finds out."""

from __future__ import annotations

from typing import Any

import click

from servicebus.cli.options import config_argument, json_option
from servicebus.cli.output import Output
from servicebus.cli.services import load_services
from servicebus.configuration import BrokerHost, Configuration


@click.group()
def config() -> None:
    """Work with configuration files."""


@config.command()
@config_argument()
@click.option("--no-import", is_flag=True, help="Do not import the classes of the services.")
@json_option
@click.pass_obj
def check(output: Output, configuration: Configuration, no_import: bool) -> None:
    """Read FILE as an agent would: keys, values, secret files, TLS files and service classes; print what was found.

    Nothing is connected to. Exit status 3 with the place of the first mistake.
    """
    for host in configuration.hosts:
        host.ssl_context()
    if not no_import:
        for _ in load_services(configuration):
            pass
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
                "kind": entry.kind,
                "address": f"{configuration.node_name}.{entry.category}.{entry.name}",
                "target": entry.target,
                **entry.options,
            }
            for entry in configuration.services
        ],
        "secrets": len(configuration.secrets),
        "status_socket": configuration.status_socket,
        "log_file": configuration.logging.file,
        "warnings": list(configuration.warnings),
    }


def _tls_word(host: BrokerHost) -> str:
    return ("verified" if host.tls.verify else "not verified") if host.use_ssl else "none"


def _as_text(configuration: Configuration) -> str:
    found = summary(configuration)
    lines = [f"{found['file']}: fine", f"node    {found['node']}"]
    lines += [f"host    {host['name']}  user {host['user']}  TLS {host['tls']}" for host in found["hosts"]]
    lines += [f"{entry['kind']:<7} {entry['address']}  {entry['target']}" for entry in found["services"]]
    for name, key in (("status", "status_socket"), ("log", "log_file")):
        lines += [f"{name:<7} {found[key]}"] if found[key] else []
    return "\n".join(lines)
