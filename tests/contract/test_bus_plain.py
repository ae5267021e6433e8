"""What holds for queues of other programs, without envelopes: the same in memory and on RabbitMQ."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from bus_worlds import NODE, RealWorld, World, real_world
from kept_world import KeptWorld
from plain_services import PUBLISHERS, make_bus

from servicebus._plain import MessageProperties
from servicebus.errors import CallTimeout, RemoteError, SendRefused
from servicebus.testing import BrokerPool, History

NOTE, OUT, PIPE = "plain others.note", "plain others.out", "plain others.pipe"


@pytest.fixture(scope="module")
def bus_in_memory() -> Iterator[KeptWorld]:
    kept = KeptWorld(make_bus, publishers=PUBLISHERS)
    yield kept
    kept.close()


@pytest.fixture(scope="module")
def bus_on_brokers(broker_pool: BrokerPool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealWorld]:
    folder = tmp_path_factory.mktemp("plain")
    with real_world(broker_pool.heal(2), folder, "plain_services", publishers=PUBLISHERS) as world:
        yield world


def publish(world: World, body: Any, key: str = "note.one", exchange: str = "others", **how: Any) -> str:
    """As another program does; the queues are there as soon as the node has been."""
    properties = MessageProperties(**how)
    return world.sender.publisher_to(exchange, key).publish(body, properties=properties)


def ended(world: World, count: int) -> History:
    """The ends of messages of other programs, when there are *count*."""

    def ends() -> History:
        found = (entry for entry in world.history if entry.target.startswith("plain "))
        return History(entry for entry in found if entry.what in ("executed", "dead-lettered"))

    world.until(lambda: len(ends()) >= count)
    world.rest()
    assert len(ends()) == count, world.history
    return ends()


def runs(world: World, count: int) -> Counter[str]:
    return Counter(entry.target for entry in ended(world, count).only("executed"))


def depth(world: World, queue: str) -> int:
    return sum(broker.queues.get(queue, 0) for broker in world.brokers)


# -- consuming ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["note.one", "note.one.two", "notes", "note"])
def test_a_message_of_another_program_is_executed_once_and_acknowledged(world: World, key: str) -> None:
    assert publish(world, ["notes"], key) in ("mq-1", "mq-2")
    assert runs(world, 1) == {NOTE: 1}
    world.until(lambda: depth(world, "others.notes") == 0)


def test_many_are_each_executed_once(world: World) -> None:
    publisher = world.sender.publisher_to("others", "note.one")
    futures = [publisher.publish_async(["notes", number]) for number in range(100)]
    assert {future.result() for future in futures} <= {"mq-1", "mq-2"}
    assert runs(world, 100) == {NOTE: 100}


def test_a_message_waits_for_its_node(world: World) -> None:
    world.node.stop()
    publish(world, ["notes"])
    assert not world.history.only("executed")
    world.node.start()
    assert runs(world, 1) == {NOTE: 1}


def test_one_whose_body_is_not_what_the_function_takes_is_a_dead_letter_that_says_why(world: World) -> None:
    publish(world, b"no json {")
    publish(world, {"a": 1})
    ends = ended(world, 2)
    assert all(end.what == "dead-lettered" for end in ends), ends
    assert any("invalid-params" in end.detail for end in ends)


def test_properties_that_nobody_reads_do_no_harm(world: World) -> None:
    how: dict[str, Any] = {
        "timestamp": 2**40,
        "app_id": "x" * 255,
        "type": "ü",
        "content_encoding": "utf-8",
        "priority": 9,
    }
    publish(world, ["notes"], headers={"nested": {"a": [1, None, {"b": True}]}}, **how)
    assert runs(world, 1) == {NOTE: 1}


# -- doubles -----------------------------------------------------------------------------------------------------------


def test_a_double_by_message_id_is_dropped(world: World) -> None:
    id = f"one of {world.now}"
    for _ in range(3):
        publish(world, ["notes"], message_id=id)
    assert runs(world, 1) == {NOTE: 1}


def test_a_double_over_another_broker_is_dropped(world: World) -> None:
    id = f"double {world.now}"
    for host in ("mq-1", "mq-2"):
        world.sender.publisher_to("others", "note.one", host=host).publish(
            ["notes"], properties=MessageProperties(message_id=id)
        )
    assert runs(world, 1) == {NOTE: 1}
    world.until(lambda: depth(world, "others.notes") == 0)


def test_one_id_in_two_queues_is_no_double(world: World) -> None:
    id = f"twice {world.now}"
    publish(world, ["notes"], message_id=id)
    publish(world, {"any": "thing"}, "out.one", message_id=id)
    assert runs(world, 2) == {NOTE: 1, OUT: 1}


# -- retries and dead letters ------------------------------------------------------------------------------------------


def test_what_fails_is_tried_again(world: World) -> None:
    publish(world, ["fails", 1])
    (end,) = ended(world, 1)
    assert (end.what, end.attempt) == ("executed", 2)
    (retry,) = world.history.only("retried")
    assert (retry.target, retry.detail) == (NOTE, "in 1 s")


@pytest.mark.parametrize("verb", [["fails", 9], ["rejects"]], ids=lambda verb: verb[0])
def test_what_fails_for_good_is_a_dead_letter(world: World, verb: list[Any]) -> None:
    before = depth(world, f"{NODE}.dead")
    publish(world, verb)
    (end,) = ended(world, 1)
    assert (end.what, end.attempt) == ("dead-lettered", 3 if verb[0] == "fails" else 1)
    world.until(lambda: depth(world, f"{NODE}.dead") == before + 1 and depth(world, "others.notes") == 0)


def test_a_service_says_when_it_is_tried_again(world: World) -> None:
    publish(world, ["retries", 2])
    (end,) = ended(world, 1)
    assert (end.what, end.attempt) == ("executed", 3)


def test_another_attempt_has_all_that_its_publisher_wrote(world: World) -> None:
    how: dict[str, Any] = {"content_type": "text/x", "priority": 3, "type": "a type", "expiration": "60000"}
    publish(world, ["tells", 1], "note.one.two", headers={"x-custom": "kept", "n": 1}, **how)
    ends = ended(world, 2)
    assert {end.target: end.attempt for end in ends} == {NOTE: 2, OUT: 1}, ends


def test_a_message_without_an_id_is_tried_as_often(world: World) -> None:
    for number in range(3):
        world.sender.publisher_to("others", "note.one").publish(["fails", 9, number])
    assert [end.attempt for end in ended(world, 3)] == [3, 3, 3]


def test_a_node_that_is_killed_gets_what_it_had_begun_again(world: World) -> None:
    publish(world, ["sleeps", 0.3])
    world.node.kill()
    world.node.start()
    assert runs(world, 1) == {NOTE: 1}


# -- publishing --------------------------------------------------------------------------------------------------------


def test_a_pipeline_publishes_what_its_function_returns(world: World) -> None:
    publish(world, {"sku": "a", "count": 1}, "orders.new")
    assert runs(world, 2) == {PIPE: 1, OUT: 1}


def test_an_asynchronous_pipeline_publishes_too(world: World) -> None:
    publish(world, {"sku": "a", "count": 1}, "others.pipe.async", "")
    assert runs(world, 2) == {"plain others.pipe_async": 1, OUT: 1}


def test_a_pipeline_that_fails_publishes_nothing(world: World) -> None:
    publish(world, {"sku": "a", "count": -1}, "orders.new")
    (end,) = ended(world, 1)
    assert (end.what, end.target, end.attempt) == ("dead-lettered", PIPE, 2)


@pytest.mark.parametrize("queue", ["others.publishes", "others.publishes.async"])
def test_publishers_come_by_their_names(world: World, queue: str) -> None:
    publish(world, ["out", "out"], queue, "")
    assert runs(world, 3)[OUT] == 2


def test_a_publisher_of_one_broker_publishes_there(world: World) -> None:
    publish(world, ["elsewhere"], "others.publishes", "")
    brokers = {end.broker for end in ended(world, 2) if end.target == OUT}
    assert len(brokers) == 1 and not brokers & {"mq-1"}


@pytest.mark.parametrize("name", ["nowhere", "missing"])
def test_what_is_published_to_nobody_is_a_failure_of_the_service(world: World, name: str) -> None:
    publish(world, ["out", name], "others.publishes", "")
    ends = ended(world, 2)
    (failed,) = ends.only("dead-lettered")
    assert "SendRefused" in failed.detail
    publish(world, ["notes"])  # the others of the node are not touched
    assert runs(world, 3)[NOTE] == 1


@pytest.mark.parametrize(("exchange", "key"), [("others", "no.queue"), ("", "no.queue"), ("not.there", "x")])
def test_a_sender_is_told_that_nobody_has_it(world: World, exchange: str, key: str) -> None:
    with pytest.raises(SendRefused, match=r"mq-1.*mq-2"):
        world.sender.publisher_to(exchange, key).publish(["notes"])
    assert publish(world, ["notes"]) in ("mq-1", "mq-2")
    world.sender.publisher_to("others", "no.queue", mandatory=False).publish(["notes"])


# -- plain RPC ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("queue", "body", "answer", "content_type"),
    [
        ("fib", b"30", b"832040", "application/json"),
        ("divide", {"by": 2}, b"0.5", "application/json"),
        ("divide", {"by": 2, "number": 3}, b"1.5", "application/json"),
        ("text", "grün", "GRÜN".encode(), "text/plain"),
        ("bytes", b"\0\xff", b"\xff\0", "application/octet-stream"),
    ],
)
def test_any_client_may_call(world: World, queue: str, body: Any, answer: bytes, content_type: str) -> None:
    reply = world.sender.request("", f"others.{queue}", body)
    assert (reply.body, reply.content_type) == (answer, content_type)


def test_many_calls_are_each_answered(world: World) -> None:
    futures = [world.sender.request_async("", "others.fib", n) for n in range(60)]
    found = [future.result().json() for future in futures]
    assert found[:8] == [0, 1, 1, 2, 3, 5, 8, 13] and len(set(found)) == 59


@pytest.mark.parametrize(
    ("queue", "body", "type"), [("divide", {"by": 0}, "ZeroDivisionError"), ("fib", "x", "refused")]
)
def test_a_caller_is_told_what_was_raised(world: World, queue: str, body: Any, type: str) -> None:
    with pytest.raises(RemoteError) as raised:
        world.sender.request("", f"others.{queue}", body)
    assert raised.value.type == type


def test_a_request_that_nobody_serves_fails_at_once(world: World) -> None:
    began = world.now
    with pytest.raises(SendRefused):
        world.sender.request("", "others.nobody", b"1", timeout=30)
    assert world.now - began < 10


def test_a_request_ends_at_its_deadline(world: World) -> None:
    with pytest.raises(CallTimeout):
        world.sender.request("others", "note.one", ["sleeps", 0.1], timeout=1)  # its function returns nothing


def test_a_service_of_the_bus_calls_one_of_others(world: World) -> None:
    assert world.sender.call(f"{NODE}.others.asks", ["others.fib", 10])[1] == 55


@pytest.mark.parametrize("fault", ["freeze", "cut"])
def test_a_publish_goes_over_the_other_broker(world: World, fault: str) -> None:
    publish(world, ["notes"])
    getattr(world.brokers[0], fault)()
    assert world.sender.publisher_to("others", "note.one").publish(["notes"], timeout=40) in ("mq-1", "mq-2")
    for broker in world.brokers:
        if broker.state == "frozen":
            broker.thaw()
    assert runs(world, 2) == {NOTE: 2}


def test_json_of_any_kind_is_carried(world: World) -> None:
    body: list[Any] = ["notes", "ü]]>\0🐇", None, 1.5, {"a": []}, "x" * 200_000]
    publish(world, json.dumps(body).encode())
    assert runs(world, 1) == {NOTE: 1}
