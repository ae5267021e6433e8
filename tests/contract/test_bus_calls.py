"""What calls promise, whatever carries them: the same in memory and on RabbitMQ."""

from __future__ import annotations

import asyncio
import itertools
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Any

import pytest
from bus_worlds import NODE, World, in_asyncio

from servicebus.aio import AsyncSender
from servicebus.errors import (
    AddressError,
    CallRefused,
    CallTimeout,
    DurationError,
    EnvelopeError,
    InvalidParams,
    NodeUnavailable,
    RemoteError,
    ServiceBusError,
    ServiceBusy,
    UnknownService,
)
from servicebus.middleware import Middleware, Outgoing

DO = f"{NODE}.test.do"
ALONE = f"{NODE}.test.alone"


def do(world: World, verb: str, *arguments: Any, **how: Any) -> Any:
    return world.sender.call(DO, [verb, *arguments], **how)[1]


# -- values ------------------------------------------------------------------------------------------------------------

VALUES: dict[str, Any] = {
    "null": None,
    "true": True,
    "zero": 0,
    "negative": -7,
    "beyond 64 bits": 2**70,
    "fraction": 0.1,
    "tiny": 5e-324,
    "huge": 1.7976931348623157e308,
    "negative zero": -0.0,
    "empty text": "",
    "text": "two words",
    "umlauts": "Grüße, 東京, Ελλάδα, مرحبا",
    "beyond the plane": "🐇 and 🜚",
    "combining": "é",
    "control characters": "\x00\x01\x1f\x7f\r\n\t",
    "lone surrogate": "\ud800",
    "end of CDATA": "<![CDATA[ ]]> & <event/>",
    "like a number": "0012",
    "byte order mark": "\ufeffx\ufffe\uffff",
    "line separators": "\u2028\u2029\u0085",
    "empty list": [],
    "mixed list": [1, "a", None, [2.5, {"b": []}]],
    "empty object": {},
    "keys": {"": 1, "a.b": 2, "ü": 3, " ": 4},
    "deep": [[[[[[[[[[[[[[[[["deep"]]]]]]]]]]]]]]]]],
    "long": "x" * 100_000,
    "many": list(range(5_000)),
}


@pytest.mark.parametrize("name", VALUES)
def test_a_value_comes_back_as_it_was_sent(world: World, name: str) -> None:
    value = VALUES[name]
    result = do(world, "echo", value)
    assert result == value and type(result) is type(value) and repr(result) == repr(value)


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), object(), {1, 2}, {"a": b"bytes"}],
    ids=["nan", "inf", "object", "set", "bytes"],
)
def test_what_json_cannot_say_is_refused_before_anything_is_sent(world: World, value: Any) -> None:
    with pytest.raises((EnvelopeError, TypeError, ValueError)):
        do(world, "echo", value)
    world.rest()
    assert not world.history.only("executed")


def test_what_is_too_large_is_refused_before_anything_is_sent(world: World) -> None:
    sender = world.make_sender(max_envelope_bytes=10_000)
    with pytest.raises(EnvelopeError, match="oversized"):
        sender.call(DO, ["echo", "x" * 20_000])
    assert sender.call(DO, ["echo", "x"])[1] == "x"


def test_a_result_that_is_too_large_is_the_services_error(world: World) -> None:
    with pytest.raises(ServiceBusError, match=r"oversized|too large|larger"):
        do(world, "large", 9 << 20)  # max_envelope_bytes: 8 MiB
    assert do(world, "large", 1 << 20) == "x" * (1 << 20)


# -- ids ---------------------------------------------------------------------------------------------------------------


def test_ids_count_from_one_and_a_service_sees_that_of_the_wire(world: World) -> None:
    ids = [world.sender.call(DO, ["event"]) for _ in range(3)]
    assert [id for id, _ in ids] == [1, 2, 3]
    for (_, event), entry in zip(ids, world.history.only("called"), strict=True):
        assert event == {"id": entry.id, "category": "test", "service": "do", "version": "2"}
        world.assert_executed_once(entry.id)


def test_two_senders_have_ids_of_their_own(world: World) -> None:
    other = world.make_sender()
    futures = [sender.call_async(DO, ["event"]) for sender in (world.sender, other)]
    assert len({future.result()[1]["id"] for future in futures}) == 2
    for future in futures:
        world.assert_executed_once(future)


