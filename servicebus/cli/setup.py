"""``servicebus setup``: gives each broker of the file what the bus needs there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from servicebus.cli.management_option import by_host, management_option, management_urls, rabbitmqctl_option
from servicebus.cli.options import config_option, host_named, json_option, node_named
from servicebus.cli.output import Output, note
from servicebus.cli.unreachable import end_with, no_broker
from servicebus.configuration import BrokerHost, Configuration, Secret
from servicebus.errors import TransportError
from servicebus.wire.printable import printable

if TYPE_CHECKING:
    from servicebus.operations.broker_setup import Administration


@click.command()
@config_option
@click.option("--host", "names", multiple=True, metavar="HOST", help="Only this broker of the file. May be repeated.")
@click.option("--node", "nodes", multiple=True, metavar="NAME", help="Whose agents use it. Default: that of the file.")
@management_option
@rabbitmqctl_option
@click.option("--dry-run", is_flag=True, help="Only say what there is to do.")
@json_option
@click.pass_context
def setup(
    ctx: click.Context,
    configuration: Configuration,
    names: Sequence[str],
    nodes: Sequence[str],
    urls: Sequence[str],
    commands: Sequence[str],
    dry_run: bool,
) -> None:
    """Add what is missing on each broker: virtual host, user, rights, exchanges, and a policy for quorum queues.

    By the management API, whose URL has the name and password of an administrator, or by rabbitmqctl. What is there
    stays: no right is taken, and no password changed. A file with node_name is that of an agent, others are those of
    Senders, who need fewer rights. Exit status 10 if a broker could not be set up, 4 or 6 if none could.
    """
    own = [node_named(configuration, each) for each in nodes]
    if not own and configuration.names_node:
        own = [configuration.node_name]
    hosts = [host_named(configuration, each, "--host") for each in names] or list(configuration.hosts)
    by_api, by_ctl = management_urls(configuration, urls), by_host(configuration, commands, "--rabbitmqctl")
    done: list[dict[str, Any]] = []
    failed: dict[str, TransportError] = {}
    for host in hosts:
        admin = _administration(configuration, host, by_api, by_ctl)
        try:
            for what, is_needed in _set_up(admin, host, configuration, own, dry_run=dry_run):
                done.append({"host": host.name, "what": what, "needed": is_needed, "done": is_needed and not dry_run})
        except TransportError as error:
            failed[host.name] = error
    if len(failed) == len(hosts):
        raise no_broker("the setup", failed)
    lines = [_line(each, dry_run=dry_run) for each in done if each["needed"]]
    ready = [host.name for host in hosts if host.name not in failed and not _is_changed(host, done)]
    lines += [f"{name}: all is there" for name in ready]
    document = {"steps": done, "unreachable": {name: str(error) for name, error in failed.items()}, "dry_run": dry_run}
    ctx.ensure_object(Output).result(document, "\n".join(map(printable, lines)))
    if lines and not dry_run and not ctx.ensure_object(Output).json:
        note("servicebus doctor looks whether the bus can use it")
    end_with(ctx, failed)


def _administration(
    configuration: Configuration, host: BrokerHost, urls: dict[str, Secret], commands: dict[str, str]
) -> Administration:
    from servicebus.operations.administration import CtlAdministration, ManagementAdministration
    from servicebus.operations.doctor.management import ManagementApi

    if host.name in commands:
        return CtlAdministration(host, configuration, commands[host.name])
    url = urls.get(host.name, host.management)
    if url is None:
        raise click.UsageError(
            f"{host.name}: name its management API by management: in the file or --management, or give --rabbitmqctl"
        )
    return ManagementAdministration(ManagementApi(host, url))


def _set_up(
    admin: Administration, host: BrokerHost, configuration: Configuration, nodes: Sequence[str], *, dry_run: bool
) -> list[tuple[str, bool]]:
    """What each step is, and whether it was needed."""
    from servicebus.operations.broker_setup import setup_steps
    from servicebus.runtime.known_subscriptions import known_subscriptions

    found = []
    for step in setup_steps(admin, host, configuration, nodes, has_events=bool(known_subscriptions(configuration))):
        if step.is_needed and not dry_run:
            step.do()
        found.append((step.what, step.is_needed))
    return found


def _is_changed(host: BrokerHost, done: Sequence[dict[str, Any]]) -> bool:
    return any(each["needed"] and each["host"] == host.name for each in done)


def _line(step: dict[str, Any], *, dry_run: bool) -> str:
    return f"{step['host']}: {'would ' if dry_run else 'done: '}{step['what']}"
