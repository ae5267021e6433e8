"""A bus in memory, and real things to test against: private RabbitMQ brokers, and a proxy that breaks connections.

::

    with servicebus.testing.bus({"math.add": Add()}, brokers=2) as world:
        world.brokers[0].kill()
        world.sender.call("NODE-01.math.add", [1, 2])

    with servicebus.testing.bus(mock_of("shop.json")) as world:
        world.sender.call("NODE-01.shop.price", {"sku": "s-1"})

    with servicebus.testing.brokers(count=2) as nodes:
        nodes[0].kill()

    with servicebus.testing.cluster(members=3) as mq:
        mq.members[0].kill()

In pytest the fixtures ``memory_bus``, ``brokers`` and ``broker_cluster`` give them (docs/testing.rst).
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

from servicebus.testing.cluster import Cluster, cluster
from servicebus.testing.node import Broker, BrokerStartFailed
from servicebus.testing.pool import BrokerPool, brokers
from servicebus.testing.program import BrokerProgramMissing, find_broker_program
from servicebus.testing.proxy import FaultProxy
from servicebus.testing.proxylink import Mode

if TYPE_CHECKING:
    from servicebus.middleware import Middleware
    from servicebus.testing.faulty_broker import FaultyBroker
    from servicebus.testing.history import History, HistoryEntry
    from servicebus.testing.memory_bus import MemoryBus
    from servicebus.testing.memory_node import MemoryNode
    from servicebus.testing.mock import MockNode, mock_of

__all__ = [
    "Broker",
    "BrokerPool",
    "BrokerProgramMissing",
    "BrokerStartFailed",
    "Cluster",
    "FaultProxy",
    "FaultyBroker",
    "History",
    "HistoryEntry",
    "MemoryBus",
    "MemoryNode",
    "MockNode",
    "Mode",
    "brokers",
    "bus",
    "cluster",
    "find_broker_program",
    "mock_of",
]


def bus(
    *services: Any,
    brokers: int = 2,
    node: str | None = None,
    outbox: str | PathLike[str] | None = None,
    middleware: Sequence[Middleware] = (),
    **settings: Any,
) -> MemoryBus:
    """A bus in memory with *services*: a context manager, also for ``async with``. One at a time in a process.

    Args:
        services: what has services: a ServiceBus (it is not run), a group of typed functions, a MockNode, or a
            dict of service objects by ``category.name``.
        brokers: how many; they are called ``mq-1``, ``mq-2`` and so on.
        node: the name of the node; that of the first ServiceBus or MockNode by default, else ``NODE-01``.
        outbox: path of an outbox for the Sender.
        middleware: around the calls and messages of the Sender; that of services comes with their ServiceBus.
        settings: keys of docs/configuration.rst.

    Raises:
        ConfigurationError: a service or a setting cannot be used.
    """
    from servicebus.testing.memory_bus import MemoryBus

    return MemoryBus(services, brokers, node, outbox, middleware, settings)


_LAZY = {
    "FaultyBroker": "faulty_broker",
    "History": "history",
    "HistoryEntry": "history",
    "MemoryBus": "memory_bus",
    "MemoryNode": "memory_node",
    "MockNode": "mock",
    "mock_of": "mock",
}
"""They need the agent, which pytest would import in every run of a program that has this package installed."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
