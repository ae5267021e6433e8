"""What priorities promise, whatever carries them: the same in memory and on RabbitMQ."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from bus_worlds import NODE, RealWorld, World, in_asyncio, real_world
from kept_world import KeptWorld

from servicebus.aio import AsyncSender
from servicebus.errors import CallTimeout, EnvelopeError, ServiceBusy
from servicebus.testing import BrokerPool

ALONE = f"{NODE}.test.alone"
DO = f"{NODE}.test.do"
ONCE = f"{NODE}.log.once"
SETTINGS: dict[str, Any] = {"priorities": True, "queue_len": 20, "prefetch": 100}


@pytest.fixture(scope="module")
def bus_in_memory() -> Iterator[KeptWorld]:
    kept = KeptWorld(**SETTINGS)
    yield kept
    kept.close()


@pytest.fixture(scope="module")
def bus_on_brokers(broker_pool: BrokerPool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealWorld]:
    with real_world(broker_pool.heal(2), tmp_path_factory.mktemp("bus"), **SETTINGS) as world:
        yield world


def executed(world: World, target: str) -> list[str]:
    """The ids of what service *target* has run to its end, in that order."""
    done = world.history.only("executed")
    return [entry.id for entry in done if entry.target.removeprefix("event ") == target.removeprefix(f"{NODE}.")]


def busy(world: World) -> Future[Any]:
    """Keep the only thread of a service busy until the future is cancelled; returns when it is."""
    first = world.sender.call_async(ALONE, ["until_cancelled"])
    world.until(lambda: "log.note" in {entry.target for entry in world.history.only("executed")})
    return first


def ids(futures: list[Future[Any]]) -> list[str]:
    return [getattr(future, "wire_id", "") for future in futures]


# -- calls -------------------------------------------------------------------------------------------------------------


def test_a_waiting_call_of_a_higher_priority_is_run_first(world: World) -> None:
    first = busy(world)
    asked = [world.sender.call_async(ALONE, ["echo", n], priority=n) for n in (None, 3, 0, 9, 3, 1)]
    first.cancel()
    assert [future.result()[1] for future in asked] == [None, 3, 0, 9, 3, 1]
    none, three, zero, nine, another, one = ids(asked)
    assert executed(world, ALONE)[-6:] == [nine, three, another, one, none, zero]


def test_a_call_with_a_priority_finds_room_where_others_are_told_busy(world: World) -> None:
    first = busy(world)
    waiting = [world.sender.call_async(ALONE, ["echo", n]) for n in range(19)]
    refused = world.sender.call_async(ALONE, ["echo", "low"], timeout=0.3)
    urgent = world.sender.call_async(ALONE, ["echo", "high"], priority=1)
    with pytest.raises((ServiceBusy, CallTimeout)):  # by when it was asked last
        refused.result()
    first.cancel()
    assert urgent.result()[1] == "high"
    assert [future.result()[1] for future in waiting] == list(range(19))
    assert executed(world, ALONE)[-20:] == ids([urgent, *waiting])


@pytest.mark.parametrize("priority", [-1, 10, True, "5", 2.0])
def test_what_is_no_priority_is_refused_before_anything_is_sent(world: World, priority: Any) -> None:
    for ask in (world.sender.call, world.sender.send, world.sender.publish):
        with pytest.raises(EnvelopeError, match="a whole number from 0 to 9"):
            ask(DO, ["echo", 1], priority=priority)
    assert not world.history


def test_what_a_service_asks_has_the_priority_of_its_request(world: World) -> None:
    found = world.sender.call(DO, ["ask", DO, ["context"]], priority=7)[1]
    assert found == {"priority": "7"}
    assert world.sender.call(DO, ["ask", DO, ["context"], {"priority": None}], priority=7)[1] == {}


def test_coroutines_ask_with_a_priority(world: World) -> None:
    async def ask(sender: AsyncSender) -> list[Any]:
        receipt = await sender.send(ONCE, ["notes"], priority=4)
        assert receipt.confirmed_by
        return list(await asyncio.gather(*(sender.call(DO, ["context"], priority=n) for n in (0, 9))))

    assert [each[1] for each in in_asyncio(world, ask)] == [{"priority": "0"}, {"priority": "9"}]


# -- messages and events -----------------------------------------------------------------------------------------------


def test_the_broker_hands_out_the_highest_priority_first(world: World) -> None:
    world.node.stop()
    receipts = [world.sender.send(ONCE, ["notes", n], priority=n) for n in (None, 2, 9, 0, 9, 5)]
    world.node.start()
    world.until(lambda: len(executed(world, ONCE)) == len(receipts))
    wire_ids = {entry.event_id: entry.id for entry in world.history.only("sent")}
    none, two, nine, zero, another, five = (wire_ids[int(receipt)] for receipt in receipts)
    assert executed(world, ONCE) == [nine, another, five, two, none, zero]


def test_a_message_of_a_higher_priority_passes_those_in_the_worker(world: World, tmp_path: Path) -> None:
    world.sender.send(ONCE, ["waits-for", str(tmp_path / "go on")])
    low = [world.sender.send(ONCE, ["notes", n]) for n in range(60)]  # more than there is room for
    high = world.sender.send(ONCE, ["notes", "high"], priority=1)
    (tmp_path / "go on").touch()
    world.until(lambda: len(executed(world, ONCE)) == len(low) + 2)
    wire_ids = {entry.event_id: entry.id for entry in world.history.only("sent")}
    assert executed(world, ONCE)[1] == wire_ids[int(high)]
    for receipt in low:
        world.assert_executed_once(receipt)


def test_a_message_that_is_tried_again_keeps_its_priority(world: World) -> None:
    receipt = world.sender.send(f"{NODE}.log.note", ["fails", 1], priority=6)
    world.until(lambda: bool(executed(world, f"{NODE}.log.note")))
    world.assert_executed_once(receipt)
    assert world.history.only("executed")[0].context == {"priority": "6"}


def test_an_event_of_a_higher_priority_comes_first(world: World) -> None:
    world.node.stop()
    order = {"sku": "A-1", "count": 1}
    published = [world.sender.publish("orders.created", order, priority=n) for n in (0, 8)]
    assert all(receipt.subscribers for receipt in published)
    world.node.start()
    world.until(lambda: len(executed(world, f"{NODE}.shop.stock")) == 2)
    found = [
        entry.context["priority"] for entry in world.history.only("executed") if entry.target.endswith("shop.stock")
    ]
    assert found == ["8", "0"]
