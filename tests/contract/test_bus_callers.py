"""Callers with keys of their own, whatever carries their requests: the same in memory and on RabbitMQ."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from typing import Any

import pytest
from bus_worlds import NODE, RealWorld, World, real_world
from kept_world import KeptWorld

from servicebus._discovering import survey_ids
from servicebus.errors import PermissionDenied, ServiceBusError, UnknownService
from servicebus.sender import Sender
from servicebus.testing import BrokerPool, HistoryEntry

DO, ADD, NOTE = f"{NODE}.test.do", f"{NODE}.shop.context", f"{NODE}.log.note"
OLD_KEY, NEW_KEY = "the key that shop had until now", "the key that shop has from now on"
CALLERS: dict[str, Any] = {
    "shop": {
        "key": [NEW_KEY, OLD_KEY],
        "allow": ["*.test.*", "*.shop.*"],
        "deny": ["*.test.old"],
        "publish": "test.#",
    },
    "audit": {"key": "a key of the audit alone", "allow": [NOTE], "publish": ["test.heard.*"]},
    "guest": {"key": "a key of the guest alone"},
    "root": {"key": "a key of root alone", "allow": "*", "publish": "#"},
}
KEYS = {name: entry["key"] if isinstance(entry["key"], str) else NEW_KEY for name, entry in CALLERS.items()}


@pytest.fixture(scope="module")
def bus_in_memory() -> Iterator[KeptWorld]:
    kept = KeptWorld(callers=CALLERS)
    yield kept
    kept.close()


@pytest.fixture(scope="module")
def bus_on_brokers(broker_pool: BrokerPool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealWorld]:
    with real_world(broker_pool.heal(2), tmp_path_factory.mktemp("bus"), callers=CALLERS) as world:
        yield world


def sender_of(world: World, caller: str, key: str = "") -> Sender:
    """As a program of that caller has it: it knows its own key alone."""
    return world.make_sender(caller=caller, callers=None, secret_token=key or KEYS[caller])


def dead(world: World, what: str = "") -> list[HistoryEntry]:
    return [each for each in world.history.only("dead-lettered") if what in each.detail]


RIGHTS = {
    (caller, target): caller in allowed
    for target, allowed in {
        DO: ("shop", "root"),
        ADD: ("shop", "root"),
        f"{NODE}.test.old": ("root",),
        f"{NODE}.test.nowhere": ("shop", "root"),
        f"{NODE}.nowhere.at_all": ("root",),
    }.items()
    for caller in CALLERS
}


@pytest.mark.parametrize(("caller", "target"), RIGHTS)
def test_a_caller_may_call_what_its_patterns_fit_and_nothing_else(world: World, caller: str, target: str) -> None:
    params = ["echo", 1] if target == DO else []
    sender = sender_of(world, caller)
    if RIGHTS[caller, target]:
        try:
            sender.call(target, params)
        except ServiceBusError as failed:
            assert isinstance(failed, UnknownService) is ("nowhere" in target), failed
        return
    with pytest.raises(PermissionDenied) as refusal:
        sender.call(target, params)
    error = refusal.value
    assert (error.address, error.caller, error.reason) == (target, caller, "permission-denied")
    assert error.rule.startswith(f"callers.{caller}.")
    assert f"caller '{caller}' may not call {target}, by {error.rule}" in str(error)
    assert not world.history.only("executed")


def test_a_key_of_a_callers_own_says_who_it_is(world: World) -> None:
    for caller, key in (("shop", NEW_KEY), ("shop", OLD_KEY), ("root", KEYS["root"])):
        assert sender_of(world, caller, key).call(DO, ["caller"])[1] == caller
    assert world.sender.call(DO, ["caller"])[1] == ""
    assert sender_of(world, "shop").call(f"{NODE}.shop.caller")[1] == "shop"
    assert sender_of(world, "shop").call(f"{NODE}.shop.caller_async")[1] == "shop"


def test_a_caller_is_told_what_became_of_its_own_requests_alone(world: World) -> None:
    shop = sender_of(world, "shop")
    id = f"{shop.status()['sender']}-{shop.call(DO, ['echo', 1])[0]}"
    for sender, is_told in ((shop, True), (sender_of(world, "root"), False), (world.sender, True)):
        _, answers = survey_ids(sender, [id], [NODE], 20, 0.25)
        assert answers and all(bool(answer.known) is is_told for answer in answers)
        if is_told:
            assert (answers[0].known or {})[id][0]["caller"] == "shop"


def test_a_peer_with_the_secret_of_the_bus_may_do_everything(world: World) -> None:
    assert world.sender.call(DO, ["echo", 1])[1] == 1
    assert world.sender.send(NOTE, ["notes"])
    assert world.sender.publish("test.heard.a", ["notes"]).subscribers
    world.until(lambda: len(world.history.only("executed")) >= 3)


def test_a_key_that_no_caller_has_is_refused_as_a_wrong_secret(world: World) -> None:
    with pytest.raises(ServiceBusError) as refusal:
        sender_of(world, "shop", "a key that nobody knows").call(DO, ["echo", 1], timeout=0.5)
    assert not isinstance(refusal.value, PermissionDenied)
    assert "no key" in str(refusal.value.__cause__ or refusal.value) or "not known" in str(refusal.value)


def test_a_service_that_is_not_there_looks_like_one_that_is_forbidden(world: World) -> None:
    sender = sender_of(world, "audit")
    said = []
    for target in (DO, f"{NODE}.test.nowhere"):
        with pytest.raises(PermissionDenied) as refusal:
            sender.call(target, [])
        said.append(str(refusal.value).replace(target, "TARGET"))
    assert said[0] == said[1]


def test_a_forbidden_message_is_a_dead_letter_with_that_reason(world: World) -> None:
    receipt = sender_of(world, "shop").send(NOTE, ["notes"])
    assert receipt.confirmed_by, "it is the node that refuses it"
    world.until(lambda: bool(dead(world)))
    (letter,) = dead(world)
    assert letter.detail.startswith("permission-denied: caller 'shop' may not send messages to NODE-01.log.note")
    assert "by callers.shop.allow" in letter.detail
    assert not world.history.only("executed")


def test_an_allowed_message_is_executed(world: World) -> None:
    sender_of(world, "audit").send(NOTE, ["notes"])
    world.until(lambda: bool(world.history.only("executed")))
    assert not dead(world)


@pytest.mark.parametrize("delay", [0.05, 0.5])
def test_a_delayed_message_is_judged_when_it_arrives(world: World, delay: float) -> None:
    sender_of(world, "audit").send(NOTE, ["notes"], delay=delay)
    sender_of(world, "guest").send(NOTE, ["notes"], delay=delay)
    world.until(lambda: bool(dead(world) and world.history.only("executed")))
    assert "caller 'guest'" in dead(world)[0].detail


def test_each_attempt_of_a_message_is_allowed(world: World) -> None:
    sender_of(world, "audit").send(NOTE, ["retries", 2, 0.01])
    world.until(lambda: bool(world.history.only("executed")))
    assert len(world.history.only("retried")) == 2 and not dead(world)


@pytest.mark.parametrize(
    ("caller", "event", "is_allowed"),
    [
        ("shop", "test.heard.a", True),
        ("shop", "test.heard.a.b", True),
        ("audit", "test.heard.a", True),
        ("audit", "test.heard.a.b", False),
        ("guest", "test.heard.a", False),
        ("root", "test.heard.a", True),
    ],
)
def test_a_caller_publishes_what_its_patterns_fit(world: World, caller: str, event: str, is_allowed: bool) -> None:
    receipt = sender_of(world, caller).publish(event, ["notes"])
    assert receipt.subscribers
    if is_allowed:
        world.until(lambda: bool(world.history.only("executed")))
        assert not dead(world)
    else:
        world.until(lambda: bool(dead(world)))
        assert f"caller '{caller}' may not publish {event}, by callers.{caller}.publish" in dead(world)[0].detail
        assert not world.history.only("executed")


def test_a_caller_sees_the_services_that_it_may_call(world: World) -> None:
    shop, audit, guest = (sender_of(world, caller) for caller in ("shop", "audit", "guest"))
    assert shop.ping(NODE) and audit.ping(NODE) and guest.ping(NODE)
    assert shop.offers(DO) and not shop.offers(f"{NODE}.test.old")
    assert audit.offers(NOTE, is_call=False) and not audit.offers(DO)
    described = {each.key for each in shop.describe(NODE)}
    assert {"test.do", "shop.caller", "log.all"} <= described
    assert not {"test.old", "log.once", "shop.stock"} & described
    assert {each.key for each in audit.describe(NODE)} == {"log.note", "log.heard", "log.all"}
    with pytest.raises(UnknownService):
        audit.describe(DO)
    assert [each.name for each in guest.nodes(timeout=2)] == [NODE], "that it is there, each caller may know"
    assert {each.name for each in audit.services(timeout=2)} == {"log.note"}
    assert not guest.services(timeout=2)


def test_a_gather_asks_the_nodes_where_the_caller_may_call(world: World) -> None:
    assert sender_of(world, "shop").gather("NODE-*.test.do", ["caller"]).results == {NODE: "shop"}
    assert not sender_of(world, "guest").gather("NODE-*.test.do", ["caller"]).results


def test_what_a_service_asks_is_signed_by_its_node(world: World) -> None:
    assert sender_of(world, "shop").call(DO, ["ask", DO, ["caller"]])[1] == ""


def test_the_same_id_of_two_callers_is_two_requests(world: World) -> None:
    """One who knows another's id gets neither its answer nor its end."""
    shop, root = sender_of(world, "shop"), sender_of(world, "root")
    incarnation = os.urandom(8).hex()
    for sender in (shop, root, world.sender):
        sender._current().incarnation = incarnation
        sender._current().count = itertools.count(1)
    answers = [sender.call(DO, ["caller"])[1] for sender in (shop, root, world.sender)]
    assert answers == ["shop", "root", ""]


