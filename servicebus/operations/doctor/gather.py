"""Looks at all brokers of a file at the same time, and keeps the sessions open for what is to be mended."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

from servicebus.configuration import BrokerHost, Configuration, Secret
from servicebus.errors import ConnectFailed
from servicebus.operations.administration import CtlAdministration
from servicebus.operations.doctor.amqp_facts import exchange_types, find_doubles, look_at, look_at_other_nodes
from servicebus.operations.doctor.facts import BrokerFacts, FleetFacts
from servicebus.operations.doctor.management import ANSWER_S, ManagementApi
from servicebus.operations.doctor.management_facts import look_managed
from servicebus.operations.session import Session
from servicebus.transport.amqp import AmqpConnection
from servicebus.transport.interface import Connect

__all__ = ["Administrations", "administrations", "look_for_nodes", "looked_at"]

_AT_ONCE = 8
_NO_URL = "no URL of it is known: management: of the host in the file, or --management"


class Administrations(NamedTuple):
    """What is to be asked beside AMQP, by the names of hosts."""

    apis: Mapping[str, ManagementApi]
    ctls: Mapping[str, CtlAdministration]


def administrations(
    config: Configuration, urls: Mapping[str, Secret], commands: Mapping[str, str], timeout_s: float = ANSWER_S
) -> Administrations:
    """For the hosts with a URL, one of *urls* or that of the file; and for those that rabbitmqctl is run for.

    *timeout_s* is the limit for each answer of a management API.
    """
    found = {host.name: urls.get(host.name, host.management) for host in config.hosts}
    return Administrations(
        {host.name: ManagementApi(host, url, timeout_s) for host in config.hosts if (url := found[host.name])},
        {
            host.name: CtlAdministration(host, config, commands[host.name])
            for host in config.hosts
            if host.name in commands
        },
    )


@contextmanager
def looked_at(
    fleet: FleetFacts,
    admins: Administrations = Administrations({}, {}),  # noqa: B008 - never changed
    connect: Connect = AmqpConnection,
) -> Iterator[dict[str, Session]]:
    """Fill ``fleet.brokers``; gives the sessions to those that were reached, by name."""
    exchanges = tuple(exchange_types(fleet.config))

    def look(host: BrokerHost) -> tuple[BrokerFacts, Session | None]:
        facts, session = look_at(host, fleet, connect)
        facts.unmanaged = _NO_URL
        if host.name in admins.ctls and facts.is_reached:
            _look_by_ctl(facts, admins.ctls[host.name])
        if host.name in admins.apis and facts.is_reached:
            look_managed(facts, admins.apis[host.name], exchanges)
        return facts, session

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        looks = list(pool.map(look, fleet.config.hosts))
    opened = [(facts, session) for facts, session in looks if session is not None]
    try:
        find_doubles(opened)
        fleet.brokers = [facts for facts, _ in looks]
        yield {facts.name: session for facts, session in opened}
    finally:
        for _, session in opened:
            session.close()


def look_for_nodes(fleet: FleetFacts, sessions: Mapping[str, Session], nodes: Iterable[str]) -> None:
    """Add what waits for *nodes*, beside those that are looked at in full, on each broker."""
    others = [name for name in nodes if name not in fleet.own_nodes]
    reached = [facts for facts in fleet.reached if facts.name in sessions]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(lambda facts: look_at_other_nodes(sessions[facts.name], facts, others), reached))


def _look_by_ctl(facts: BrokerFacts, ctl: CtlAdministration) -> None:
    try:
        facts.consumer_timeout_s = ctl.consumer_timeout_s()
    except ConnectFailed as error:
        facts.untimed = error.reason
