"""What calls and messages promise when brokers and nodes fail: the same in memory and on RabbitMQ."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest
from bus_worlds import NODE, World

from servicebus.errors import CallInterrupted, NodeUnavailable, ServiceBusError

DO = f"{NODE}.test.do"
NOTE = f"{NODE}.log.note"

costly = pytest.mark.costly
FAULTS = [pytest.param("kill", marks=costly), pytest.param("stop", marks=costly), "freeze", "cut"]
QUICK = [*FAULTS[:2], pytest.param("freeze", marks=costly), "cut"]


def heal(world: World) -> None:
    for broker in world.brokers:
        if broker.state == "frozen":
            broker.thaw()
        elif broker.state == "down":
            broker.start()


def connect(world: World) -> None:
    """The Sender has a connection to each broker."""
    world.until(lambda: world.sender.ping_all(NODE) == (2, 2))


def end(world: World, future: Future[Any]) -> Any:
    world.until(future.done)
    return future.result()


def begun(world: World) -> None:
    """Calls that were sent before are with their services."""
    world.sender.call(f"{NODE}.test.old", 1, timeout=30)


def message_begun(world: World) -> None:
    """The one message that was sent is with its service: what that sends first has been executed."""
    world.until(lambda: [entry for entry in world.history.only("executed") if entry.target == "log.note"])


def executed(world: World, *receipts: int) -> bool:
    """Whether all of these messages of ``world.sender`` have been."""
    ids = {entry.id for entry in world.history if entry.event_id in receipts}
    return ids <= {entry.id for entry in world.history.only("executed")}


# -- brokers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", FAULTS)
def test_a_call_goes_on_over_the_other_broker(world: World, fault: str) -> None:
    connect(world)
    getattr(world.brokers[0], fault)()
    event_id, result = world.sender.call(DO, ["echo", 1], timeout=20)
    assert result == 1
    world.assert_executed_once(event_id)


@pytest.mark.parametrize("fault", QUICK)
def test_a_new_sender_finds_the_broker_that_runs(world: World, fault: str) -> None:
    getattr(world.brokers[0], fault)()
    assert world.make_sender().call(DO, ["echo", 1], timeout=20)[1] == 1


@pytest.mark.parametrize("fault", QUICK)
def test_a_call_under_way_is_run_once_and_answered(world: World, fault: str) -> None:
    connect(world)
    future = world.sender.call_async(DO, ["sleep", 0.5], 30)
    begun(world)
    getattr(world.brokers[0], fault)()
    assert end(world, future)
    world.assert_executed_once(future)


@pytest.mark.parametrize("fault", FAULTS)
def test_many_calls_under_way_are_each_run_once_and_answered(world: World, fault: str) -> None:
    connect(world)
    futures = [world.sender.call_async(DO, ["sleep", 0.1], 40) for _ in range(20)]
    begun(world)
    getattr(world.brokers[0], fault)()
    for future in futures:
        assert end(world, future)
        world.assert_executed_once(future)


@pytest.mark.parametrize("fault", QUICK)
def test_an_asynchronous_service_goes_on(world: World, fault: str) -> None:
    connect(world)
    future = world.sender.call_async(f"{NODE}.shop.wait", [0.5], 30)
    begun(world)
    getattr(world.brokers[0], fault)()
    assert end(world, future)[1] == "waited"
    world.assert_executed_once(future)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_message_finds_a_broker(world: World, fault: str) -> None:
    connect(world)
    getattr(world.brokers[0], fault)()
    receipt = world.sender.send(NOTE, ["notes"], timeout=20)
    assert fault == "cut" or receipt.confirmed_by == "mq-2"
    world.until(lambda: executed(world, receipt))
    world.assert_executed_once(receipt)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_message_that_is_being_run_is_run_once(world: World, fault: str) -> None:
    connect(world)
    receipt = world.sender.send(NOTE, ["tells-and-sleeps", 0.5])
    message_begun(world)
    getattr(world.brokers[0], fault)()
    begun(world)
    heal(world)
    world.until(lambda: executed(world, receipt))
    world.rest()
    world.assert_executed_once(receipt)


@pytest.mark.parametrize("fault", QUICK)
def test_a_message_that_waits_for_another_try_is_tried_again(world: World, fault: str) -> None:
    receipt = world.sender.send(NOTE, ["fails", 1])
    world.until(lambda: world.history.only("retried"))
    getattr(world.brokers[0], fault)()
    heal(world)
    world.until(lambda: executed(world, receipt))
    world.assert_executed_once(receipt)


@pytest.mark.parametrize("fault", [pytest.param("kill", marks=costly), "freeze"])
def test_without_any_broker_a_call_ends_with_an_error(world: World, fault: str) -> None:
    connect(world)
    for broker in world.brokers:
        getattr(broker, fault)()
    with pytest.raises(ServiceBusError):
        world.sender.call(DO, ["echo", 1], timeout=1)
    with pytest.raises(ServiceBusError):
        world.sender.send(NOTE, ["notes"], timeout=1)
    heal(world)
    world.until(lambda: world.sender.ping(NODE, timeout=1))
    world.rest()
    assert not [entry for entry in world.history.only("executed") if entry.target == "test.do"]


@pytest.mark.parametrize("fault", [pytest.param("kill", marks=costly), "freeze"])
def test_what_a_broker_has_stored_is_executed_when_it_is_back(world: World, fault: str) -> None:
    connect(world)
    world.node.stop()
    receipts = [world.sender.send(NOTE, ["notes", number]) for number in range(5)]
    getattr(world.brokers[0], fault)()
    world.node.start()
    heal(world)
    world.until(lambda: executed(world, *receipts))
    for receipt in receipts:
        world.assert_executed_once(receipt)


def test_calls_go_back_to_the_first_broker_after_a_while(world: World) -> None:
    connect(world)
    world.brokers[0].freeze()
    world.sender.call(DO, ["echo", 1], timeout=20)
    world.brokers[0].thaw()

    def is_back() -> bool:
        world.sender.call(DO, ["echo", 2], timeout=20)
        return world.history.only("executed")[-1].broker == "mq-1"

    assert world.history.only("executed")[-1].broker == "mq-2"
    world.until(is_back)


@costly
@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(["kill", "freeze", "cut"], 2)))
def test_one_broker_after_the_other(world: World, first: str, second: str) -> None:
    connect(world)
    getattr(world.brokers[0], first)()
    assert world.sender.call(DO, ["echo", 1], timeout=20)[1] == 1
    heal(world)
    world.until(lambda: world.sender.ping_all(NODE, timeout=1) == (2, 2))
    getattr(world.brokers[1], second)()
    assert world.sender.call(DO, ["echo", 2], timeout=20)[1] == 2
    for entry in world.history.only("called"):
        world.assert_executed_once(entry.id)


def test_a_broker_that_is_cut_again_and_again_costs_no_call(world: World) -> None:
    for number in range(5):
        world.brokers[number % 2].cut()
        event_id, result = world.sender.call(DO, ["echo", number], timeout=20)
        assert result == number
        world.assert_executed_once(event_id)


# -- the node ----------------------------------------------------------------------------------------------------------


def test_a_node_that_stops_finishes_what_it_has(world: World) -> None:
    future = world.sender.call_async(DO, ["sleep", 0.5], 30)
    receipt = world.sender.send(NOTE, ["tells-and-sleeps", 0.5])
    begun(world)
    message_begun(world)
    world.node.stop()
    assert end(world, future)
    world.assert_executed_once(future)
    world.assert_executed_once(receipt)


def test_a_node_that_has_stopped_is_unavailable_and_comes_back(world: World) -> None:
    connect(world)
    world.node.stop()
    with pytest.raises(NodeUnavailable):
        world.sender.call(DO, ["echo", 1], timeout=20)
    world.node.start()
    world.until(lambda: world.sender.ping(NODE, timeout=1))
    assert world.sender.call(DO, ["echo", 2], timeout=20)[1] == 2


def killed_while(world: World, ask: Callable[[], Any], begun: Callable[[World], None] = begun) -> Any:
    connect(world)
    asked = ask()
    begun(world)
    world.node.kill()
    world.node.start()
    return asked


def test_a_call_whose_node_is_killed_is_interrupted(world: World) -> None:
    future = killed_while(world, lambda: world.sender.call_async(DO, ["sleep", 5.0], 60))
    with pytest.raises(CallInterrupted):
        end(world, future)
    assert not world.history.of(getattr(future, "wire_id")).only("executed")  # noqa: B009 - of a CallFuture


def test_a_message_whose_node_is_killed_is_run_again(world: World) -> None:
    receipt = killed_while(world, lambda: world.sender.send(NOTE, ["tells-and-sleeps", 1.0]), message_begun)
    world.until(lambda: executed(world, receipt))
    world.assert_executed_once(receipt)


def test_messages_that_wait_in_a_killed_node_are_run_by_the_next(world: World) -> None:
    receipts = killed_while(world, lambda: [world.sender.send(NOTE, ["sleeps", 0.3]) for _ in range(6)])
    world.until(lambda: executed(world, *receipts))
    for receipt in receipts:
        world.assert_executed_once(receipt)


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_node_that_ends_while_its_broker_is_frozen_loses_nothing(world: World, how: str) -> None:
    connect(world)
    world.brokers[0].freeze()
    receipt = world.sender.send(NOTE, ["sleeps", 0.2], timeout=20)
    getattr(world.node, how)()
    world.brokers[0].thaw()
    later = world.sender.send(NOTE, ["notes"], timeout=20)
    world.node.start()
    world.until(lambda: executed(world, receipt, later))
    world.assert_executed_once(receipt)
    world.assert_executed_once(later)
