"""What is promised of events that a service publishes: with its success, never without; in memory and on RabbitMQ."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from bus_worlds import NODE, World

from servicebus.errors import RemoteError

DO, ONCE, NOTE_OF_LOG = f"{NODE}.test.do", f"{NODE}.log.once", f"{NODE}.log.note"
NOTE, ALL = "event log.note", "event log.all"


def heard(world: World) -> Counter[str]:
    """How often each subscriber has run an event."""
    return Counter(entry.target for entry in world.history.only("executed") if entry.target.startswith("event "))


def rests_with(world: World, wanted: dict[str, int]) -> None:
    world.until(lambda: heard(world) == wanted)
    world.rest()
    assert heard(world) == wanted, world.history


def test_what_a_call_publishes_goes_out_when_it_has_succeeded(world: World) -> None:
    _, returned = world.sender.call(DO, ["publish", ["test.note", "test.other"], "0.3"], 30)
    assert returned == [[True, None, None, False]] * 2
    rests_with(world, {NOTE: 1, ALL: 1})
    (called,) = [entry for entry in world.history.only("executed") if entry.target == "test.do"]
    assert all(entry.at >= called.at - 0.1 for entry in world.history.only("executed"))


def test_what_a_call_publishes_that_fails_goes_nowhere(world: World) -> None:
    with pytest.raises(RemoteError):
        world.sender.call(DO, ["publish", ["test.note"], "raises"], 30)
    rests_with(world, {})


@pytest.mark.parametrize("fails", [False, True])
def test_what_an_async_call_publishes(world: World, fails: bool) -> None:
    try:
        world.sender.call(f"{NODE}.shop.announce", {"events": ["test.note"], "fails": fails}, 30)
    except RemoteError:
        assert fails
    rests_with(world, {} if fails else {NOTE: 1})


def test_what_a_message_publishes_goes_out_once_though_it_is_tried_again(world: World) -> None:
    world.sender.send(NOTE_OF_LOG, ["publishes-and-fails", 2, "test.note"])
    rests_with(world, {NOTE: 1})


def test_what_a_message_publishes_that_is_dead_lettered_goes_nowhere(world: World) -> None:
    world.sender.send(ONCE, ["publishes-and-fails", 9, "test.note"])
    world.until(lambda: world.history.only("dead-lettered"))
    rests_with(world, {})


def test_what_a_service_publishes_goes_out_in_its_order(world: World) -> None:
    events = ["test.heard.a", "test.heard.b"] * 5
    world.sender.call(DO, ["publish", events], 30)
    rests_with(world, {"event log.heard": 10, ALL: 10})
    counts = [int(e.id.partition("-")[2]) for e in world.history.only("executed") if e.target == "event log.heard"]
    assert counts == list(range(1, 11))


def test_an_event_causes_another(world: World) -> None:
    world.sender.publish("test.other", ["publishes", 0, "test.note"])
    rests_with(world, {ALL: 1, NOTE: 1})


def test_without_a_subscriber_it_is_gone(world: World) -> None:
    world.sender.call(DO, ["publish", ["nobody"]], 30)
    rests_with(world, {})


def killed_while_it_sleeps(world: World, target: str, params: list[Any]) -> None:
    world.sender.send(target, params) if ".log." in target else world.sender.call_async(target, params, 30)
    world.sender.call(f"{NODE}.test.old", 1, 30)
    world.node.kill()
    world.node.start()
    world.until(lambda: world.sender.ping(NODE, timeout=1))


def test_a_message_that_is_killed_before_its_end_has_published_nothing_and_runs_again(world: World) -> None:
    killed_while_it_sleeps(world, ONCE, ["publishes-and-sleeps", 0.5, "test.note"])
    rests_with(world, {NOTE: 1})


def test_a_call_that_is_killed_before_its_end_has_published_nothing(world: World) -> None:
    killed_while_it_sleeps(world, DO, ["publish", ["test.note"], "2"])
    world.sender.call(f"{NODE}.test.old", 1, 30)
    rests_with(world, {})


def test_a_node_that_is_killed_at_its_end_publishes_all_or_nothing_of_each(world: World) -> None:
    futures = [world.sender.call_async(DO, ["publish", ["test.note", "test.note"]], 30) for _ in range(20)]
    futures[3].result()
    world.node.kill()
    world.node.start()
    world.until(lambda: all(future.done() for future in futures))
    done = sum(future.exception() is None for future in futures)
    world.until(lambda: heard(world)[NOTE] >= 2 * done)
    world.rest()
    events = Counter(e.id.partition("-")[0] for e in world.history.only("executed") if e.target == NOTE)
    assert set(events.values()) == {2} and len(events) >= done