def test_a_future_knows_its_id(world: World) -> None:
    future = world.sender.call_async(DO, ["event"])
    event_id, event = future.result()
    assert (event_id, event["id"]) == (1, getattr(future, "wire_id"))  # noqa: B009 - of a CallFuture


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ValueError", "KeyError", "SystemExit", "Own"])
def test_what_a_service_raises_arrives_with_its_type_and_text(world: World, name: str) -> None:
    with pytest.raises(RemoteError, match="of the test") as caught:
        do(world, "raises", name, "of the test ü]]>")
    assert caught.value.type == ("OwnError" if name == "Own" else name)
    assert do(world, "echo", 1) == 1, "the service goes on"


@pytest.mark.parametrize("verb", ["generator", "no_json", "nan", "reject", "no_such_verb"])
def test_a_service_that_cannot_answer_is_an_error_of_its_own(world: World, verb: str) -> None:
    with pytest.raises(RemoteError):
        do(world, verb)
    assert do(world, "echo", 1) == 1


@pytest.mark.parametrize(
    "target", ["NODE-01.test.nowhere", "NODE-01.nowhere.do", "NODE-01.log.note", "NODE-01.TEST.do"]
)
def test_a_service_that_is_not_there_is_named(world: World, target: str) -> None:
    with pytest.raises(UnknownService, match=target.partition(".")[2]):
        world.sender.call(target)


def test_a_node_that_is_not_there_is_named_at_once(world: World) -> None:
    began = world.now
    with pytest.raises(NodeUnavailable, match="NODE-02"):
        world.sender.call("NODE-02.test.do", timeout=60)
    assert world.now - began < 30


@pytest.mark.parametrize("target", ["", "NODE-01", "NODE-01.test", "a.b.c.d", "NODE 01.test.do", "NODE-01..do"])
def test_an_address_that_is_none_is_refused(world: World, target: str) -> None:
    with pytest.raises(AddressError):
        world.sender.call(target)


@pytest.mark.parametrize("timeout", [-1, float("nan"), float("inf"), "5"])
def test_a_limit_that_is_none_is_refused(world: World, timeout: Any) -> None:
    with pytest.raises(DurationError):
        do(world, "echo", 1, timeout=timeout)


def test_a_sender_with_another_secret_is_refused(world: World) -> None:
    stranger = world.make_sender(secret_token="another secret of the test")
    with pytest.raises(CallRefused):
        stranger.call(DO, ["echo", 1])
    assert not world.history.only("executed")


def test_a_service_of_2x_answers(world: World) -> None:
    assert world.sender.call(f"{NODE}.test.old", {"a": 1})[1] == {"a": 1}


def test_what_a_service_keeps_in_itself_is_not_there_for_the_next_request(world: World) -> None:
    assert [do(world, "remember", number) for number in range(3)] == [None] * 3


# -- busy --------------------------------------------------------------------------------------------------------------


def test_a_service_that_says_not_now_is_asked_again_until_the_deadline(world: World) -> None:
    with pytest.raises((ServiceBusy, CallTimeout)):
        do(world, "retry", 0.05, timeout=0.5)
    world.rest()
    assert do(world, "echo", 1) == 1


def test_more_calls_than_an_inbox_holds_are_all_answered(world: World) -> None:
    futures = [world.sender.call_async(ALONE, ["echo", number], 60) for number in range(400)]
    assert [future.result()[1] for future in futures] == list(range(400))
    assert len(world.history.only("executed")) == 400


# -- deadlines ---------------------------------------------------------------------------------------------------------


@pytest.mark.costly
def test_a_caller_waits_no_longer_than_it_said(world: World) -> None:
    assert world.sender.ping(NODE)
    with pytest.raises(CallTimeout):
        do(world, "until_cancelled", timeout=0.5)


@pytest.mark.costly
def test_a_call_whose_deadline_has_passed_is_not_run(world: World) -> None:
    first = world.sender.call_async(ALONE, ["until_cancelled"], 60)
    world.until(lambda: notes(world) == 1)
    second = world.sender.call_async(ALONE, ["echo", 1], 0.5)
    with pytest.raises(CallTimeout):
        second.result()
    first.cancel()
    world.until(lambda: notes(world) == 2)
    assert world.sender.call(ALONE, ["echo", 2])[1] == 2
    runs = [entry.id for entry in world.history.only("executed") if not entry.detail]
    assert getattr(second, "wire_id") not in runs  # noqa: B009 - of a CallFuture