def test_a_caller_cancels_its_own_call(world: World) -> None:
    shop = sender_of(world, "shop")
    running = shop.call_async(DO, ["until_cancelled"], 30)
    world.until(lambda: len(world.history.only("executed")) == 1)
    running.cancel()
    world.until(lambda: len(world.history.only("executed")) == 3)


def test_a_call_fails_over_with_its_key(world: World) -> None:
    shop = sender_of(world, "shop")
    world.until(lambda: shop.ping_all(NODE) == (2, 2))
    future = shop.call_async(DO, ["sleep", 0.5], 30)
    shop.call(f"{NODE}.shop.caller", timeout=30)
    world.brokers[0].cut()
    world.until(future.done)
    assert future.result()[1]
    world.assert_executed_once(future)


def test_an_agents_own_senders_may_sign_as_a_caller(world: World) -> None:
    """With the callers at hand, the name of one is enough."""
    assert world.make_sender(caller="root").call(DO, ["caller"])[1] == "root"


@pytest.mark.parametrize("name", ["numbers", "tasks"])
def test_a_stream_is_signed_for_its_caller_and_goes_on_by_its_credits_alone(world: World, name: str) -> None:
    target = f"{NODE}.stream.{name}"
    assert list(sender_of(world, "root").stream(target, {"count": 300}, prefetch=8)) == list(range(300))
    with pytest.raises(PermissionDenied) as refusal:
        list(sender_of(world, "shop").stream(target, {"count": 3}))
    assert refusal.value.rule == "callers.shop.allow, of which no pattern fits"


def test_the_same_id_of_two_callers_is_two_streams(world: World) -> None:
    root, incarnation = sender_of(world, "root"), os.urandom(8).hex()
    for sender in (root, world.sender):
        sender._current().incarnation = incarnation
    streams = [sender.stream(f"{NODE}.stream.numbers", {"count": 100}, prefetch=8) for sender in (root, world.sender)]
    assert [list(each) for each in streams] == [list(range(100))] * 2
