"""``servicebus run``: an agent server from a configuration file."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from servicebus.cli.options import config_source
from servicebus.cli.services import load_middleware, load_published, load_services
from servicebus.configuration import Configuration
from servicebus.errors import ConfigurationError
from servicebus.wire.envelope import CALL, MESSAGE, Kind

if TYPE_CHECKING:
    from servicebus.service import ServiceBus


@click.command()
@config_source(is_argument=True, read=Configuration.load)  # ServiceBus logs the warnings, where they belong
@click.pass_context
def run(ctx: click.Context, configuration: Configuration) -> None:
    """Run the agent that FILE describes, until a signal stops it.

    TERM lets work finish, INT and QUIT stop now, HUP reads FILE again. Exit status 0 if it was asked
    to stop, 3 if it could not boot.
    """
    log_to_stderr(configuration)
    ctx.exit(build(configuration).run())


def build(configuration: Configuration) -> ServiceBus:
    """The agent with all services of the file; raises ConfigurationError if it names none, or one cannot be made."""
    if not configuration.services:
        raise ConfigurationError(
            "names no services, so there is nothing to run", path=configuration.path, key="services"
        )
    # Here, so that --help and completion do not wait for pika.
    from servicebus.runtime.inherited import open_standard_streams
    from servicebus.service import ServiceBus

    open_standard_streams()  # before a module of a service's opens a file for good, as libffi does
    bus = ServiceBus(configuration, middleware=load_middleware(configuration))
    add: dict[Kind, Callable[..., None]] = {CALL: bus.add_rpc_service, MESSAGE: bus.add_message_service}
    for service in load_services(configuration):
        if "plain" in service.options:
            bus._add_plain(service.category, service.name, service.instance, dict(service.options))
            continue
        how = bus.add_event_service if "events" in service.options else add[service.kind]
        how(service.category, service.name, service.instance, **service.options)
    bus.published.add(load_published(configuration))
    if configuration.path is not None:
        bus._serves_file = True
        path = Path(configuration.path).absolute()
        bus.set_reload(lambda: Configuration.load(path))
    return bus


def log_to_stderr(configuration: Configuration) -> None:
    """An agent talks, -v or not: its supervisor (systemd, a container) collects stderr."""
    root = logging.getLogger()
    root.setLevel(min(root.level, configuration.logging.level_number))
