"""The contract's tests run once with each transport; those that need a real broker bear the mark ``broker``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from transport_rigs import Peer, Rig, amqp_rig, memory_rig


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
