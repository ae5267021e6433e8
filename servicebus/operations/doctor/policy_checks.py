"""Checks of policies: which of them change exchanges and queues of the bus, and how."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from servicebus.operations.doctor.amqp_facts import exchange_types
from servicebus.operations.doctor.facts import BrokerFacts, FleetFacts
from servicebus.operations.doctor.finding import DoctorFinding
from servicebus.policy.broker_versions import has_delivery_limit, read_version
from servicebus.transport.stored import stored_queues
from servicebus.wire.address import control_queue, rpc_queue
from servicebus.wire.printable import counted

__all__ = ["effective", "our_policies", "policies"]

_QUEUES = ("all", "queues", "classic_queues", "quorum_queues")
_EXCHANGES = ("all", "exchanges")


class _Change(NamedTuple):
    """What one key of a policy does to the bus."""

    code: str
    cause: Callable[[Any, Mapping[str, Any]], str]
    matters: Callable[[Any, str], bool] = lambda value, version: True
    """Of its value, and the broker's version."""


def _limits_deliveries(value: Any, version: str) -> bool:
    return not (value == -1 and has_delivery_limit(read_version(version)))


def _cause_of_length(value: Any, definition: Mapping[str, Any]) -> str:
    if str(definition.get("overflow", "")).startswith("reject"):
        return f"beyond {value} the broker refuses what is sent: Senders use other brokers, or their calls fail"
    return f"beyond {value} the broker drops the oldest messages, confirmed ones too"


_CHANGES: Mapping[str, _Change] = {
    "message-ttl": _Change(
        "policy-message-ttl",
        lambda value, _: f"messages, dead letters and those that wait for a retry vanish after {value} ms",
    ),
    "expires": _Change(
        "policy-expires", lambda value, _: f"a queue that no worker uses for {value} ms is deleted, with its messages"
    ),
    "max-length": _Change("policy-max-length", _cause_of_length),
    "max-length-bytes": _Change("policy-max-length", _cause_of_length),
    "dead-letter-exchange": _Change(
        "policy-dead-letter",
        lambda value, _: (
            f"what is rejected, or expires, is copied to exchange {value!r}, calls too; the bus has its own way"
        ),
    ),
    "delivery-limit": _Change(
        "policy-delivery-limit",
        lambda value, _: f"what came back to a quorum queue {counted(value, 'time')} is dropped, without a trace",
        _limits_deliveries,
    ),
    "alternate-exchange": _Change(
        "alternate-exchange",
        lambda value, _: (
            f"what no queue takes goes to {value!r}, and is confirmed: messages to a node that is away are lost"
        ),
    ),
    "federation-upstream-set": _Change(
        "policy-federation", lambda value, _: "messages of other brokers appear in them"
    ),
    "federation-upstream": _Change("policy-federation", lambda value, _: "messages of other brokers appear in them"),
    "ha-mode": _Change(
        "policy-mirrors",
        lambda value, _: (
            "each call is copied to other members first; from RabbitMQ 4.0 on it does nothing: use queue_type: quorum"
        ),
    ),
    "consumer-timeout": _Change(
        "policy-consumer-timeout",
        lambda value, _: f"what a service works on for {value} ms is taken back",
        lambda value, _: isinstance(value, (int, float)) and value < 60_000,
    ),
}


def effective(
    policies: Iterable[Mapping[str, Any]], name: str, *, is_exchange: bool = False
) -> Mapping[str, Any] | None:
    """The policy that holds for an exchange or queue: of those that match, the one with the highest priority."""
    kinds = _EXCHANGES if is_exchange else _QUEUES
    fitting = [each for each in policies if each.get("apply-to") in kinds and _matches(each.get("pattern", ""), name)]
    return max(fitting, key=lambda each: each.get("priority", 0), default=None)


def _matches(pattern: str, name: str) -> bool:
    try:
        return re.search(pattern, name) is not None
    except re.error:  # Erlang's patterns know more than Python's
        return False


def our_policies(fleet: FleetFacts, broker: BrokerFacts) -> dict[tuple[str, str], tuple[Mapping[str, Any], list[str]]]:
    """Policies that hold for something of the bus, by kind and name, and what each holds for."""
    found: dict[tuple[str, str], tuple[Mapping[str, Any], list[str]]] = {}
    managed = broker.managed
    if managed is None:
        return found
    queues = _queues(fleet, broker)
    for kind, listed in (("policy", managed.policies), ("operator policy", managed.operator_policies)):
        for name in (*exchange_types(fleet.config), *queues):
            policy = effective(listed or (), name, is_exchange=name not in queues)
            if policy is not None:
                found.setdefault((kind, str(policy.get("name"))), (policy, []))[1].append(name)
    return found


def _queues(fleet: FleetFacts, broker: BrokerFacts) -> list[str]:
    """Those of the nodes of the file, there or not, and those of others that are there."""
    own = [
        name
        for node in fleet.own_nodes
        for name in (rpc_queue(node), control_queue(node), *stored_queues(node), *fleet.subscriptions.get(node, {}))
    ]
    others = [name for name, look in broker.queues.items() if look is not None and not name.endswith(".moving")]
    return list(dict.fromkeys([*own, *others]))


def policies(fleet: FleetFacts, broker: BrokerFacts) -> Iterator[DoctorFinding]:
    for (kind, name), (policy, held) in our_policies(fleet, broker).items():
        definition = policy.get("definition") or {}
        exchange = [each for each in held if each in exchange_types(fleet.config)]
        queues = [each for each in held if each not in exchange]
        for key, value in definition.items():
            change = _CHANGES.get(key)
            changed = exchange if key == "alternate-exchange" else held if change and "federation" in key else queues
            if change is None or not changed or not change.matters(value, broker.version):
                continue
            shown = changed[0] if len(changed) == 1 else f"{changed[0]} and {len(changed) - 1} more"
            clear = "clear_operator_policy" if kind == "operator policy" else "clear_policy"
            fix = (
                f"rabbitmqctl {clear} -p {broker.host.virtual_host} {name}, or let its pattern"
                f" {policy.get('pattern')!r} not match the names of the bus"
            )
            what = f"{kind} {name} sets {key} on {shown}"
            yield DoctorFinding(change.code, broker.name, what, change.cause(value, definition), fix)
