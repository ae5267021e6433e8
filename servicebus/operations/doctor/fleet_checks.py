"""Checks of the nodes, and of what differs: between brokers, between nodes, between a node and the file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from servicebus.operations.doctor.facts import FleetFacts
from servicebus.operations.doctor.finding import DoctorFinding
from servicebus.operations.doctor.policy_checks import our_policies
from servicebus.wire.address import rpc_queue
from servicebus.wire.printable import counted

__all__ = [
    "broker_versions", "clocks", "contracts", "encryption_keys", "keys", "missing_nodes", "node_versions",
    "nodes_per_broker", "policies_between", "queue_types_between", "refusals", "rights_between", "silent_nodes",
]  # fmt: skip


def refusals(fleet: FleetFacts) -> Iterator[DoctorFinding]:
    for node in fleet.nodes.values():
        if node.refusal:
            cause = f"its secret_token is another one than that of this file ({node.refusal})"
            fix = "give both the same; to change it list the new one first and the old one second, everywhere"
            what = f"{node.name} refuses our signature"
            yield DoctorFinding("secret-differs", "", what, cause, fix, node.name)


def missing_nodes(fleet: FleetFacts) -> Iterator[DoctorFinding]:
    for name in fleet.own_nodes:
        if fleet.reached and name not in fleet.nodes and not _consumed(fleet, name):
            cause = "no agent of that name runs, or none reaches a broker of this file"
            fix = "start it; where it runs, ask it: servicebus status on its machine"
            yield DoctorFinding("node-missing", "", f"{name} answers over no broker", cause, fix, name)


def silent_nodes(fleet: FleetFacts) -> Iterator[DoctorFinding]:
    """Workers consume, so the broker says, and do not answer where others do."""
    for broker in fleet.reached:
        for name in _names(fleet):
            node = fleet.nodes.get(name)
            look = broker.queues.get(rpc_queue(name))
            is_heard = node is not None and (node.refuses or broker.name in node.brokers)
            if look is not None and look.consumers and not is_heard and broker.name not in fleet.unheard:
                what = f"{counted(look.consumers, 'worker', 'consume')} calls to {name}, and none answers"
                cause = "it is frozen, busy beyond measure, or another program consumes its queue"
                fix = "servicebus status on its machine; servicebus ping --all; rabbitmqctl list_consumers"
                yield DoctorFinding("node-silent", broker.name, what, cause, fix, name)


def nodes_per_broker(fleet: FleetFacts) -> Iterator[DoctorFinding]:
    for broker in fleet.reached:
        if broker.is_drained or broker.name in fleet.unheard or broker.same_as:
            continue
        for node in fleet.nodes.values():
            look = broker.queues.get(rpc_queue(node.name))
            if node.brokers and broker.name not in node.brokers and not (look is not None and look.consumers):
                what = f"{node.name} answers over {', '.join(node.brokers)}, and not over {broker.name}"
                cause = "its file does not name this broker, or its worker for it does not get in"
                fix = "add the host to its file; else look at its log, or servicebus status on its machine"
                yield DoctorFinding("node-not-there", broker.name, what, cause, fix, node.name)


def keys(fleet: FleetFacts) -> Iterator[DoctorFinding]:
    mine = list(fleet.key_ids)
    for node in fleet.nodes.values():
        theirs = node.keys
        if theirs is None or list(theirs) == mine or not mine:
            continue
        lacking, more = [each for each in mine if each not in theirs], [each for each in theirs if each not in mine]
        parts = [f"it lacks {', '.join(lacking)}"] if lacking else []
        parts += [f"it also has {', '.join(more)}"] if more else []
        what = f"{node.name} has other keys than this file: {'; '.join(parts) or 'in another order'}"
        cause = "a rotation of secret_token was begun and not finished, or a node was left out"
        fix = "give all nodes and Senders the same list: the new one first"
        yield DoctorFinding("keys-differ", "", what, cause, fix, node.name)


def encryption_keys(fleet: FleetFacts) -> Iterator[DoctorFinding]:
    mine = list(fleet.encryption_ids)
    for node in fleet.nodes.values():
        if node.encryption is not None and list(node.encryption) != mine:
            theirs = ", ".join(node.encryption) or "none"
            what = f"{node.name} encrypts with {theirs}, and this file with {', '.join(mine) or 'none'}"
            cause = "encryption.keys differ: what one encrypts, the other may not be able to read"
            fix = "give all nodes and Senders the same encryption.keys: the new one first"
            yield DoctorFinding("encryption-differs", "", what, cause, fix, node.name)


def clocks(fleet: FleetFacts) -> Iterator[DoctorFinding]:
    allowed_s = fleet.config.clock_skew
    fix = "have both follow NTP: timedatectl set-ntp true"
    for node in fleet.nodes.values():
        if node.stale:
            what = f"{node.name} refuses what this machine sends as stale"
            cause = f"their clocks are more than {allowed_s:g} s (clock_skew) apart: {node.stale}"
            yield DoctorFinding("clock-skew", "", what, cause, fix, node.name)
        if node.skew_s is None or abs(node.skew_s) - node.skew_error_s <= allowed_s / 2:
            continue
        way = "ahead of" if node.skew_s > 0 else "behind"
        what = f"the clock of {node.name} is {abs(node.skew_s):.0f} s {way} that of this machine"
        cause = f"its time is not synchronized; beyond {allowed_s:g} s (clock_skew) everything is refused as stale"
        yield DoctorFinding("clock-skew", "", what, cause, fix, node.name)


def node_versions(fleet: FleetFacts) -> Iterator[DoctorFinding]:
    found = defaultdict(list)
    for node in fleet.nodes.values():
        if node.version:
            found[node.version].append(node.name)
    if len(found) > 1:
        what = "; ".join(f"{version} on {', '.join(sorted(names))}" for version, names in sorted(found.items()))
        cause = "an upgrade was begun and not finished"
        yield DoctorFinding("versions-differ", "", f"versions of servicebus: {what}", cause, "finish the upgrade")


def contracts(fleet: FleetFacts) -> Iterator[DoctorFinding]:
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for node in fleet.nodes.values():
        for service, contract in node.contracts.items():
            if contract:
                found[service][contract].append(node.name)
    for service, hashes in sorted(found.items()):
        if len(hashes) > 1:
            shown = "; ".join(f"{hash} on {', '.join(sorted(names))}" for hash, names in sorted(hashes.items()))
            one, other = (sorted(names)[0] for names in list(hashes.values())[:2])
            cause = "nodes run different versions of it: callers that were built for one may be refused by the other"
            fix = f"servicebus contract diff {one} {other} tells what differs; roll one version out everywhere"
            yield DoctorFinding("contracts-differ", "", f"{service} has contracts {shown}", cause, fix)


def broker_versions(fleet: FleetFacts) -> Iterator[DoctorFinding]:
    found = {broker.name: ".".join(broker.version.split(".")[:2]) for broker in fleet.reached if broker.version}
    if len(set(found.values())) > 1:
        what = ", ".join(f"{name} runs {version}" for name, version in found.items())
        cause = "an upgrade was begun and not finished: limits and defaults differ between them"
        yield DoctorFinding("brokers-differ", "", what, cause, "upgrade the others, one after the other")


def queue_types_between(fleet: FleetFacts) -> Iterator[DoctorFinding]:
    kinds: dict[str, dict[str, str]] = defaultdict(dict)
    for broker in fleet.reached:
        for name, look in broker.queues.items():
            if look is not None and look.kind:
                kinds[name][broker.name] = look.kind
    for name, found in kinds.items():
        if len(set(found.values())) > 1:
            what = f"queue {name} is " + ", ".join(f"{kind} on {host}" for host, kind in found.items())
            cause = "it was moved on one broker, and not on the others"
            fix = "servicebus migrate-queue HOST for each broker on which it is not as queue_type says"
            yield DoctorFinding("queue-types-differ", "", what, cause, fix, name.partition(".")[0])


def policies_between(fleet: FleetFacts) -> Iterator[DoctorFinding]:
    found = {}
    for broker in fleet.reached:
        if broker.managed is not None and broker.managed.policies is not None:
            ours = our_policies(fleet, broker)
            found[broker.name] = sorted(f"{key}: {policy.get('definition')}" for (_, key), (policy, _) in ours.items())
    if len({tuple(each) for each in found.values()}) > 1:
        what = "; ".join(f"{host}: {', '.join(each) or 'none'}" for host, each in found.items())
        cause = "a policy was set on one broker, and not on the others: the bus behaves differently there"
        yield DoctorFinding(
            "policies-differ", "", f"policies on the bus: {what}", cause, "set the same on each, or none"
        )


def rights_between(fleet: FleetFacts) -> Iterator[DoctorFinding]:
    found = {}
    for broker in fleet.reached:
        rights = broker.managed.permissions if broker.managed is not None else None
        if rights is not None:
            found[broker.name] = tuple(str(rights.get(each, "")) for each in ("configure", "write", "read"))
    if len(set(found.values())) > 1:
        what = "; ".join(f"{host}: {' '.join(map(repr, each))}" for host, each in found.items())
        cause = "rights were changed on one broker, and not on the others"
        yield DoctorFinding("rights-differ", "", f"rights of the bus: {what}", cause, "servicebus setup with this file")


def _names(fleet: FleetFacts) -> list[str]:
    return list(dict.fromkeys([*fleet.own_nodes, *fleet.nodes]))


def _consumed(fleet: FleetFacts, node: str) -> bool:
    looks = [broker.queues.get(rpc_queue(node)) for broker in fleet.reached]
    return any(look is not None and look.consumers for look in looks)
