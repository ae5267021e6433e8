"""What singleton services promise, whatever carries them: the same in memory and on RabbitMQ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from bus_worlds import NODE, RealWorld, World, real_world
from kept_world import KeptWorld
from singleton_services import make_bus

from servicebus.errors import CallRefused, CallTimeout, InvalidParams, RemoteError
from servicebus.sender import Sender
from servicebus.testing import BrokerPool, HistoryEntry

COUNTER = f"{NODE}.one.counter"
NOTE = f"{NODE}.one.note"
SAFE = f"{NODE}.one.safe"
ENCRYPTION = {"keys": ["the key of the test, long enough"], "services": ["*.one.safe"]}


@pytest.fixture(scope="module")
def bus_in_memory() -> Iterator[KeptWorld]:
    kept = KeptWorld(make_bus, encryption=ENCRYPTION)
    yield kept
    kept.close()


@pytest.fixture(scope="module")
def bus_on_brokers(broker_pool: BrokerPool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealWorld]:
    folder = tmp_path_factory.mktemp("bus")
    with real_world(broker_pool.heal(2), folder, "singleton_services", encryption=ENCRYPTION) as world:
        yield world


def on_each_broker(world: World) -> list[Sender]:
    """A Sender for each broker that knows no other one."""
    hosts = [[each] for each in world.sender._config.hosts]
    return [
        world.make_sender(hosts=[{"name": host.name, "host": host.host, "port": host.port} for host in found])
        for found in hosts
    ]


def executed(world: World, target: str) -> list[HistoryEntry]:
    done = world.history.only("executed")
    return [entry for entry in done if entry.target.removeprefix("event ") == target.removeprefix(f"{NODE}.")]


def workers(world: World, target: str) -> set[str]:
    """The brokers whose workers have run it."""
    return {str(entry.broker) for entry in executed(world, target)}


# -- calls -------------------------------------------------------------------------------------------------------------


def test_calls_over_each_broker_are_run_by_one_worker(world: World) -> None:
    senders = on_each_broker(world)
    first = senders[0].call(COUNTER)[1]
    assert [sender.call(COUNTER)[1] for _ in range(3) for sender in senders] == list(range(first + 1, first + 7))
    assert len(workers(world, COUNTER)) == 1


def test_many_calls_at_a_time_are_each_run_once(world: World) -> None:
    futures = [sender.call_async(f"{NODE}.one.slowly", [n]) for n in range(40) for sender in on_each_broker(world)]
    assert sorted(future.result()[1][0] for future in futures) == sorted([*range(40)] * 2)
    assert len(executed(world, "one.slowly")) == 80 and len(workers(world, "one.slowly")) == 1


def test_what_a_call_carries_and_what_it_raises_passes_both_ways(world: World) -> None:
    for sender in on_each_broker(world):
        assert sender.call(f"{NODE}.one.slowly", {"number": 1}, context={"k": "v"})[1] == [1, "v"]
        with pytest.raises(RemoteError, match="no more"):
            sender.call(COUNTER, ["raises", "no more"])
        with pytest.raises(InvalidParams):
            sender.call(f"{NODE}.one.slowly", ["no number"])


def test_an_encrypted_call_stays_encrypted_when_it_is_passed_on(world: World) -> None:
    for sender in on_each_broker(world):
        assert sender.call(SAFE, ["4711"], context={"k": "v"})[1] == ["4711", "v"]
    assert len(workers(world, "one.safe")) == 1
    with pytest.raises(CallRefused, match="not-encrypted"):
        world.make_sender(encryption=None).call(SAFE, ["4711"])


def test_a_deadline_holds(world: World) -> None:
    for sender in on_each_broker(world):
        with pytest.raises(CallTimeout):
            sender.call(COUNTER, ["sleep", 3], timeout=0.5)


def test_a_cancelled_call_is_cancelled_where_it_runs(world: World) -> None:
    for number, sender in enumerate(on_each_broker(world), 1):
        call = sender.call_async(f"{NODE}.one.waiter", ["until it is cancelled"])
        assert sender.call(f"{NODE}.one.waiter")[1] is None, "two run side by side"
        call.cancel()
        world.until(lambda number=number: len(executed(world, NOTE)) == number)  # type: ignore[misc]


# -- messages and events -----------------------------------------------------------------------------------------------


def test_messages_over_each_broker_are_run_once_by_one_worker(world: World) -> None:
    receipts = [sender.send(NOTE, ["notes", n]) for n in range(10) for sender in on_each_broker(world)]
    assert {receipt.confirmed_by for receipt in receipts} == {"mq-1", "mq-2"}
    world.until(lambda: len(executed(world, NOTE)) == 20)
    world.rest()
    assert len(executed(world, NOTE)) == 20 and len(workers(world, NOTE)) == 1


def test_a_message_that_fails_is_tried_again(world: World) -> None:
    for sender in on_each_broker(world):
        sender.send(NOTE, ["fails", 2])
    world.until(lambda: len(executed(world, NOTE)) == 2)
    assert len(world.history.only("retried")) == 4


def test_a_message_that_fails_for_good_is_dead_lettered(world: World) -> None:
    world.sender.send(NOTE, ["fails", 9])
    world.until(lambda: bool(world.history.only("dead-lettered")))
    assert sum(broker.queues.get(f"{NODE}.dead", 0) for broker in world.brokers) >= 1


def test_an_event_is_handled_once_by_one_worker(world: World) -> None:
    for sender in on_each_broker(world):
        assert sender.publish("orders.created", ["A-1"]).subscribers
        assert sender.publish("orders.created", ["fails"]).subscribers
    world.until(lambda: len(executed(world, "one.stock")) == 4)
    world.rest()
    assert len(executed(world, "one.stock")) == 4 and len(workers(world, "one.stock")) == 1


# -- hand-over ---------------------------------------------------------------------------------------------------------


def answered(world: World, **how: Any) -> int:
    """What a call gives; it is made again until one worker has the service."""
    return int(world.sender.call(COUNTER, timeout=20, **how)[1])


def test_another_worker_takes_over_when_the_broker_of_the_first_dies(world: World) -> None:
    first = answered(world)
    (name,) = workers(world, COUNTER)
    (broker,) = [each for each in world.brokers if each.name == name]
    (other,) = [each for each in world.brokers if each.name != name]
    world.sender.send(NOTE, ["notes"])
    broker.kill()
    assert answered(world) in (1, first + 1)
    # The first has it until it knows that its broker is dead, and may have run that call over the other one.
    world.until(lambda: answered(world) and other.name in workers(world, COUNTER))
    broker.start()
    world.until(lambda: world.node.states == ["consuming"] * 2)
    for sender in on_each_broker(world):
        sender.call(COUNTER, timeout=20)
    world.until(lambda: len(executed(world, NOTE)) == 1)


def test_it_goes_on_when_its_node_is_killed_and_comes_back(world: World) -> None:
    answered(world)
    receipt = world.sender.send(NOTE, ["notes"])
    world.node.kill()
    late = world.sender.send(NOTE, ["notes"])
    world.node.start()
    world.until(lambda: len(executed(world, NOTE)) >= 2)
    for each in (receipt, late):
        world.assert_executed_once(each)
    assert answered(world) == 1, "the next one begins anew"


def test_what_is_no_singleton_runs_everywhere(world: World) -> None:
    for sender in on_each_broker(world):
        sender.call(f"{NODE}.one.everywhere")
    assert workers(world, "one.everywhere") == {"mq-1", "mq-2"}
