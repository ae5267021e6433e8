"""What messages promise, whatever carries them: the same in memory and on RabbitMQ."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from bus_worlds import NODE, World

from servicebus.errors import AddressError, DurationError, EnvelopeError, ServiceBusError
from servicebus.testing import History

NOTE = f"{NODE}.log.note"
ONCE = f"{NODE}.log.once"


def ended(world: World, count: int = 1) -> History:
    """The ends of messages, when there are *count*."""

    def ends() -> History:
        return History(entry for entry in world.history if entry.what in ("executed", "dead-lettered"))

    world.until(lambda: len(ends()) >= count)
    world.rest()
    assert len(ends()) == count, world.history
    return ends()


# -- to their end ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [NOTE, ONCE])
def test_what_was_confirmed_is_executed_once(world: World, target: str) -> None:
    receipt = world.sender.send(target, ["notes"])
    assert receipt == 1 and receipt.confirmed_by in ("mq-1", "mq-2") and not receipt.in_outbox
    ended(world)
    world.assert_executed_once(receipt)


@pytest.mark.parametrize(
    "params",
    [["notes", "ü]]>\x00🐇"], ["notes", None, 1.5, {"a": []}], ["notes", "x" * 200_000]],
    ids=["text", "json", "long"],
)
def test_whatever_json_says_is_carried(world: World, params: list[Any]) -> None:
    world.sender.send(NOTE, params)
    assert [entry.what for entry in ended(world)] == ["executed"]


def test_many_messages_are_each_executed_once(world: World) -> None:
    futures = [world.sender.send_async(NOTE, ["notes", number]) for number in range(200)]
    assert all(future.result().confirmed_by for future in futures)
    ended(world, 200)
    for future in futures:
        world.assert_executed_once(future)


def test_many_threads_send(world: World) -> None:
    with ThreadPoolExecutor(8) as pool:
        receipts = list(pool.map(lambda number: world.sender.send(NOTE, ["notes", number]), range(40)))
    assert sorted(receipts) == list(range(1, 41))
    assert {entry.what for entry in ended(world, 40)} == {"executed"}


def test_a_message_waits_for_its_node(world: World) -> None:
    world.node.stop()
    receipt = world.sender.send(NOTE, ["notes"])
    assert receipt.confirmed_by
    assert not world.history.only("executed")
    world.node.start()
    ended(world)
    world.assert_executed_once(receipt)


@pytest.mark.costly
def test_calls_go_past_a_backlog_of_messages(world: World) -> None:
    for _ in range(20):
        world.sender.send_async(NOTE, ["sleeps", 0.2])
    assert world.sender.call(f"{NODE}.test.do", ["echo", 1], 30)[1] == 1
    assert len(world.history.only("executed")) < 20
    ended(world, 21)


# -- another try -------------------------------------------------------------------------------------------------------


def test_what_fails_is_tried_again(world: World) -> None:
    receipt = world.sender.send(NOTE, ["fails", 1])
    (end,) = ended(world)
    assert (end.what, end.attempt) == ("executed", 2)
    (retry,) = world.history.only("retried")
    assert retry.detail == "in 1 s" and end.at - retry.at >= 0.9
    world.assert_executed_once(receipt)


def test_what_fails_again_and_again_is_a_dead_letter_after_its_last_try(world: World) -> None:
    world.sender.send(NOTE, ["fails", 9])
    (end,) = ended(world)
    assert (end.what, end.attempt) == ("dead-lettered", 5) and "ValueError: attempt 5" in end.detail
    assert [entry.attempt for entry in world.history.only("retried")] == [1, 2, 3, 4]


def test_a_service_says_when_it_is_tried_again(world: World) -> None:
    world.sender.send(NOTE, ["retries", 1, 0.2])
    (end,) = ended(world)
    assert (end.what, end.attempt) == ("executed", 2)
    (retry,) = world.history.only("retried")
    assert end.at - retry.at >= 0.15


@pytest.mark.parametrize("how", ["fails", "exits"])
def test_without_another_try_what_fails_is_a_dead_letter(world: World, how: str) -> None:
    world.sender.send(ONCE, [how, 9])
    (end,) = ended(world)
    assert (end.what, end.attempt) == ("dead-lettered", 1)
    assert ("ValueError" if how == "fails" else "SystemExit: 3") in end.detail
    assert [queue for queue in world.brokers[0].queues.items() if queue == (f"{NODE}.dead", 1)] or world.is_real


@pytest.mark.parametrize("why", ["the order is void", "ü]]> 🐇"])
def test_what_a_service_rejects_is_a_dead_letter_with_its_reason(world: World, why: str) -> None:
    world.sender.send(NOTE, ["rejects", why])
    (end,) = ended(world)
    assert end.what == "dead-lettered" and why in end.detail


def test_what_fails_does_not_hold_up_what_follows(world: World) -> None:
    first = world.sender.send(NOTE, ["fails", 1])
    second = world.sender.send(NOTE, ["notes"])
    order = [entry.event_id or entry.id for entry in ended(world, 2)]
    ids = {entry.event_id: entry.id for entry in world.history.only("sent")}
    assert order == [ids[int(second)], ids[int(first)]]


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["NODE-01.log.nowhere", "NODE-01.test.do"])
def test_a_message_for_no_service_is_a_dead_letter(world: World, target: str) -> None:
    world.sender.send(target, ["notes"])
    (end,) = ended(world)
    assert end.what == "dead-lettered" and "unknown-service" in end.detail


def test_a_message_with_another_secret_is_a_dead_letter(world: World) -> None:
    world.make_sender(secret_token="another secret of the test").send(NOTE, ["notes"])
    world.rest()
    world.until(lambda: world.brokers[0].queues[f"{NODE}.dead"] > 0)
    assert not world.history.only("executed")


def test_a_message_for_a_node_that_never_was_is_refused(world: World) -> None:
    with pytest.raises(ServiceBusError):
        world.sender.send("NODE-02.log.note", ["notes"], timeout=1)


@pytest.mark.parametrize("target", ["", "NODE-01.log", "NODE-01.log.note.x"])
def test_an_address_that_is_none_is_refused(world: World, target: str) -> None:
    with pytest.raises(AddressError):
        world.sender.send(target, ["notes"])


@pytest.mark.parametrize("how", [{"delay": -1}, {"expires": float("nan")}, {"timeout": "x"}], ids=str)
def test_a_time_that_is_none_is_refused(world: World, how: dict[str, Any]) -> None:
    with pytest.raises(DurationError):
        world.sender.send(NOTE, ["notes"], **how)


def test_what_is_too_large_is_refused(world: World) -> None:
    with pytest.raises(EnvelopeError):
        world.make_sender(max_envelope_bytes=10_000).send(NOTE, ["notes", "x" * 20_000])
    assert not world.history.only("executed")


@pytest.mark.parametrize("count", [0, -1])
def test_a_typed_message_that_is_wrong_is_a_dead_letter_that_says_where(world: World, count: int) -> None:
    world.sender.send(f"{NODE}.shop.restocked", {"sku": "a", "count": count})
    (end,) = ended(world)
    assert end.what == "dead-lettered" and "count" in end.detail


def test_a_typed_message_is_executed(world: World) -> None:
    receipt = world.sender.send(f"{NODE}.shop.restocked", {"sku": "a", "count": 1})
    ended(world)
    world.assert_executed_once(receipt)


# -- later -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delay", [0.3, 1.2])
def test_a_message_may_wait(world: World, delay: float) -> None:
    world.sender.send(NOTE, ["notes"], delay=delay)
    (end,) = ended(world)
    (sent,) = world.history.only("sent")
    assert end.what == "executed" and end.at - sent.at >= delay - 0.05


def test_the_order_of_delays_is_that_of_the_executions(world: World) -> None:
    for delay in (0.6, 0.3):
        world.sender.send(NOTE, ["notes"], delay=delay)
    ids = {entry.id: entry.event_id for entry in world.history.only("sent")}
    assert [ids[entry.id] for entry in ended(world, 2)] == [2, 1]


# -- locks -------------------------------------------------------------------------------------------------------------


def test_messages_with_the_same_lock_are_run_one_at_a_time(world: World) -> None:
    world.sender.ping(NODE)
    for _ in range(4):
        world.sender.send_async(f"{NODE}.log.locked", ["sleeps", 0.2, "key"])
    times = [entry.at for entry in ended(world, 4)]
    assert min(second - first for first, second in itertools.pairwise(times)) >= 0.15


@pytest.mark.costly
def test_messages_with_other_locks_are_not(world: World) -> None:
    first = world.sender.send(f"{NODE}.log.locked", ["sleeps", 3.0, "a"])
    second = world.sender.send(f"{NODE}.log.locked", ["notes", "b"])
    ids = {entry.id: entry.event_id for entry in world.history.only("sent")}
    assert [ids[entry.id] for entry in ended(world, 2)] == [second, first]


# -- the outbox --------------------------------------------------------------------------------------------------------


def test_an_outbox_hands_on_at_once_what_a_broker_takes(world: World, tmp_path: Path) -> None:
    receipt = world.make_sender(outbox=tmp_path / "outbox").send(NOTE, ["notes"])
    assert receipt.confirmed_by and not receipt.in_outbox
    ended(world)


@pytest.mark.costly
def test_an_outbox_keeps_what_no_broker_takes(world: World, tmp_path: Path) -> None:
    sender = world.make_sender(outbox=tmp_path / "outbox")
    for broker in world.brokers:
        broker.kill()
    receipt = sender.send(NOTE, ["notes"], timeout=1)
    assert receipt.in_outbox and not receipt.confirmed_by
    for broker in world.brokers:
        broker.start()
    ended(world)
