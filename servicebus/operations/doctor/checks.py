"""All checks, in the order in which an operator reads their findings; and what could not be checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from servicebus.operations.doctor import broker_checks as broker
from servicebus.operations.doctor import connection_checks as connection
from servicebus.operations.doctor import fleet_checks as fleets
from servicebus.operations.doctor import policy_checks, queue_checks, rights_checks
from servicebus.operations.doctor.facts import BrokerFacts, FleetFacts
from servicebus.operations.doctor.finding import DoctorFinding

__all__ = ["BROKER_CHECKS", "FLEET_CHECKS", "MANAGED", "examine", "unchecked"]

BrokerCheck = Callable[[FleetFacts, BrokerFacts], Iterator[DoctorFinding]]
FleetCheck = Callable[[FleetFacts], Iterator[DoctorFinding]]

BROKER_CHECKS: tuple[BrokerCheck, ...] = (
    connection.plain_connections,
    connection.certificates,
    connection.own_certificate,
    connection.connections,
    connection.login,
    connection.members,
    connection.doubles,
    broker.version,
    broker.limits,
    broker.consumer_timeout,
    broker.alarms,
    broker.resources,
    broker.cluster_members,
    broker.maintenance,
    broker.virtual_host_limits,
    broker.default_queue_type,
    rights_checks.permissions,
    rights_checks.topic_permissions,
    rights_checks.administrators,
    queue_checks.exchanges,
    queue_checks.returns,
    queue_checks.stored,
    queue_checks.queue_types,
    queue_checks.queue_attributes,
    queue_checks.bindings,
    queue_checks.foreign_bindings,
    queue_checks.half_moved,
    queue_checks.waiting,
    queue_checks.unheard_calls,
    queue_checks.dead_messages,
    queue_checks.unused_subscriptions,
    policy_checks.policies,
)
FLEET_CHECKS: tuple[FleetCheck, ...] = (
    connection.secrets,
    fleets.refusals,
    fleets.missing_nodes,
    fleets.silent_nodes,
    fleets.nodes_per_broker,
    fleets.keys,
    fleets.encryption_keys,
    fleets.clocks,
    fleets.node_versions,
    fleets.contracts,
    fleets.broker_versions,
    fleets.queue_types_between,
    fleets.policies_between,
    fleets.rights_between,
)
MANAGED = "permissions, policies, bindings, arguments of queues for calls, alarms, members and limits"
"""What needs the management API."""


class Unchecked(NamedTuple):
    """Something that could not be looked at."""

    host: str
    """"" if it is about no single broker."""
    what: str
    why: str


def examine(fleet: FleetFacts) -> list[DoctorFinding]:
    """What is wrong: of each broker in the order of the file, then of the fleet. No finding twice."""
    found = [finding for facts in fleet.brokers for check in BROKER_CHECKS for finding in check(fleet, facts)]
    found += [finding for check in FLEET_CHECKS for finding in check(fleet)]
    return list(dict.fromkeys(found))


def unchecked(fleet: FleetFacts) -> list[Unchecked]:
    """What is not known, and so may be wrong without a finding."""
    found = []
    for facts in fleet.reached:
        if facts.managed is None:
            found.append(Unchecked(facts.name, MANAGED, facts.unmanaged))
        else:
            found += [Unchecked(facts.name, what, why) for what, why in facts.managed.problems.items()]
        if facts.consumer_timeout_s is None:
            found.append(Unchecked(facts.name, "consumer_timeout", facts.untimed))
    found += [Unchecked(host, "nodes behind it", why) for host, why in fleet.unheard.items()]
    for node in fleet.nodes.values():
        if node.keys is None and not node.refuses:
            found.append(
                Unchecked(
                    "", f"clock, keys and version of {node.name}", "it does not tell this file's caller, or is older"
                )
            )
    return found