@pytest.mark.parametrize("timeout", [5.0, 60.0])
def test_the_deadline_travels_with_the_call(world: World, timeout: float) -> None:
    left = do(world, "remaining", timeout=timeout)
    assert timeout - 4 < left <= timeout


@pytest.mark.costly
def test_a_nested_call_ends_with_that_around_it(world: World) -> None:
    with pytest.raises((CallTimeout, RemoteError)):
        do(world, "ask", ALONE, ["until_cancelled"], timeout=1.0)


# -- cancelling --------------------------------------------------------------------------------------------------------


def notes(world: World) -> int:
    """How many messages were executed: what waits to be cancelled sends one when it begins, and one at its end."""
    return sum(entry.target == "log.note" for entry in world.history.only("executed"))


@pytest.mark.costly
def test_a_caller_that_gives_up_is_seen_by_the_service(world: World) -> None:
    future = world.sender.call_async(DO, ["until_cancelled"], 60)
    world.until(lambda: notes(world) == 1)
    assert future.cancel()
    world.until(lambda: notes(world) == 2)
    with pytest.raises(CancelledError):
        future.result()


@pytest.mark.costly
def test_a_caller_that_gives_up_cancels_the_task_of_an_asynchronous_service(world: World) -> None:
    future = world.sender.call_async(f"{NODE}.shop.wait", [30.0], 60)
    world.until(lambda: notes(world) == 1)
    assert future.cancel()
    world.until(lambda: notes(world) == 2)


@pytest.mark.costly
def test_what_is_cancelled_before_it_began_is_not_run(world: World) -> None:
    first = world.sender.call_async(ALONE, ["until_cancelled"], 60)
    world.until(lambda: notes(world) == 1)
    second = world.sender.call_async(ALONE, ["echo", 1], 60)
    assert second.cancel()
    first.cancel()
    world.until(lambda: notes(world) == 2)
    assert world.sender.call(ALONE, ["echo", 2])[1] == 2
    world.rest()
    done = [entry.id for entry in world.history.only("executed") if not entry.detail]
    assert getattr(second, "wire_id") not in done  # noqa: B009 - of a CallFuture


# -- many at a time ----------------------------------------------------------------------------------------------------


def test_many_calls_are_under_way_at_a_time(world: World) -> None:
    futures = [world.sender.call_async(DO, ["echo", number]) for number in range(64)]
    assert [future.result()[1] for future in futures] == list(range(64))
    for future in futures:
        world.assert_executed_once(future)


def test_many_threads_share_a_sender(world: World) -> None:
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda number: do(world, "echo", number), range(64)))
    assert results == list(range(64))


@pytest.mark.costly
def test_the_threads_of_a_service_run_side_by_side(world: World) -> None:
    futures = [world.sender.call_async(DO, ["until_cancelled"], 60) for _ in range(3)]
    assert do(world, "echo", 1) == 1
    assert not any(future.done() for future in futures)
    world.until(lambda: notes(world) == 3)
    for future in futures:
        future.cancel()
    world.until(lambda: notes(world) == 6)


def test_a_service_with_one_thread_runs_one_at_a_time(world: World) -> None:
    futures = [world.sender.call_async(ALONE, ["sleep", 0.05]) for _ in range(4)]
    assert are_apart([future.result()[1] for future in futures])


@pytest.mark.parametrize("service", ["locked", "node"])
def test_what_has_the_same_lock_runs_one_at_a_time_whichever_broker_it_came_over(world: World, service: str) -> None:
    world.sender.ping_all(NODE)
    target = f"{NODE}.test.{service}"
    futures = [world.sender.call_async(target, ["key", 0.05], reverse=bool(n % 2)) for n in range(6)]
    assert are_apart([future.result()[1] for future in futures])
    assert {entry.broker for entry in world.history.only("executed")} == {"mq-1", "mq-2"}


def test_what_has_other_locks_runs_side_by_side(world: World) -> None:
    first = world.sender.call_async(f"{NODE}.test.locked", ["a", 3.0])
    assert world.sender.call(f"{NODE}.test.locked", ["b", 0.0])
    assert not first.done()
    first.cancel()


def are_apart(intervals: list[list[float]]) -> bool:
    intervals.sort()
    return all(first[1] <= second[0] for first, second in itertools.pairwise(intervals))


# -- other ways to ask -------------------------------------------------------------------------------------------------


