"""What waits for a node on its brokers, and how many workers take it: asked of each broker by passive declares."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from servicebus.configuration import BrokerHost, Configuration
from servicebus.errors import TransportError
from servicebus.observability.thresholds import Measured
from servicebus.operations.session import Session, on_each_broker
from servicebus.wire.address import dead_queue, messages_queue, rpc_queue

__all__ = ["NodeQueues", "looked_at", "node_measures"]


@dataclass
class NodeQueues:
    """Of all brokers."""

    unreachable: dict[str, TransportError] = field(default_factory=dict)
    consumers: dict[str, int] = field(default_factory=dict)
    """Of calls, by broker; none on one that was not reached."""
    messages: int = 0
    dead: int = 0


def looked_at(config: Configuration, node: str, further: Iterable[str]) -> NodeQueues:
    """The queues of *node*, and *further* ones with messages for it."""
    found = NodeQueues()
    stored = [messages_queue(node), *further]

    def look(session: Session, host: BrokerHost) -> None:
        def ready(name: str) -> int:
            facts = session.facts(name)
            return 0 if facts is None else facts.ready

        calls = session.facts(rpc_queue(node))
        found.consumers[host.name] = 0 if calls is None else calls.consumers
        found.messages += sum(map(ready, stored))
        found.dead += ready(dead_queue(node))

    found.unreachable = on_each_broker(config.hosts, config, look, purpose="check")
    return found


def node_measures(found: NodeQueues, hosts: Sequence[BrokerHost]) -> Iterator[Measured]:
    """As ``observability.measures`` names them."""
    why = "; ".join(str(error) for error in found.unreachable.values())
    yield Measured("brokers_reached", len(hosts) - len(found.unreachable), why=why)
    yield Measured("brokers_unreachable", len(found.unreachable), why=why)
    for broker, count in found.consumers.items():
        yield Measured("consumers", count, broker)
    yield Measured("consumers_of_all", sum(found.consumers.values()))
    yield Measured("messages", found.messages)
    yield Measured("dead_letters", found.dead)
