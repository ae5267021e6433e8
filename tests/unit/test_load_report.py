"""What workers say of their services to an operator who asks for it; and that no other question is answered with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from virtual_bus import VirtualBus, virtual_bus
from virtual_worker import VirtualWorker

import servicebus.testing
from servicebus._discovering import survey
from servicebus.errors import RemoteError
from servicebus.protocol.discovery import Answer, Question, ask_for, read_question
from servicebus.runtime import load_report
from servicebus.services import MessageService, Request, RpcService
from servicebus.testing import MemoryBus
from servicebus.wire.jsontext import encode_json


class Add(RpcService):
    def handle(self, request: Request) -> Any:
        return sum(request.params)


class Note(MessageService):
    def handle(self, request: Request) -> None: ...


def loads(bus: MemoryBus, **how: Any) -> list[Any]:
    """What each worker says, in the order of the brokers."""
    found = survey(bus.sender, 2, 0.25, **{"asks_load": True, **how})
    abouts = [each.answer.about for each in sorted(found.heard, key=lambda each: each.broker)]
    return [None if about is None else about.get("load") for about in abouts]


def of(load: Any, name: str) -> dict[str, Any]:
    return next(each for each in load["services"] if each["name"] == name)


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualBus]:
    with virtual_bus(monkeypatch, hosts=1) as bus:
        yield bus


def test_each_service_is_told_with_what_is_counted() -> None:
    with servicebus.testing.bus({"math.add": Add(), "log.note": Note()}, metrics={}) as bus:
        for _ in range(3):
            bus.sender.call("NODE-01.math.add", [1, 2])
        with pytest.raises(RemoteError):
            bus.sender.call("NODE-01.math.add", "x")
        told = loads(bus)
        names = [broker.name for broker in bus.brokers]
        assert [load["brokers"] for load in told] == [names] * len(names)
        assert sum(of(load, "math.add")["ended"] for load in told) == 4
        assert sum(of(load, "math.add")["failed"] for load in told) == 1
        for what in ("run", "wait"):
            assert sum(sum(of(load, "math.add")[what]) for load in told) == 4
        assert {of(load, "log.note")["kind"] for load in told} == {"message"}
        assert all(of(load, "math.add")["capacity"] > 0 and load["left_out"] == 0 for load in told)


def test_nothing_of_it_is_told_without_the_question() -> None:
    with servicebus.testing.bus({"math.add": Add()}, brokers=1, metrics={}) as bus:
        assert loads(bus, asks_load=False) == [None]


def test_without_metrics_there_are_no_counts() -> None:
    with servicebus.testing.bus({"math.add": Add()}, brokers=1) as bus:
        bus.sender.call("NODE-01.math.add", [1, 2])
        (load,) = loads(bus)
        assert {"kind", "name", "backlog", "capacity"} == of(load, "math.add").keys()


def test_a_caller_with_a_key_of_its_own_is_told_none_of_it() -> None:
    callers = {"shop": {"key": "a key of the shop alone", "allow": "*"}}
    with servicebus.testing.bus({"math.add": Add()}, brokers=1, callers=callers) as bus:
        shop = bus.make_sender(caller="shop")
        found = survey(shop, 2, 0.25, asks_load=True)
        assert [each.answer.about for each in found.heard] == [None]


def test_so_many_services_are_told_and_how_many_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_report, "MOST_SERVICES", 1)
    with servicebus.testing.bus({"b.b": Add(), "a.a": Add(), "c.c": Add()}, brokers=1) as bus:
        (load,) = loads(bus)
        assert [each["name"] for each in load["services"]] == ["a.a"] and load["left_out"] == 2


def test_what_waits_in_an_inbox_is_told(bus: VirtualBus) -> None:
    worker = VirtualWorker(bus).start()
    worker.hold()
    bus.sender.call_async("NODE-01.test.echo", 1)
    worker.time.until(lambda: worker.services[0].backlog)
    assert worker.control.load is not None
    assert of(worker.control.load(), "test.echo")["backlog"] == 1
    assert of(worker.control.load(), "test.note")["backlog"] == 0


def test_journal_outbox_and_problems_are_those_of_the_last_heartbeat(bus: VirtualBus) -> None:
    worker = VirtualWorker(bus).start()
    assert worker.control.load is not None and "journal" not in worker.control.load()
    worker.outbox_messages = lambda: 7
    worker.snapshot()
    load = worker.control.load()
    assert load["outbox"] == 7 and load["journal"]["unfinished"] == 0 and load["problems"] == []
    worker.broker.block("memory")
    worker.time.until(lambda: worker.consumer.blocked)
    assert worker.control.load()["problems"] == [], "it is asked no more often than the master asks"
    worker.snapshot()
    assert worker.control.load()["problems"] == ["the broker is blocked: memory"]


def test_the_question_travels_and_an_older_agent_does_not_see_it() -> None:
    asked = ask_for("*", asks_about=True, asks_load=True)
    assert asked.to_json() == {"nodes": "*", "about": True, "load": True}
    assert read_question(encode_json(asked.to_json())) == asked
    assert "load" not in Question("*", asks_about=True).to_json()
    assert Answer("N", about={"load": {}}).to_json(Question("*", asks_load=True)) == {"node": "N"}, (
        "it is part of about"
    )
