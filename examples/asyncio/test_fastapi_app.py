"""The routes of fastapi_app.py, without a broker and without uvicorn.

::

    pip install 'servicebus-failover[typed]' fastapi httpx2 pytest
    pytest examples/asyncio
"""

from __future__ import annotations

from collections.abc import Iterator

import fastapi_app
import pytest
from fastapi.testclient import TestClient

import servicebus.testing
from servicebus import AsyncSender, Services

math = Services("math")


@math.rpc
def add(a: int, b: int) -> int:
    return a + b


@pytest.fixture
def world() -> Iterator[servicebus.testing.MemoryBus]:
    with servicebus.testing.bus(math, brokers=2, node=fastapi_app.NODE) as world:
        fastapi_app.app.dependency_overrides[fastapi_app.get_sender] = lambda: AsyncSender.of(world.sender)
        yield world
        fastapi_app.app.dependency_overrides.clear()


def test_the_sum_comes_over_the_other_broker(world: servicebus.testing.MemoryBus) -> None:
    client = TestClient(fastapi_app.app)
    assert client.get("/sum?a=1&b=2").json() == {"sum": 3}
    world.brokers[0].kill()
    assert client.get("/sum?a=1&b=2").json() == {"sum": 3}


def test_without_a_broker_it_is_unavailable(world: servicebus.testing.MemoryBus) -> None:
    for broker in world.brokers:
        broker.kill()
    answer = TestClient(fastapi_app.app).get("/sum?a=1&b=2")
    assert (answer.status_code, answer.json()) == (503, {"error": "NoBrokerAvailable"})
