"""What events promise, whatever carries them: the same in memory and on RabbitMQ."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from bus_worlds import NODE, World

from servicebus.errors import AddressError, DurationError, EnvelopeError
from servicebus.testing import History

HEARD, ALL, NOTE = "event log.heard", "event log.all", "event log.note"
STOCK, MAIL = "event shop.stock", "event shop.mail"
ORDER = {"sku": "a", "count": 1}

costly = pytest.mark.costly


def ended(world: World, count: int) -> History:
    """The ends of events, when there are *count*."""

    def ends() -> History:
        found = (entry for entry in world.history if entry.target.startswith("event "))
        return History(entry for entry in found if entry.what in ("executed", "dead-lettered"))

    world.until(lambda: len(ends()) >= count)
    world.rest()
    assert len(ends()) == count, world.history
    return ends()


def executed(world: World, count: int) -> Counter[str]:
    """How often each service has run one to its end, when there were *count* ends in all."""
    return Counter(entry.target for entry in ended(world, count).only("executed"))


# -- to all who subscribe ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "services"),
    [
        ("test.heard.one", [HEARD, ALL]),
        ("test.heard.one.two", [ALL]),
        ("test.heard", [ALL]),
        ("test.other", [ALL]),
        ("test.note", [NOTE]),
    ],
)
def test_each_service_that_subscribes_gets_an_event_once(world: World, event: str, services: list[str]) -> None:
    receipt = world.sender.publish(event, ["notes"])
    assert (
        receipt == 1
        and receipt.confirmed_by in ("mq-1", "mq-2")
        and receipt.subscribers is True
        and not receipt.in_outbox
    )
    assert executed(world, len(services)) == dict.fromkeys(services, 1)


@pytest.mark.parametrize("event", ["test", "test.others", "test.other.one", "tests.heard.one", "TEST.OTHER", "x"])
def test_that_nobody_subscribes_is_said(world: World, event: str) -> None:
    receipt = world.sender.publish(event, ["notes"])
    assert receipt.subscribers is False and receipt.confirmed_by is None and not receipt.in_outbox
    world.rest()
    assert not world.history.only("executed")


def test_an_event_and_a_message_of_one_name_do_not_meet(world: World) -> None:
    world.sender.publish("test.note", ["notes"])
    world.sender.send(f"{NODE}.log.note", ["notes"])
    assert executed(world, 1) == {NOTE: 1}
    world.until(lambda: {entry.target for entry in world.history.only("executed")} == {NOTE, "log.note"})


def test_many_events_are_each_executed_once_by_each_service(world: World) -> None:
    futures = [world.sender.publish_async("test.heard.one", ["notes", number]) for number in range(100)]
    assert all(future.result().subscribers for future in futures)
    runs = Counter((entry.id, entry.target) for entry in ended(world, 200).only("executed"))
    assert len(runs) == 200


def test_a_service_gets_them_in_their_order(world: World) -> None:
    for number in range(20):
        world.sender.publish_async("test.heard.one", ["notes", number])
    ids = [entry.id for entry in ended(world, 40) if entry.target == HEARD]
    assert ids == [entry.id for entry in world.history.only("sent")]


def test_an_event_waits_for_its_node(world: World) -> None:
    world.node.stop()
    assert world.sender.publish("test.heard.one", ["notes"]).subscribers
    assert not world.history.only("executed")
    world.node.start()
    assert executed(world, 2) == {HEARD: 1, ALL: 1}


@pytest.mark.parametrize(
    "params",
    [["notes", "ü]]>\x00🐇"], ["notes", None, 1.5, {"a": []}], ["notes", "x" * 200_000]],
    ids=["text", "json", "long"],
)
def test_whatever_json_says_is_carried(world: World, params: list[Any]) -> None:
    world.sender.publish("test.note", params)
    assert executed(world, 1) == {NOTE: 1}


def test_a_typed_event_is_executed_by_each_of_its_services(world: World) -> None:
    world.sender.publish("orders.created", ORDER)
    assert executed(world, 2) == {STOCK: 1, MAIL: 1}


def test_a_typed_event_that_is_wrong_is_a_dead_letter_that_says_where(world: World) -> None:
    world.sender.publish("orders.created", {"sku": "a", "count": 0})
    assert all(end.what == "dead-lettered" and "count" in end.detail for end in ended(world, 2))


def test_a_service_knows_the_name_of_an_event(world: World) -> None:
    world.sender.publish("orders.deleted", ORDER)
    (end,) = ended(world, 1)
    assert end.what == "dead-lettered" and "orders.deleted of a" in end.detail


def test_a_task_publishes(world: World) -> None:
    async def publish() -> Any:
        async with world.async_sender as sender:
            return await sender.publish("test.heard.one", ["notes"])

    assert asyncio.run(publish()).subscribers
    assert executed(world, 2) == {HEARD: 1, ALL: 1}


# -- another try -------------------------------------------------------------------------------------------------------


def test_what_fails_is_tried_again_by_that_service_alone(world: World) -> None:
    world.sender.publish("test.heard.one", ["fails", 1])
    ends = {end.target: (end.what, end.attempt) for end in ended(world, 2)}
    assert ends == {HEARD: ("executed", 2), ALL: ("dead-lettered", 1)}
    (retry,) = world.history.only("retried")
    assert (retry.target, retry.detail) == (HEARD, "in 1 s")


def test_what_fails_again_and_again_is_a_dead_letter_after_its_last_try(world: World) -> None:
    world.sender.publish("test.heard.one", ["fails", 9])
    attempts = {end.target: end.attempt for end in ended(world, 2) if "ValueError" in end.detail}
    assert attempts == {HEARD: 5, ALL: 1}


def test_a_service_says_when_it_is_tried_again(world: World) -> None:
    world.sender.publish("test.heard.one", ["retries", 1, 0.2])
    ends = {end.target: end.what for end in ended(world, 2)}
    assert ends == {HEARD: "executed", ALL: "dead-lettered"}


def test_what_a_service_rejects_is_a_dead_letter_with_its_reason(world: World) -> None:
    world.sender.publish("test.note", ["rejects", "the order is void"])
    (end,) = ended(world, 1)
    assert end.what == "dead-lettered" and "the order is void" in end.detail


# -- later -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delay", [0.3, 1.2])
def test_an_event_may_wait(world: World, delay: float) -> None:
    world.sender.publish("test.heard.one", ["notes"], delay=delay)
    (sent,) = world.history.only("sent")
    world.until(lambda: len(world.history.only("executed")) == 2)
    assert all(end.at - sent.at >= delay - 0.05 for end in ended(world, 2))


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", ["", ".", "a..b", "orders.*", "#", "orders created", "x" * 201, "a." + "\n"])
def test_a_name_that_is_none_is_refused(world: World, event: str) -> None:
    with pytest.raises(AddressError):
        world.sender.publish(event, ["notes"])


@pytest.mark.parametrize("how", [{"delay": -1}, {"expires": float("nan")}, {"timeout": "x"}], ids=str)
def test_a_time_that_is_none_is_refused(world: World, how: dict[str, Any]) -> None:
    with pytest.raises(DurationError):
        world.sender.publish("test.note", ["notes"], **how)


def test_what_is_too_large_is_refused(world: World) -> None:
    with pytest.raises(EnvelopeError):
        world.make_sender(max_envelope_bytes=10_000).publish("test.note", ["notes", "x" * 20_000])
    assert not world.history.only("executed")


def test_an_event_with_another_secret_is_a_dead_letter_of_each_service(world: World) -> None:
    before = world.brokers[0].queues[f"{NODE}.dead"]
    world.make_sender(secret_token="another secret of the test").publish("test.heard.one", ["notes"])
    world.until(lambda: world.brokers[0].queues[f"{NODE}.dead"] == before + 2)
    assert not world.history.only("executed")


# -- faults ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [pytest.param("kill", marks=costly), "freeze", "cut"])
def test_an_event_goes_over_the_other_broker(world: World, fault: str) -> None:
    world.until(lambda: world.sender.ping_all(NODE) == (2, 2))
    getattr(world.brokers[0], fault)()
    assert world.sender.publish("test.heard.one", ["notes"], timeout=20).subscribers
    world.until(lambda: len(world.history.only("executed")) == 2)
    for broker in world.brokers:
        if broker.state == "frozen":
            broker.thaw()
    assert executed(world, 2) == {HEARD: 1, ALL: 1}


@costly
def test_an_event_that_a_broker_has_waits_there(world: World) -> None:
    world.node.stop()
    confirmed_by = world.sender.publish("test.heard.one", ["notes"]).confirmed_by
    next(broker for broker in world.brokers if broker.name == confirmed_by).kill()
    world.node.start()
    world.rest()
    assert not world.history.only("executed")
    world.brokers[0].start()
    assert executed(world, 2) == {HEARD: 1, ALL: 1}


def test_a_node_that_is_killed_gets_what_it_had_begun_again(world: World) -> None:
    world.sender.publish_async("test.note", ["sleeps", 0.5])
    world.sender.call(f"{NODE}.test.old", 1)  # by now it has begun
    world.node.kill()
    world.node.start()
    assert executed(world, 1) == {NOTE: 1}


# -- the outbox --------------------------------------------------------------------------------------------------------


def test_an_outbox_hands_on_at_once_what_a_broker_takes(world: World, tmp_path: Path) -> None:
    receipt = world.make_sender(outbox=tmp_path / "outbox").publish("test.note", ["notes"])
    assert receipt.subscribers and not receipt.in_outbox
    assert executed(world, 1) == {NOTE: 1}


@costly
def test_an_outbox_keeps_what_no_broker_takes(world: World, tmp_path: Path) -> None:
    sender = world.make_sender(outbox=tmp_path / "outbox")
    for broker in world.brokers:
        broker.kill()
    for _ in range(3):
        receipt = sender.publish("test.heard.one", ["notes"], timeout=1)
        assert receipt.in_outbox and receipt.subscribers is None and not receipt.confirmed_by
    for broker in world.brokers:
        broker.start()
    assert executed(world, 6) == {HEARD: 3, ALL: 3}
