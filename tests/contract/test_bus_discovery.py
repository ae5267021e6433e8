"""What finds nodes, and calls all of them: the same in memory and on RabbitMQ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from bus_worlds import NODE, World, in_asyncio

from servicebus.aio import AsyncSender
from servicebus.errors import (
    AddressError,
    CallTimeout,
    EnvelopeError,
    NoBrokerAvailable,
    NodeUnavailable,
    RemoteError,
)
from servicebus.sender import Discovered, Gathered, NodeInfo

DO = "*.test.do"
costly = pytest.mark.costly


def names(world: World) -> tuple[str, ...]:
    """Of its brokers, as a Sender knows them."""
    return tuple(broker.name for broker in world.brokers)


def gather(world: World, verb: str, *arguments: Any, **how: Any) -> Gathered:
    return world.sender.gather(DO, [verb, *arguments], **{"timeout": 20, **how})


def test_the_node_is_found_once_with_all_brokers_that_reach_it(world: World) -> None:
    found = world.sender.nodes()
    assert found.unreachable == {} and found == (NodeInfo(NODE, names(world)),)


@pytest.mark.parametrize(
    ("pattern", "is_found"), [("NODE-*", True), ("NODE-0?", True), ("node-*", False), ("NODE", False)]
)
def test_a_pattern_is_for_the_names_of_nodes(world: World, pattern: str, is_found: bool) -> None:
    found = world.sender.nodes(pattern)
    assert [each.name for each in found] == [NODE] * is_found and found.unreachable == {}


def test_its_services_are_found_with_their_kinds(world: World) -> None:
    found = {each.name: each for each in world.sender.services()}
    assert found["test.do"].kind == "call" and found["log.note"].kind == "message"
    assert all(each.nodes == (NODE,) for each in found.values())
    assert list(found) == sorted(found)
    # Nobody asks a subscription: it is not among them.
    offered = {service.key for service in world.sender.describe(NODE) if service.kind != "event"}
    assert set(found) == offered


def test_a_result_is_gathered(world: World) -> None:
    assert gather(world, "echo", {"a": [1, "ü"]}) == Gathered({NODE: {"a": [1, "ü"]}}, {}, {}, (), {})
    world.until(lambda: len(world.history.only("executed")) == 1)


def test_an_error_of_the_service_is_gathered(world: World) -> None:
    found = gather(world, "raises", "ValueError", "of the test")
    assert not found.results and not found.unanswered
    error = found.errors[NODE]
    assert isinstance(error, RemoteError) and error.type == "ValueError"


def test_a_node_that_is_too_slow_has_not_answered(world: World) -> None:
    found = gather(world, "sleep", 5, timeout=1)
    assert not found.results and isinstance(found.unanswered[NODE], CallTimeout)


def test_a_node_without_the_service_is_not_called(world: World) -> None:
    found = world.sender.gather("*.test.missing", timeout=5)
    assert found == Gathered({}, {}, {}, (NODE,), {})
    assert world.sender.gather("*.log.note", timeout=5).lacking == (NODE,), "a message service is none that is called"


def test_nodes_that_are_given_are_called_and_none_is_forgotten(world: World) -> None:
    found = gather(world, "echo", 1, nodes=[NODE, "NODE-77"])
    assert found.results == {NODE: 1} and isinstance(found.unanswered["NODE-77"], NodeUnavailable)


def test_tasks_find_and_gather_the_same(world: World) -> None:
    async def ask(sender: AsyncSender) -> tuple[Discovered[NodeInfo], Any, Gathered]:
        return await sender.nodes(), await sender.services(), await sender.gather(DO, ["echo", 1], 20)

    nodes, services, gathered = in_asyncio(world, ask)
    assert nodes == (NodeInfo(NODE, names(world)),) and gathered.results == {NODE: 1}
    assert "test.do" in [each.name for each in services]


def test_what_cannot_be_asked_is_refused_before_anything_is_sent(world: World) -> None:
    refused: list[tuple[type[Exception], Callable[[], object]]] = [
        (AddressError, lambda: world.sender.nodes("a.b")),
        (AddressError, lambda: world.sender.gather("*.test")),
        (EnvelopeError, lambda: gather(world, "echo", float("nan"))),
        (ValueError, lambda: gather(world, "echo", at_once=0)),
    ]
    for error, ask in refused:
        with pytest.raises(error):
            ask()
    assert not world.history.only("executed")


def test_a_stranger_finds_nothing(world: World) -> None:
    sender = world.make_sender(secret_token="of a stranger")
    assert sender.nodes() == () and sender.services() == ()
    assert sender.gather(DO, ["echo", 1], 5) == Gathered({}, {}, {}, (), {})
    world.rest()
    assert not world.history.only("executed")


@pytest.mark.parametrize("fault", [pytest.param("stop", marks=costly), "freeze"])
def test_a_broker_that_is_down_is_named_and_hides_no_node(world: World, fault: str) -> None:
    first, second = world.brokers
    world.until(lambda: world.sender.ping_all(NODE) == (2, 2))
    getattr(first, fault)()
    found = world.sender.nodes()
    assert list(found.unreachable) == [first.name] and found == (NodeInfo(NODE, (second.name,)),)
    gathered = gather(world, "echo", 1)
    assert gathered.results == {NODE: 1} and list(gathered.unreachable) == [first.name]


def test_without_any_broker_it_is_an_error(world: World) -> None:
    for broker in world.brokers:
        broker.freeze()
    sender = world.sender
    for ask in (sender.nodes, sender.services, lambda timeout: gather(world, "echo", 1, timeout=timeout)):
        with pytest.raises(NoBrokerAvailable):
            ask(timeout=0.5)


def test_a_node_that_stops_is_found_no_more_and_again_when_it_is_back(world: World) -> None:
    world.node.stop()
    assert world.sender.nodes() == ()
    world.node.start()
    world.until(lambda: world.sender.nodes() == (NodeInfo(NODE, names(world)),))


@costly
def test_a_broker_that_is_back_is_asked_again(world: World) -> None:
    world.brokers[0].stop()
    assert len(world.sender.nodes().unreachable) == 1
    world.brokers[0].start()
    world.until(lambda: world.sender.nodes() == (NodeInfo(NODE, names(world)),))
