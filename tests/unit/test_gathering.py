"""One call at all nodes of a pattern: results, errors, who did not answer, and how many calls are under way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextvars import ContextVar, copy_context
from functools import partial
from typing import Any

import pytest
from virtual_bus import Node, VirtualBus, silence, virtual_bus
from virtual_tasks import VirtualTasks

from servicebus.aio import AsyncSender
from servicebus.client.future import CallFuture
from servicebus.client.gathering import Gathering
from servicebus.errors import (
    AddressError,
    CallError,
    CallTimeout,
    EnvelopeError,
    NoBrokerAvailable,
    NodeUnavailable,
    RemoteError,
    ServiceBusy,
    UnknownService,
)
from servicebus.middleware import Middleware, MiddlewareSender, Outgoing
from servicebus.protocol.discovery import Answer
from servicebus.sender import Gathered
from servicebus.wire.address import Address
from servicebus.wire.fault import Fault

ALL = "*.test.echo"


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualBus]:
    with virtual_bus(monkeypatch) as bus:

        def wait(has_ended: Callable[[], object]) -> None:
            bus.time.until(has_ended)

        bus.loop.wait = wait
        yield bus


def nodes(bus: VirtualBus, count: int) -> list[Node]:
    return [bus.node(name=f"N-{number}") for number in range(1, count + 1)]


def slow_to_be_found(node: Node, seconds: float) -> None:
    node.on_own = partial(lambda answer, *what: node.bus.loop.call_later(seconds, partial(answer, *what)), node.on_own)  # type: ignore[method-assign,assignment]


class Slowly:
    """Lets nodes answer calls after a while, and knows how many are under way."""

    def __init__(self, bus: VirtualBus, nodes: list[Node], seconds: float):
        self.bus, self.seconds = bus, seconds
        self.running = self.most = 0
        for node in nodes:
            node.on_call = partial(self._on_call, node.on_call)  # type: ignore[method-assign]

    def _on_call(self, answer: Callable[..., None], *what: Any) -> None:
        self.running += 1
        self.most = max(self.most, self.running)

        def late() -> None:
            self.running -= 1
            answer(*what)

        self.bus.loop.call_later(self.seconds, late)


# -- what comes of it --------------------------------------------------------------------------------------------------


def test_each_node_is_called_once_and_its_result_is_told(bus: VirtualBus) -> None:
    found = nodes(bus, 5)
    assert bus.sender.gather(ALL, {"a": 1}) == Gathered({f"N-{n}": '{"a":1}' for n in range(1, 6)}, {}, {}, (), {})
    assert [len(node.calls) for node in found] == [1] * 5, "though two brokers reach it"


def test_errors_silence_and_a_missing_service_are_told_apart(bus: VirtualBus) -> None:
    _, raises, silent, busy, lacking = nodes(bus, 5)
    raises.answer = lambda _: Fault("ValueError", "of the test")
    silent.answer = silence
    busy.answer = lambda _: Fault("busy", "full", retry_after_ms=10)
    lacking.services.clear()
    found = bus.sender.gather(ALL, timeout=1)
    assert found.results == {"N-1": "null"} and found.lacking == ("N-5",) and not lacking.calls
    assert {node: type(error) for node, error in found.errors.items()} == {"N-2": RemoteError, "N-4": ServiceBusy}
    assert {node: type(error) for node, error in found.unanswered.items()} == {"N-3": CallTimeout}


def test_nodes_of_other_names_are_not_called(bus: VirtualBus) -> None:
    found = nodes(bus, 3)
    assert list(bus.sender.gather("N-[12].test.echo").results) == ["N-1", "N-2"]
    assert [len(node.calls) for node in found] == [1, 1, 0]


def test_a_node_of_which_some_agents_are_older_is_called(bus: VirtualBus) -> None:
    """The first to answer may not have the service yet."""
    older, newer = bus.node(bus.brokers[0]), bus.node(bus.brokers[1])
    older.services.clear()
    slow_to_be_found(newer, 0.02)
    found = bus.sender.gather(ALL)
    assert list(found.results) == ["NODE-01"] and found.lacking == ()


def test_without_any_node_nothing_is_gathered(bus: VirtualBus) -> None:
    assert bus.sender.gather(ALL) == Gathered({}, {}, {}, (), {})


def test_a_node_that_one_broker_alone_reaches_is_called_over_it(bus: VirtualBus) -> None:
    bus.node(bus.brokers[0], name="N-1")
    bus.node(bus.brokers[1], name="N-2")
    assert sorted(bus.sender.gather(ALL).results) == ["N-1", "N-2"]


def test_a_call_whose_broker_dies_fails_over(bus: VirtualBus) -> None:
    found = nodes(bus, 3)
    Slowly(bus, found, 0.3)
    bus.loop.call_later(0.1, bus.brokers[0].stop)
    gathered = bus.sender.gather(ALL, timeout=20)
    assert sorted(gathered.results) == ["N-1", "N-2", "N-3"] and not gathered.unanswered
    assert all(len({id for _, id, _ in node.calls}) == 1 for node in found), "under its id"


def test_it_goes_on_over_the_brokers_that_are_left(bus: VirtualBus) -> None:
    nodes(bus, 2)
    bus.brokers[0].refuse()
    found = bus.sender.gather(ALL)
    assert len(found.results) == 2 and list(found.unreachable) == ["mq-a:5672"]


# -- whose nodes are given ---------------------------------------------------------------------------------------------


def test_of_given_nodes_each_is_in_the_answer_and_none_is_looked_for(bus: VirtualBus) -> None:
    found = nodes(bus, 3)
    gathered = bus.sender.gather("N-*.test.echo", nodes=["N-1", "N-2", "N-1", "N-77", "OTHER"])
    assert sorted(gathered.results) == ["N-1", "N-2"]
    assert {node: type(error) for node, error in gathered.unanswered.items()} == {"N-77": NodeUnavailable}
    assert [len(node.calls) for node in found] == [1, 1, 0]
    assert not any(node.dispatcher.counters["discoveries"] for node in found)


def test_of_given_nodes_a_service_that_is_missing_is_the_nodes_answer(bus: VirtualBus) -> None:
    bus.node().answer = lambda _: Fault("unknown-service", "test.echo")
    assert isinstance(bus.sender.gather(ALL, nodes=["NODE-01"]).errors["NODE-01"], UnknownService)


def test_no_nodes_are_none(bus: VirtualBus) -> None:
    assert bus.sender.gather(ALL, nodes=[]) == Gathered({}, {}, {}, (), {})


@pytest.mark.parametrize("name", ["", "a.b", "a b"])
def test_a_given_node_that_is_none_is_refused(bus: VirtualBus, name: str) -> None:
    with pytest.raises(AddressError):
        bus.sender.gather(ALL, nodes=[name])


# -- time and number ---------------------------------------------------------------------------------------------------


def test_calls_begin_before_all_nodes_are_found(bus: VirtualBus) -> None:
    """And while one is under way, another node may take longer to be found."""
    found = nodes(bus, 3)
    Slowly(bus, found[:1], 0.5)
    slow_to_be_found(found[1], 0.3)
    slow_to_be_found(found[2], 0.9)
    began = bus.time.now
    assert sorted(bus.sender.gather(ALL, quiet=0.05).results) == ["N-1", "N-2"]
    assert bus.time.now - began == pytest.approx(0.6, abs=0.05)


def test_it_ends_soon_after_the_nodes_that_answered_the_last_time(bus: VirtualBus) -> None:
    """And waits for nodes that are new, or gone, as ever."""
    found = nodes(bus, 20)
    for number, node in enumerate(found):
        slow_to_be_found(node, 0.004 * (number + 1))

    def took() -> float:
        began = bus.time.now
        bus.sender.gather(ALL)
        return bus.time.now - began

    assert took() == pytest.approx(0.16, abs=0.01), "as long again as the last one"
    assert took() == pytest.approx(0.096, abs=0.01), "as long as four of them"
    slow_to_be_found(bus.node(name="NEW"), 0.09)
    assert len(bus.sender.gather(ALL).results) == 21
    began = bus.time.now
    assert len(bus.sender.gather(ALL, quiet=0.3).results) == 21
    assert bus.time.now - began == pytest.approx(0.39, abs=0.01), "as long as was asked for"
    found[0].dispatcher.is_stopping = True
    assert took() == pytest.approx(0.18, abs=0.01), "who is missing may be slow"
    assert took() == pytest.approx(0.108, abs=0.01)


def test_all_of_it_ends_in_time(bus: VirtualBus) -> None:
    found = nodes(bus, 4)
    for node in found:
        node.answer = silence
    began = bus.time.now
    gathered = bus.sender.gather(ALL, timeout=0.5, at_once=2)
    assert bus.time.now - began == pytest.approx(0.5, abs=0.1)
    assert (
        all(isinstance(error, CallTimeout) for error in gathered.unanswered.values()) and len(gathered.unanswered) == 4
    )


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_so_many_calls_are_under_way_at_a_time(bus: VirtualBus, at_once: int) -> None:
    slowly = Slowly(bus, nodes(bus, 7), 0.1)
    assert len(bus.sender.gather(ALL, at_once=at_once).results) == 7
    assert slowly.most == min(at_once, 7)


@pytest.mark.parametrize("at_once", [0, -1, 1.5, True, "2"])
def test_a_number_of_calls_that_is_none_is_refused(bus: VirtualBus, at_once: Any) -> None:
    with pytest.raises(ValueError, match="at_once"):
        bus.sender.gather(ALL, at_once=at_once)


def gathering(call: Callable[..., Any], at_once: int = 1000) -> Gathering:
    return Gathering(Address.parse(ALL), 60.0, at_once, call, copy_context())


def test_calls_that_fail_at_once_do_not_pile_up() -> None:
    def fail(_target: str, _left_s: float) -> Future[Any]:
        if int(_target.partition(".")[0]) % 2:
            raise CallError(_target, "of the test")
        ended = CallFuture()
        ended.set_result((1, "done"))
        return ended

    it = gathering(fail, 10)
    it._add(map(str, range(5000)))
    assert len(it._found.results) == len(it._found.errors) == 2500
    ended: Future[None] = CallFuture()
    ended.set_result(None)
    it._has_found_all(ended)
    assert len(it.future.result().results) == 2500


def test_many_nodes_are_called_with_few_calls_at_a_time() -> None:
    calls: list[CallFuture] = []

    def call(_target: str, _left_s: float) -> Future[Any]:
        calls.append(CallFuture())
        return calls[-1]

    it = gathering(call, 10)
    for number in range(5000):
        it.heard(Answer(f"N-{number}", True), "mq-a")
        it.heard(Answer(f"N-{number}", True), "mq-b")
    done = 0
    while done < 5000:
        assert len(calls) - done <= 10
        calls[done].set_result((done, done))
        done += 1
    assert len(it._found.results) == 5000


# -- what is refused before anything is sent ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "params", "error"),
    [
        ("*.test", 1, AddressError), ("*.*.test.echo", 1, AddressError), (".a.b", 1, AddressError),
        (ALL, float("nan"), EnvelopeError), (ALL, object(), (EnvelopeError, TypeError)),
    ],
)  # fmt: skip
def test_what_cannot_be_sent_is_refused_before_anything_is(
    bus: VirtualBus, target: str, params: Any, error: Any
) -> None:
    with pytest.raises(error):
        bus.sender.gather(target, params)
    assert not any(broker.connects for broker in bus.brokers)


# -- giving up ---------------------------------------------------------------------------------------------------------


def test_a_caller_who_gives_up_cancels_the_calls_at_their_nodes(bus: VirtualBus) -> None:
    found = nodes(bus, 3)
    for node in found:
        node.answer = silence
    it = bus.sender._gather(bus.sender.call_async, ALL, None, 30, None, 0.05, 1000)
    bus.time.advance(0.2)
    assert it.future.cancel()
    bus.time.advance(1)
    assert all(node.cancelled == [node.calls[0][1]] for node in found)
    assert not len(bus.engine.discoveries) and not len(bus.engine._pending)


def test_a_sender_that_is_closed_ends_it(bus: VirtualBus) -> None:
    nodes(bus, 2)[0].answer = silence
    it = bus.sender._gather(bus.sender.call_async, ALL, None, 30, None, 0.05, 1000)
    bus.time.advance(0.2)
    bus.close()
    found = it.future.result()
    assert list(found.results) == ["N-2"] and isinstance(found.errors["N-1"], CallError)


def test_a_sender_that_is_closed_before_any_node_is_found_ends_it(bus: VirtualBus) -> None:
    it = bus.sender._gather(bus.sender.call_async, ALL, None, 30, None, 0.05, 1000)
    bus.close()
    with pytest.raises(CallError, match="closed"):
        it.future.result()


def test_a_thread_that_waits_ends_what_others_have_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    it = gathering(lambda *_: CallFuture())
    it.heard(Answer("N-1", True), "mq-a")
    it.heard(Answer("N-2", False), "mq-a")
    assert not it.is_overdue()
    it.deadline -= 120
    assert it.future.result().lacking == ("N-2",)
    assert isinstance(it.future.result().unanswered["N-1"], CallTimeout)
    assert repr(it) == "<Gathering *.test.echo waiting=0 running=0>"


# -- what is around each call ------------------------------------------------------------------------------------------

OF_THE_CALLER: ContextVar[str] = ContextVar("of the caller", default="")


class Around(Middleware):
    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def call(self, outgoing: Outgoing, proceed: Callable[[], Any]) -> Any:
        raise AssertionError("of calls that are waited for")

    async def call_async(self, outgoing: Outgoing, proceed: Callable[[], Any]) -> Any:
        self.seen.append((outgoing.target, OF_THE_CALLER.get()))
        return await proceed()


def of_middleware(bus: VirtualBus, around: Around) -> MiddlewareSender:
    sender = MiddlewareSender(bus.config, middleware=[around])
    sender._loop_of_process, sender._connect = bus.sender._loop_of_process, bus.sender._connect
    bus.sender = sender
    return sender


def test_middleware_is_around_each_call_in_the_callers_context(bus: VirtualBus) -> None:
    nodes(bus, 2)
    around = Around()
    sender = of_middleware(bus, around)
    OF_THE_CALLER.set("known")
    assert len(sender.gather(ALL).results) == 2
    assert sorted(around.seen) == [("N-1.test.echo", "known"), ("N-2.test.echo", "known")]


# -- tasks -------------------------------------------------------------------------------------------------------------


def test_a_task_gathers_as_a_thread_does(bus: VirtualBus) -> None:
    found = nodes(bus, 3)
    found[1].answer = silence
    tasks = VirtualTasks(bus)
    assert [each.name for each in tasks.run(tasks.sender.nodes())] == ["N-1", "N-2", "N-3"]
    assert [each.name for each in tasks.run(tasks.sender.services())] == ["test.echo"]
    gathered = tasks.run(tasks.sender.gather(ALL, 1, timeout=1))
    assert gathered.results == {"N-1": "1", "N-3": "1"} and list(gathered.unanswered) == ["N-2"]
    for broker in bus.brokers:
        broker.stop()
    bus.time.advance(0.1)
    for ask in (tasks.sender.nodes(), tasks.sender.services(), tasks.sender.gather(ALL)):
        with pytest.raises(NoBrokerAvailable):
            tasks.run(ask)
    assert not tasks.problems


def test_a_task_that_is_cancelled_cancels_the_calls(bus: VirtualBus) -> None:
    (node,) = nodes(bus, 1)
    node.answer = silence
    tasks = VirtualTasks(bus)
    task = tasks.start(tasks.sender.gather(ALL, timeout=30))
    bus.time.advance(0.2)
    task.cancel()
    bus.time.advance(1)
    assert task.cancelled() and node.cancelled == [node.calls[0][1]]
    looking = tasks.start(tasks.sender.nodes())
    looking.cancel()
    bus.time.advance(1)
    assert looking.cancelled() and not len(bus.engine.discoveries) and not tasks.problems


def test_middleware_of_tasks_runs_in_their_loop(bus: VirtualBus) -> None:
    nodes(bus, 2)
    seen: list[Any] = []

    class InTheLoop(Middleware):
        async def call_async(self, outgoing: Outgoing, proceed: Callable[[], Any]) -> Any:
            await asyncio.sleep(0)
            seen.append(asyncio.get_running_loop())
            return await proceed()

    around: Any = InTheLoop()
    around.call = None
    tasks = VirtualTasks(bus)
    sender = AsyncSender.of(bus.sender)
    sender._steps = (InTheLoop().call_async,)
    assert len(tasks.run(sender.gather(ALL)).results) == 2
    assert seen == [tasks.loop] * 2
