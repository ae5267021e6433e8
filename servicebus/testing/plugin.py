"""The pytest plug-in: fixtures that give a bus in memory, and real brokers. An entry point names it to pytest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

import servicebus.testing
from servicebus.testing.cluster import Cluster, cluster
from servicebus.testing.node import Broker
from servicebus.testing.pool import BrokerPool

if TYPE_CHECKING:
    from servicebus.testing.memory_bus import MemoryBus

__all__ = ["broker_cluster", "broker_pool", "brokers", "cluster_of_module", "memory_bus", "pytest_configure"]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "brokers(count): how many private brokers the fixture `brokers` gives (2)")


@pytest.fixture
def memory_bus() -> Iterator[Callable[..., MemoryBus]]:
    """``servicebus.testing.bus()``, of which each test may call it once: the bus is open, and closed after the test."""
    with ExitStack() as open_ones:

        def open_bus(*services: Any, **how: Any) -> MemoryBus:
            return open_ones.enter_context(servicebus.testing.bus(*services, **how))

        yield open_bus


@pytest.fixture(scope="session")
def broker_pool() -> Iterator[BrokerPool]:
    """The brokers behind `brokers`: started when the first test wants them, ended after the last."""
    pool = BrokerPool()
    yield pool
    pool.close()


@pytest.fixture
def brokers(request: pytest.FixtureRequest, broker_pool: BrokerPool) -> list[Broker]:
    """Two running private brokers, as new; ``@pytest.mark.brokers(count=3)`` asks for another number.

    They are the same processes for the whole session. Before each test they are thawed, started if they are down, and
    emptied, so a test may do to them what it likes.
    """
    marker = request.node.get_closest_marker("brokers")
    count = marker.kwargs.get("count", *marker.args) if marker else 2
    return broker_pool.heal(count)


@pytest.fixture(scope="module")
def cluster_of_module() -> Iterator[Cluster]:
    """The cluster behind `broker_cluster`; a module's only, because it is three more brokers on the machine."""
    with cluster() as made:
        yield made


@pytest.fixture
def broker_cluster(cluster_of_module: Cluster) -> Cluster:
    """A running cluster of three members, as new before each test."""
    cluster_of_module.heal()
    return cluster_of_module
