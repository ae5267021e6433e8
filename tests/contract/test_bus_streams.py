"""Streams, whatever carries them: the same in memory and on RabbitMQ."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
from bus_worlds import NODE, World, in_asyncio
from stream_services import Row, Spoilt, numbers, rows, spoils, streams, tasks

from servicebus.aio import AsyncSender
from servicebus.errors import (
    CallRefused,
    CallTimeout,
    InvalidParams,
    NodeUnavailable,
    RemoteError,
    StreamInterrupted,
    UnknownService,
)
from servicebus.middleware import Middleware, Outgoing
from servicebus.sender import ItemStream

PLAIN = ("numbers", "tasks")
RESUMABLE = ("resumes", "resumes_async")


def asked(world: World, name: str, params: Any = None, *what: Any, **how: Any) -> ItemStream[Any]:
    return world.sender.stream(f"{NODE}.stream.{name}", params, *what, **how)


def known(world: World, name: str) -> list[int]:
    found: list[int] = world.sender.call(f"{NODE}.stream.known", [name])[1]
    return found


def taken(stream: Any, count: int) -> list[Any]:
    return [next(stream) for _ in range(count)]


# -- items -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*PLAIN, *RESUMABLE])
@pytest.mark.parametrize("count", [0, 1, 7, 5000])
def test_all_items_come_in_order(world: World, name: str, count: int) -> None:
    assert list(asked(world, name, {"count": count})) == list(range(count))


@pytest.mark.parametrize("name", ["countdown", "old"])
def test_a_generator_of_a_class_is_a_stream(world: World, name: str) -> None:
    assert list(asked(world, name, [4])) == [4, 3, 2, 1]


@pytest.mark.parametrize("name", [*PLAIN, *RESUMABLE])
@pytest.mark.parametrize("prefetch", [1, 2, 7])
def test_a_small_prefetch_changes_nothing_of_the_items(world: World, name: str, prefetch: int) -> None:
    assert list(asked(world, name, {"count": 50}, prefetch=prefetch)) == list(range(50))


def test_items_are_what_the_function_yields(world: World) -> None:
    client = world.sender.client(NODE, streams)
    expected = [Row(id=number, text="]]>" * (number % 3) + "ü🐇") for number in range(9)]
    assert list(client.rows(9)) == expected
    assert list(client.stream(rows, 9)) == expected
    assert list(client.stream(tasks, 3)) == [0, 1, 2]


@pytest.mark.parametrize("size", [100, 70_000, 1_500_000])
def test_large_items_come_whole_and_in_order(world: World, size: int) -> None:
    assert [(item[0], len(item)) for item in asked(world, "texts", [5, size])] == [(str(n), size) for n in range(5)]


def test_an_item_that_no_chunk_holds_is_the_services_error(world: World) -> None:
    with pytest.raises(RemoteError, match="oversized"):
        list(asked(world, "texts", [1, 9_000_000]))
    assert list(asked(world, "texts", [1, 1])) == ["0"]


def test_many_streams_run_side_by_side(world: World) -> None:
    running = [asked(world, "numbers", {"count": 300}, prefetch=10) for _ in range(4)]
    found = [[next(stream) for stream in running] for _ in range(300)]
    assert found == [[number] * 4 for number in range(300)]


def test_calls_go_on_beside_a_stream_that_waits(world: World) -> None:
    stream = asked(world, "numbers", {"count": 100_000}, prefetch=2)
    assert taken(stream, 3) == [0, 1, 2]
    assert [world.sender.call(f"{NODE}.test.do", ["echo", n])[1] for n in range(20)] == list(range(20))
    assert next(stream) == 3


def test_a_service_may_pass_a_stream_on(world: World) -> None:
    assert list(asked(world, "relays", [2500])) == list(range(2500))


# -- flow --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLAIN)
def test_a_generator_runs_no_further_than_its_reader_takes(world: World, name: str) -> None:
    mark = f"flow {name}"
    stream = asked(world, name, {"count": 100_000, "name": mark}, prefetch=10)
    for expected in range(101):
        assert next(stream) == expected
    world.rest()
    assert 101 <= known(world, mark)[1] <= 101 + 10 + 1
    assert known(world, mark)[2] == 0


def test_large_items_are_bounded_by_their_bytes(world: World) -> None:
    stream = asked(world, "texts", [1000, 400_000])
    assert len(next(stream)) == 400_000
    world.rest()
    inbox: Any = stream._inbox
    assert 0 < len(inbox._chunks) <= 3


# -- the end -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 3, 2500])
def test_what_the_generator_raises_comes_behind_its_items(world: World, count: int) -> None:
    stream, found = asked(world, "spoils", [count, ""]), []
    with pytest.raises(RemoteError, match="ValueError: it broke"):
        for item in stream:
            found.append(item)
    assert found == list(range(count))
    assert list(stream) == []


def test_a_declared_error_arrives_as_its_class(world: World) -> None:
    with pytest.raises(Spoilt) as caught:
        list(world.sender.client(NODE, streams).stream(spoils, 4, "declared"))
    assert caught.value.at == 4


@pytest.mark.parametrize(
    ("how", "error"), [("no json", "InvalidResult|EnvelopeError"), ("exit", "SystemExit"), ("retry", "Retry")]
)
def test_other_ends_are_the_services_error(world: World, how: str, error: str) -> None:
    with pytest.raises(RemoteError, match=error):
        list(asked(world, "spoils", [2, how]))
    assert list(asked(world, "numbers", {"count": 2})) == [0, 1]


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("how", ["close", "drop", "with"])
def test_a_reader_that_stops_closes_the_generator(world: World, name: str, how: str) -> None:
    mark = f"{how} {name}"
    stream: Any = asked(world, name, {"count": 10**9, "name": mark}, prefetch=8)
    if how == "with":
        with stream:
            assert next(stream) == 0
    else:
        assert next(stream) == 0
        if how == "close":
            stream.close()
            stream.close()
    del stream
    gc.collect()
    world.until(lambda: known(world, mark)[2] == 1)
    assert known(world, mark)[:1] == [1]


def test_a_closed_stream_has_no_items(world: World) -> None:
    stream = asked(world, "numbers", {"count": 10})
    assert next(stream) == 0
    stream.close()
    assert list(stream) == []


# -- times -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLAIN)
def test_an_item_that_takes_too_long_ends_it(world: World, name: str) -> None:
    mark = f"late {name}"
    stream = asked(world, name, {"count": 3, "pause": 1.0, "name": mark}, item_timeout=0.3)
    with pytest.raises(CallTimeout):
        next(stream)
    world.until(lambda: known(world, mark)[2] == 1)


@pytest.mark.parametrize("name", PLAIN)
def test_the_whole_of_it_has_a_deadline(world: World, name: str) -> None:
    mark = f"deadline {name}"
    stream = asked(world, name, {"count": 10**9, "pause": 0.05, "name": mark}, 1.0)
    found = []
    with pytest.raises(CallTimeout):
        for item in stream:
            found.append(item)
    assert found and found == list(range(len(found)))
    world.until(lambda: known(world, mark)[2] == 1)


@pytest.mark.parametrize("name", PLAIN)
def test_one_without_a_deadline_outlives_the_time_in_which_it_has_to_begin(world: World, name: str) -> None:
    """No token has to be good for it then; ``token_max_age`` was its limit once."""
    assert list(asked(world, name, {"count": 5, "pause": 0.5}, item_timeout=2)) == list(range(5))


def test_a_slow_stream_within_its_times_is_waited_for(world: World) -> None:
    assert list(asked(world, "numbers", {"count": 4, "pause": 0.6}, item_timeout=30)) == [0, 1, 2, 3]


# -- what is no stream -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["numbers", "tasks", "countdown"])
def test_a_call_to_a_stream_says_so(world: World, name: str) -> None:
    with pytest.raises(CallRefused, match=r"is a stream; ask for it by stream\(\)") as caught:
        world.sender.call(f"{NODE}.stream.{name}", [3])
    assert caught.value.reason == "is-stream"


def test_a_stream_of_what_answers_one_result_says_so(world: World) -> None:
    with pytest.raises(CallRefused, match=r"gives one result; ask for it by call\(\)") as caught:
        next(asked(world, "known", ["x"]))
    assert caught.value.reason == "no-stream"


def test_an_unknown_service_is_unknown(world: World) -> None:
    with pytest.raises(UnknownService):
        next(asked(world, "nothing"))


def test_a_bad_request_is_refused_before_it_begins(world: World) -> None:
    with pytest.raises(InvalidParams):
        next(asked(world, "numbers", {"count": "many"}))


def test_a_position_is_for_a_service_that_is_resumable(world: World) -> None:
    assert list(asked(world, "resumes", {"count": 5}, position=3)) == [3, 4]
    assert list(asked(world, "countdown", [5], position=3)) == [2, 1]
    with pytest.raises(CallRefused) as caught:
        list(asked(world, "numbers", {"count": 5}, position=3))
    assert caught.value.reason == "not-resumable"


@pytest.mark.parametrize("how", [{"prefetch": 0}, {"prefetch": True}, {"prefetch": "1"}, {"position": -1}])
def test_what_is_no_number_is_refused(world: World, how: Any) -> None:
    with pytest.raises(ValueError, match="must be a whole number"):
        asked(world, "numbers", {"count": 1}, **how)


def test_a_stream_is_found_and_offered(world: World) -> None:
    found = {each.name: each.kind for each in world.sender.services()}
    assert found["stream.numbers"] == "stream" and found["stream.known"] == "call"
    assert world.sender.offers(f"{NODE}.stream.numbers")
    described = {each.key: each for each in world.sender.describe(NODE)}
    assert described["stream.rows"].kind == "stream"
    assert described["stream.rows"].result["properties"]["id"] == {"type": "integer"}
    assert described["stream.resumes"].options["resumable"] is True


# -- around it ---------------------------------------------------------------------------------------------------------


def test_a_context_comes_with_it(world: World) -> None:
    assert dict(asked(world, "context", context={"tenant": "a"})) == {"tenant": "a"}


def test_a_lock_is_held_as_long_as_the_stream(world: World) -> None:
    both = [asked(world, "locked", {"key": "k"}) for _ in range(2)]
    first, second = (list(stream) for stream in both)
    assert first[1] <= second[0] or second[1] <= first[0]


class Marks(Middleware):
    def __init__(self) -> None:
        self.asked: list[str] = []

    def call(self, outgoing: Outgoing, proceed: Callable[[], Any]) -> Any:
        self.asked.append(f"{outgoing.kind} {outgoing.target}")
        outgoing.context["tenant"] = "of the middleware"
        return proceed()

    async def call_async(self, outgoing: Outgoing, proceed: Callable[[], Any]) -> Any:
        self.asked.append(f"{outgoing.kind} {outgoing.target}")
        outgoing.context["tenant"] = "of the middleware"
        return await proceed()


def test_middleware_is_around_the_request(world: World) -> None:
    marks = Marks()
    sender = world.make_sender(middleware=[marks])
    assert dict(sender.stream(f"{NODE}.stream.context")) == {"tenant": "of the middleware"}

    async def ask(_sender: AsyncSender) -> Any:
        return [item async for item in AsyncSender.of(sender).stream(f"{NODE}.stream.context")]

    assert in_asyncio(world, ask) == [["tenant", "of the middleware"]]
    assert marks.asked == [f"stream {NODE}.stream.context"] * 2


# -- asyncio -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*PLAIN, *RESUMABLE])
def test_a_task_reads_a_stream(world: World, name: str) -> None:
    async def read(sender: AsyncSender) -> list[Any]:
        return [item async for item in sender.stream(f"{NODE}.stream.{name}", {"count": 3000})]

    assert in_asyncio(world, read) == list(range(3000))


@pytest.mark.parametrize("name", PLAIN)
def test_a_task_that_stops_closes_the_generator(world: World, name: str) -> None:
    mark = f"task {name}"

    async def read(sender: AsyncSender) -> list[Any]:
        found = []
        async with sender.stream(f"{NODE}.stream.{name}", {"count": 10**9, "name": mark}, prefetch=8) as stream:
            async for item in stream:
                found.append(item)
                if item == 20:
                    break
        return found

    assert in_asyncio(world, read) == list(range(21))
    world.until(lambda: known(world, mark)[2] == 1)


def test_the_errors_of_a_stream_are_raised_in_the_task(world: World) -> None:
    async def read(sender: AsyncSender) -> None:
        client = sender.client(NODE, streams)
        with pytest.raises(Spoilt):
            [item async for item in client.spoils(3, "declared")]
        with pytest.raises(CallRefused, match="gives one result"):
            [item async for item in sender.stream(f"{NODE}.stream.known", ["x"])]
        assert [item async for item in client.stream(numbers, 3)] == [0, 1, 2]

    in_asyncio(world, read)


# -- what breaks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLAIN)
def test_a_broker_that_dies_interrupts_it(world: World, name: str) -> None:
    stream, found = asked(world, name, {"count": 10**6}, prefetch=20), []
    found += taken(stream, 15)
    world.brokers[0].kill()
    with pytest.raises(StreamInterrupted) as caught:
        for item in stream:
            found.append(item)
    assert found == list(range(caught.value.position)) and len(found) < 100
    world.brokers[0].start()


@pytest.mark.parametrize("name", RESUMABLE)
@pytest.mark.parametrize("fault", ["kill", "stop", "cut", pytest.param("freeze", marks=pytest.mark.costly)])
def test_a_resumable_stream_goes_on_over_the_next_broker(world: World, name: str, fault: str) -> None:
    stream = asked(world, name, {"count": 400}, prefetch=20)
    found = taken(stream, 15)
    getattr(world.brokers[0], fault)()
    found += list(stream)
    assert found == list(range(400))
    if fault in ("kill", "stop"):
        world.brokers[0].start()
    elif fault == "freeze":
        world.brokers[0].thaw()


def test_a_resumable_stream_outlives_one_broker_after_the_other(world: World) -> None:
    stream, found = asked(world, "resumes", {"count": 300}, prefetch=10), []
    for broker in (world.brokers[0], world.brokers[1], world.brokers[0]):
        found += taken(stream, 50)
        broker.kill()
        broker.start()
    assert found + list(stream) == list(range(300))


@pytest.mark.parametrize("how", ["stop", pytest.param("kill", marks=pytest.mark.costly)])
@pytest.mark.parametrize("name", RESUMABLE)
def test_a_resumable_stream_goes_on_when_its_node_comes_back(world: World, name: str, how: str) -> None:
    stream = asked(world, name, {"count": 200}, prefetch=10)
    found = taken(stream, 15)
    getattr(world.node, how)()
    world.node.start()
    world.until(lambda: world.sender.ping(NODE, timeout=1))  # a real one may take longer than a call waits for a path
    found += list(stream)
    assert found == list(range(200))


def test_a_node_that_stops_interrupts_it(world: World) -> None:
    stream = asked(world, "numbers", {"count": 10**6}, prefetch=10)
    found = taken(stream, 5)
    world.node.stop()
    with pytest.raises(StreamInterrupted, match=r"stopping|gone|no agent") as caught:
        found += list(stream)
    assert caught.value.position < 100
    world.node.start()


def test_a_resumable_stream_whose_node_does_not_come_back_says_where_it_was(world: World) -> None:
    sender = world.make_sender(path_wait=1.0)
    stream = sender.stream(f"{NODE}.stream.resumes", {"count": 10**6}, prefetch=10)
    found = taken(stream, 5)
    world.node.stop()
    with pytest.raises(StreamInterrupted) as caught:
        for item in stream:
            found.append(item)
    assert found == list(range(caught.value.position))
    assert isinstance(caught.value.__cause__, NodeUnavailable)
    world.node.start()