def test_a_ping_finds_the_node_on_each_broker(world: World) -> None:
    assert world.sender.ping(NODE) and world.sender.ping_error(NODE) is None
    assert world.sender.ping_all(NODE) == (2, 2)
    assert not world.sender.ping("NODE-02", timeout=1)


def test_a_node_says_what_it_offers(world: World) -> None:
    assert world.sender.offers(DO) and not world.sender.offers(f"{NODE}.test.nowhere")
    assert world.sender.offers(f"{NODE}.log.note", is_call=False)


def test_reverse_prefers_the_last_broker(world: World) -> None:
    world.sender.ping_all(NODE)
    ids = [world.sender.call(DO, ["echo", 1], reverse=reverse)[0] for reverse in (False, True)]
    assert ids == [1, 2]
    assert [entry.broker for entry in world.history.only("executed")] == ["mq-1", "mq-2"]


def test_a_hedged_call_is_run_once(world: World) -> None:
    world.sender.ping_all(NODE)
    event_id, interval = world.sender.call(f"{NODE}.test.idempotent", ["sleep", 0.3], hedge_after=0.1)
    assert interval[1] > interval[0]
    world.rest()
    world.assert_executed_once(event_id)


@pytest.mark.parametrize("verb", ["call", "send"])
def test_a_service_may_ask_others(world: World, verb: str) -> None:
    if verb == "call":
        assert do(world, "ask", f"{NODE}.test.old", [1]) == [1]
    else:
        do(world, "tell", f"{NODE}.log.note", ["notes"])
        world.until(lambda: [e for e in world.history.only("executed") if e.target == "log.note"])


def test_a_closed_sender_says_so(world: World) -> None:
    sender = world.make_sender()
    assert sender.call(DO, ["echo", 1])[1] == 1
    sender.close()
    assert world.sender.call(DO, ["echo", 2])[1] == 2, "another one goes on"


class Shouting(Middleware):
    def call(self, outgoing: Outgoing, proceed: Any) -> Any:
        return self._louder(proceed())

    async def call_async(self, outgoing: Outgoing, proceed: Any) -> Any:
        return self._louder(await proceed())

    def _louder(self, answer: Any) -> Any:
        event_id, value = answer
        return event_id, f"{value}!"


def test_middleware_goes_around_services_and_around_calls(world: World) -> None:
    assert do(world, "echo", "shout") == "SHOUT"
    sender = world.make_sender(middleware=[Shouting()])
    assert sender.call(DO, ["echo", "hello"])[1] == "hello!"
    assert sender.call_async(DO, ["echo", "hello"]).result()[1] == "hello!"


# -- asyncio -----------------------------------------------------------------------------------------------------------


def test_a_task_calls(world: World) -> None:
    async def test(sender: AsyncSender) -> Any:
        return await sender.call(DO, ["add", 1, 2])

    assert in_asyncio(world, test) == (1, 3)
    world.assert_executed_once(1)


def test_hundred_tasks_call(world: World) -> None:
    async def test(sender: AsyncSender) -> list[Any]:
        return [result for _, result in await asyncio.gather(*[sender.call(DO, ["echo", n]) for n in range(100)])]

    assert in_asyncio(world, test) == list(range(100))


def test_a_task_gets_the_services_error(world: World) -> None:
    async def test(sender: AsyncSender) -> None:
        with pytest.raises(RemoteError, match="of the test"):
            await sender.call(DO, ["raises", "ValueError", "of the test"])
        with pytest.raises(UnknownService):
            await sender.call(f"{NODE}.test.nowhere")
        with pytest.raises(InvalidParams):
            await sender.call(f"{NODE}.shop.total", {"price": "x"})

    in_asyncio(world, test)


@pytest.mark.costly
def test_a_task_that_is_cancelled_cancels_its_call(world: World) -> None:
    async def test(sender: AsyncSender) -> None:
        task = asyncio.ensure_future(sender.call(DO, ["until_cancelled"], 60))
        while notes(world) != 1:
            await sender.call(f"{NODE}.test.old", 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    in_asyncio(world, test)
    world.until(lambda: notes(world) == 2)


def test_a_task_sends(world: World) -> None:
    async def test(sender: AsyncSender) -> Any:
        return await sender.send(f"{NODE}.log.note", ["notes"])

    receipt = in_asyncio(world, test)
    world.until(lambda: world.history.only("executed"))
    world.assert_executed_once(receipt)
