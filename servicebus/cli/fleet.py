"""What operators' commands ask the nodes themselves, by a Sender: who answers, clocks, keys, versions, contracts."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from servicebus.configuration import Configuration
from servicebus.errors import NoBrokerAvailable, ServiceBusError
from servicebus.operations.doctor.facts import FleetFacts, NodeFacts

if TYPE_CHECKING:
    from servicebus._discovering import Survey
    from servicebus.sender import Sender

__all__ = ["ask_nodes", "fleet_of", "hear_refusals"]

_SIGNATURE, _STALE = "signature", "stale"


def fleet_of(config: Configuration, nodes: Sequence[str], backlog: int) -> FleetFacts:
    """What the file itself says."""
    from servicebus.runtime.known_subscriptions import known_subscriptions
    from servicebus.wire.encryption import key_id_of
    from servicebus.wire.events import event_queue
    from servicebus.wire.signing import Keyring

    own = tuple(nodes) or ((config.node_name,) if config.names_node else ())
    fleet = FleetFacts(config, (), own, backlog=backlog, now=time.time())
    if config.node_name in own:
        known = known_subscriptions(config)
        queues = {event_queue(config.node_name, each): known[each].patterns for each in known}
        fleet.subscriptions = {config.node_name: queues}
    if config.caller is None:
        fleet.key_ids = Keyring(config.secrets).key_ids
    if config.encryption is not None:
        fleet.encryption_ids = tuple(dict.fromkeys(key_id_of(each) for each in config.encryption.secrets))
    return fleet


def ask_nodes(sender: Sender, fleet: FleetFacts, timeout_s: float, quiet_s: float) -> None:
    """Fill in the nodes that answer; none if no broker can be used."""
    from servicebus._discovering import survey

    try:
        found = survey(sender, timeout_s, quiet_s)
    except NoBrokerAvailable as error:
        fleet.unheard = dict(error.attempts)
        return
    nodes = {each.name: NodeFacts(each.name, each.brokers) for each in found.nodes}
    _take_answers(nodes, found)
    for node in nodes.values():
        node.contracts = _contracts(sender, node.name, timeout_s)
    fleet.nodes, fleet.unheard = nodes, dict(found.services.unreachable)


def _take_answers(nodes: dict[str, NodeFacts], found: Survey) -> None:
    for came_at, answer, _ in found.heard:
        node, about = nodes.get(answer.node), answer.about
        if node is None or about is None:
            continue
        error_s = (came_at - found.asked_at) / 2
        told_at = about.get("time")
        if isinstance(told_at, (int, float)) and (node.skew_s is None or error_s < node.skew_error_s):
            node.skew_s, node.skew_error_s = told_at - (came_at - error_s), error_s
        version, keys, encryption = about.get("version"), about.get("keys"), about.get("encryption")
        node.version = version if isinstance(version, str) else ""
        node.keys, node.encryption = _texts(keys), _texts(encryption)


def _texts(value: Any) -> list[str] | None:
    return [str(each) for each in value] if isinstance(value, list) else None


def _contracts(sender: Sender, node: str, timeout_s: float) -> dict[str, str]:
    try:
        described = sender.describe(node, timeout=timeout_s)
    except ServiceBusError:  # an agent of an earlier version, or one that is too busy
        return {}
    return {each.key: each.hash for each in described if not each.former and each.kind != "event"}


def hear_refusals(sender: Sender, fleet: FleetFacts, names: Iterable[str], timeout_s: float) -> None:
    """Of those that should be there and have not answered: whether they refuse our signature, or our time."""
    found = dict(fleet.nodes)
    for name in dict.fromkeys(names):
        if name in found or not fleet.reached:
            continue
        error = sender.ping_error(name, timeout_s)
        while error is not None:
            reason = getattr(error, "reason", "")  # of SignatureError and CallRefused
            detail = getattr(error, "detail", "") or reason
            if reason == _SIGNATURE:
                found[name] = NodeFacts(name, refusal=detail)
            elif reason == _STALE:
                found[name] = NodeFacts(name, stale=detail)
            error = error.__cause__
    fleet.nodes = found
