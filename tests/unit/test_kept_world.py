"""The bus in memory that the contract's tests share (``tests/fixtures/kept_world.py``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from bus_worlds import MemoryWorld
from kept_world import KeptWorld

from servicebus.errors import RemoteError

DO = "NODE-01.test.do"


@pytest.fixture
def kept() -> Iterator[KeptWorld]:
    kept = KeptWorld()
    yield kept
    kept.close()


def kill_a_broker(world: MemoryWorld) -> None:
    world.brokers[0].kill()
    world.advance(20)


def freeze_all_brokers(world: MemoryWorld) -> None:
    for broker in world.brokers:
        broker.freeze()
    world.advance(20)


def stop_the_node(world: MemoryWorld) -> None:
    world.node.stop()


def dead_letter(world: MemoryWorld) -> None:
    world.sender.send("NODE-01.log.nowhere")
    world.advance(1)
    assert world.brokers[0].queues["NODE-01.dead"] == 1


def leave_a_call_running(world: MemoryWorld) -> None:
    world.sender.call_async(DO, ["sleep", 20])


@pytest.mark.parametrize(
    "do",
    [kill_a_broker, freeze_all_brokers, stop_the_node, dead_letter, leave_a_call_running],
    ids=lambda do: do.__name__,
)
def test_what_a_test_has_broken_is_mended_for_the_next(kept: KeptWorld, do: Callable[[MemoryWorld], None]) -> None:
    world = kept.begin()
    with pytest.raises(RemoteError):
        world.sender.call(DO, ["raises", "ValueError", "noted"])
    do(world)
    kept.end()
    following = kept.begin()
    assert following.bus is world.bus
    assert not following.history
    assert [broker.state for broker in following.brokers] == ["running", "running"]
    assert following.node.states == ["consuming", "consuming"]
    assert not any(count for broker in following.brokers for count in broker.queues.values())
    assert following.sender.call(DO, ["echo", 1])[1] == 1


def test_a_bus_that_cannot_be_mended_is_closed(kept: KeptWorld) -> None:
    world = kept.begin()
    world.brokers[1].delay(0.5)
    kept.end()
    assert kept.begin().bus is not world.bus


def test_a_bus_whose_callback_has_raised_fails_the_test(kept: KeptWorld) -> None:
    def fail() -> Any:
        raise RuntimeError("of the test")

    world = kept.begin()
    world.bus._loop.post(fail)
    world.advance(1)
    with pytest.raises(AssertionError, match="a defect of servicebus"):
        kept.end()
