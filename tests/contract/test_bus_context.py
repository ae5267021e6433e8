"""The context of calls and messages, whatever carries them: the same in memory and on RabbitMQ."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import bus_services
import pytest
from bus_worlds import NODE, World

from servicebus.errors import EnvelopeError
from servicebus.middleware import Middleware, Outgoing
from servicebus.testing import HistoryEntry

DO = f"{NODE}.test.do"
NOTE = f"{NODE}.log.note"
TRACE = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "tracestate": "vendor=t61rcWkgMzE"}


def asked(world: World, target: str, params: Any, **how: Any) -> Any:
    return world.sender.call(f"{NODE}.{target}", params, **how)[1]


def entry(world: World, what: Any, event_id: int) -> HistoryEntry:
    """What happened to a message of ``world.sender``, when it has."""

    def found() -> list[HistoryEntry]:
        ids = {each.id for each in world.history if each.event_id == event_id}
        return [each for each in world.history.only(what) if each.id in ids]

    world.until(lambda: bool(found()))
    return found()[0]


# -- there -------------------------------------------------------------------------------------------------------------

SERVICES = {"class": ("test.do", ["context"]), "typed": ("shop.context", []), "async": ("shop.context_async", [])}
VALUES: dict[str, dict[str, str]] = {
    "trace": TRACE,
    "empty value": {"k": ""},
    "odd keys": {"a.b-c_0": "1", "-": "2", "k" * 64: "3"},
    "markup": {"k": "</context><params><![CDATA[ ]]>&amp;\"'\\"},
    "languages": {"k": "Grüße, 東京, Ελλάδα, مرحبا 🐇"},
    "full": {"k": "v" * (4096 - len('{"k":""}'))},
}


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("name", VALUES)
def test_a_service_gets_the_context_of_its_call(world: World, name: str, service: str) -> None:
    target, params = SERVICES[service]
    assert asked(world, target, params, context=VALUES[name]) == VALUES[name]
    assert dict(world.history.only("called")[0].context) == VALUES[name]


@pytest.mark.parametrize("service", SERVICES)
def test_a_call_without_a_context_has_none(world: World, service: str) -> None:
    target, params = SERVICES[service]
    assert asked(world, target, params) == {}
    assert asked(world, target, params, context={}) == {}
    assert asked(world, target, params, context=TRACE) == TRACE
    assert asked(world, target, params) == {}, "nothing of the call before is left"


@pytest.mark.parametrize(
    "context",
    [{"K": "v"}, {"k": 1}, {"k": "a\nb"}, {"k": "\ud800"}, {"k": "v" * 4096}, "k=v"],
    ids=["key", "number", "control", "surrogate", "large", "text"],
)
@pytest.mark.parametrize("verb", ["call", "call_async", "send", "send_async"])
def test_what_is_no_context_is_refused_before_anything_is_sent(world: World, verb: str, context: Any) -> None:
    with pytest.raises(EnvelopeError, match="unencodable: context: "):
        getattr(world.sender, verb)(DO if "call" in verb else NOTE, ["echo", 1], context=context)
    world.rest()
    assert not world.history.only("executed")


@pytest.mark.parametrize("delay", [None, 0.2])
def test_a_message_has_its_context_when_it_is_executed(world: World, delay: float | None) -> None:
    receipts = [world.sender.send(NOTE, ["notes"], delay=delay, context=TRACE)]
    receipts.append(world.sender.send_async(NOTE, ["notes"], delay=delay, context=TRACE).result())
    assert [dict(entry(world, "executed", each).context) for each in receipts] == [TRACE, TRACE]


def test_each_attempt_of_a_message_and_its_dead_letter_have_its_context(world: World) -> None:
    receipt = world.sender.send(NOTE, ["retries", 9, 0.01], context=TRACE)
    assert dict(entry(world, "dead-lettered", receipt).context) == TRACE
    assert [dict(each.context) for each in world.history.only("retried")] == [TRACE] * 4


def test_tasks_and_clients_send_it_too(world: World) -> None:
    async def work() -> tuple[Any, Any, Any]:
        sender = world.async_sender
        client = sender.client(NODE, bus_services.shop, context=TRACE)
        call = await sender.call(f"{NODE}.shop.context", context=TRACE)
        return call[1], await sender.send(NOTE, ["notes"], context=TRACE), await client.context_async()

    call, receipt, result = asyncio.run(work())
    assert call == result == TRACE
    assert dict(entry(world, "executed", receipt).context) == TRACE
    client = world.sender.client(NODE, bus_services.shop, context=TRACE)
    assert client.context() == client.context_async() == TRACE
    assert client.send(bus_services.restocked, "a", 1)
    assert dict(world.history.only("sent")[-1].context) == TRACE


def test_a_gather_sends_it_to_each_node(world: World) -> None:
    assert world.sender.gather("NODE-*.test.do", ["context"], context=TRACE).results == {NODE: TRACE}
    gathered = asked(world, "test.do", ["gather", "NODE-*.shop.context", {"tenant": "a"}], context=TRACE)
    assert gathered == {NODE: {**TRACE, "tenant": "a"}}
    with pytest.raises(EnvelopeError, match="context: the key 'K'"):
        world.sender.gather("NODE-*.test.do", ["context"], context={"K": "v"})


# -- further on --------------------------------------------------------------------------------------------------------

GIVEN = {
    "nothing": (None, TRACE),
    "more": ({"tenant": "a"}, {**TRACE, "tenant": "a"}),
    "another": ({"tracestate": "b"}, {**TRACE, "tracestate": "b"}),
    "none of one": ({"tracestate": None}, {"traceparent": TRACE["traceparent"]}),
    "none of all": (dict.fromkeys(TRACE), {}),
}


@pytest.mark.parametrize("name", GIVEN)
def test_what_a_service_asks_inherits_its_context(world: World, name: str) -> None:
    given, arrives = GIVEN[name]
    assert asked(world, "test.do", ["ask", f"{NODE}.shop.context", None, given], context=TRACE) == arrives
    asked(world, "test.do", ["tell", NOTE, ["notes"], given], context=TRACE)
    world.until(lambda: any(each.target == "log.note" for each in world.history.only("executed")))
    (told,) = (each for each in world.history.only("executed") if each.target == "log.note")
    assert dict(told.context) == arrives


@pytest.mark.parametrize("way", ["await", "task", "thread"])
def test_what_a_task_asks_inherits_its_context(world: World, way: str) -> None:
    with_trace = world.sender.call_async(f"{NODE}.shop.ask_async", [DO, ["context", 0.05], way], context=TRACE)
    other = world.sender.call_async(f"{NODE}.shop.ask_async", [DO, ["context", 0.05], way], context={"k": "v"})
    none = world.sender.call_async(f"{NODE}.shop.ask_async", [DO, ["context"], way])
    assert [each.result()[1] for each in (with_trace, other, none)] == [TRACE, {"k": "v"}, {}]


def test_it_goes_through_services_of_every_form_and_middleware_adds_to_it(world: World) -> None:
    chain = ["ask", f"{NODE}.shop.ask_async", [f"{NODE}.shop.context", None, "await"]]
    asked(world, "test.do", ["ask", DO, chain], context={"hops": "none"})
    hops = [each.context["hops"] for each in world.history.only("executed")]
    assert sorted(hops, key=len) == ["none", "none do", "none do do", "none do do ask_async"]
    assert asked(world, "shop.context", [], context={"hops": "none"}) == {"hops": "none context"}


def test_a_thread_of_a_services_own_inherits_it_where_it_is_told_to(world: World) -> None:
    assert asked(world, "test.do", ["ask_in_threads", f"{NODE}.shop.context", None], context=TRACE) == [
        {},
        TRACE,
        TRACE,
    ]


def test_services_that_run_side_by_side_do_not_mix_theirs(world: World) -> None:
    def chain(number: int) -> Any:
        context = {"number": str(number)} if number % 3 else None
        first = (
            ("test.do", ["ask", f"{NODE}.shop.context", None])
            if number % 2
            else ("shop.ask_async", [DO, ["context"], "task"])
        )
        return asked(world, *first, context=context)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(chain, range(40)))
    assert found == [{"number": str(number)} if number % 3 else {} for number in range(40)]


class Tracing(Middleware):
    """Gives each call a number, and takes out what is not to leave the program."""

    def __init__(self) -> None:
        self.numbers = itertools.count(1)

    def _mark(self, outgoing: Outgoing) -> None:
        assert "token" not in repr(outgoing)
        outgoing.context.pop("token", None)
        outgoing.context["traceparent"] = f"00-{next(self.numbers)}"

    def call(self, outgoing: Outgoing, proceed: Callable[[], Any]) -> Any:
        self._mark(outgoing)
        return proceed()

    async def call_async(self, outgoing: Outgoing, proceed: Callable[[], Any]) -> Any:
        self._mark(outgoing)
        return await proceed()


def test_middleware_of_a_sender_reads_and_changes_what_travels(world: World) -> None:
    sender = world.make_sender(middleware=[Tracing()])
    context = {"tenant": "a", "token": "secret"}
    assert sender.call(DO, ["context"], context=context)[1] == {"tenant": "a", "traceparent": "00-1"}
    assert sender.call_async(DO, ["context"], context=context).result()[1] == {"tenant": "a", "traceparent": "00-2"}
    assert sender.call(DO, ["context"])[1] == {"traceparent": "00-3"}
    assert context == {"tenant": "a", "token": "secret"}, "what the program has given is left as it is"


# -- failures ----------------------------------------------------------------------------------------------------------


def test_each_attempt_of_a_hedged_call_has_it(world: World) -> None:
    target, params = f"{NODE}.test.idempotent", ["context", 0.5]
    assert world.sender.call(target, params, hedge_after=0.05, context=TRACE)[1] == TRACE
    assert {tuple(each.context) for each in world.history.only("executed")} == {tuple(TRACE)}


def test_a_call_that_fails_over_has_it_still(world: World) -> None:
    world.until(lambda: world.sender.ping_all(NODE) == (2, 2))
    future = world.sender.call_async(DO, ["context", 0.5], 30, context=TRACE)
    world.sender.call(f"{NODE}.test.old", 1, timeout=30)
    world.brokers[0].cut()
    world.until(future.done)
    assert future.result()[1] == TRACE
    world.assert_executed_once(future)


@pytest.mark.costly
def test_an_outbox_keeps_it(world: World, tmp_path: Path) -> None:
    sender = world.make_sender(outbox=tmp_path / "outbox")
    for broker in world.brokers:
        broker.stop()
    receipt = sender.send(NOTE, ["notes"], timeout=5, context=TRACE)
    assert receipt.in_outbox
    for broker in world.brokers:
        broker.start()
    world.until(lambda: bool(world.history.only("executed")))
    assert dict(world.history.only("executed")[0].context) == TRACE


def test_the_history_shows_it_where_it_is_asked_for_alone(world: World) -> None:
    asked(world, "shop.context", [], context={"token": "hunter2"})
    assert [dict(each.context) for each in world.history] == [{"token": "hunter2"}] * 2
    assert "hunter2" not in repr(world.history) and "hunter2" not in str(world.history)
