"""The contract's tests run once with each transport; those that need a real broker bear the mark ``broker``.

Those of the transport have a ``rig``: a connection to one broker. Those of the whole bus have a ``world``: two brokers,
a node and a Sender. On RabbitMQ one case of each test stands for all of its parameters, and the faults marked
``costly``, which take seconds there, are left out, unless ``ALL_FAULTS`` is in the environment or tests are named.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from bus_worlds import RealWorld, World, real_world
from kept_world import KeptWorld, close_kept_world
from transport_rigs import Peer, Rig, amqp_rig, memory_rig

from servicebus.testing import BrokerPool


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out, stands_for = set[pytest.Item](), set[str]()
    is_chosen = "ALL_FAULTS" in os.environ or bool(config.option.keyword) or any("::" in each for each in config.args)
    for item in items:
        params: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
        if params.get("world") != "amqp":
            continue
        # The agent is the module's: in several processes it would be started several times.
        item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))
        function = item.nodeid.partition("[")[0]
        if not is_chosen and (item.get_closest_marker("costly") or function in stands_for):
            left_out.add(item)
        else:
            stands_for.add(function)
    if left_out:
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(params=["memory", pytest.param("amqp", marks=pytest.mark.broker)])
def rig(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    if request.param == "memory":
        with memory_rig(monkeypatch) as rig:
            yield rig
    else:
        (broker,) = request.getfixturevalue("broker_pool").heal(1)
        with amqp_rig(broker) as rig:
            yield rig


@pytest.fixture
def peer(rig: Rig) -> Iterator[Peer]:
    """An open connection."""
    peer = Peer(rig).opened()
    yield peer
    peer.connection.abort("the test has ended")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if getattr(getattr(item, "callspec", None), "params", {}).get("world") != "memory":
        close_kept_world()


@pytest.fixture(scope="module")
def bus_in_memory() -> Iterator[KeptWorld]:
    kept = KeptWorld()
    yield kept
    kept.close()


@pytest.fixture(scope="module")
def bus_on_brokers(broker_pool: BrokerPool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealWorld]:
    with real_world(broker_pool.heal(2), tmp_path_factory.mktemp("bus")) as world:
        yield world


@pytest.fixture(params=["memory", pytest.param("amqp", marks=pytest.mark.broker)])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    if request.param == "memory":
        kept: KeptWorld = request.getfixturevalue("bus_in_memory")
        failed = request.session.testsfailed
        yield kept.begin()
        if request.session.testsfailed > failed:  # nothing of it is to be seen in the next one
            kept.close()
        kept.end()
    else:
        real: RealWorld = request.getfixturevalue("bus_on_brokers")
        yield real.begin()
        real.end()
