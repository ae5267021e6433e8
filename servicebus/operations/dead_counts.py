"""count_dead_letters(): how many dead letters nodes have, as the brokers count them. None is taken out for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from servicebus.configuration import BrokerHost, Configuration
from servicebus.errors import TransportError
from servicebus.operations.session import Session, on_each_broker
from servicebus.wire.address import dead_queue

__all__ = ["count_dead_letters"]


def count_dead_letters(
    config: Configuration, hosts: Sequence[BrokerHost], nodes: Sequence[str]
) -> tuple[dict[str, dict[str, int]], Mapping[str, TransportError]]:
    """How many there are, by node and broker, without those that have none; and why a broker could not be asked."""
    found: dict[str, dict[str, int]] = {node: {} for node in nodes}

    def work(session: Session, host: BrokerHost) -> None:
        for node in nodes:
            facts = session.facts(dead_queue(node))
            if facts is not None and facts.ready:
                found[node][host.name] = facts.ready

    failed = on_each_broker(hosts, config, work, purpose="dead letters")
    return {node: counts for node, counts in found.items() if counts}, failed
