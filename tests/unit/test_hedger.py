"""Hedger, Budgets and Canceller: a second copy of a slow call, and what calls that are sent again may cost a node."""

from __future__ import annotations

import pytest
from virtual_bus import NODE, VirtualBus, silence, virtual_bus

from servicebus.client.nodes import RESENDS_FLOOR
from servicebus.errors import ServiceBusy
from servicebus.wire.fault import Fault


def test_a_slow_call_is_asked_over_the_other_broker_too_and_the_first_answer_wins(bus: VirtualBus) -> None:
    slow, fast = bus.node(bus.brokers[0]), bus.node(bus.brokers[1])
    slow.answer, fast.answer = silence, lambda _incoming: "fast"
    began = bus.time.now
    future = bus.call(hedge_after=0.3)
    assert bus.result(future) == "fast"
    assert bus.time.now - began == pytest.approx(0.35, abs=0.06), "the other was connected for it"
    assert [call[1] for call in slow.calls] == [call[1] for call in fast.calls], "the same id"
    assert [call[2] for call in (*slow.calls, *fast.calls)] == [1, 2]
    bus.time.settle()
    assert (slow.cancelled, fast.cancelled) == ([slow.calls[0][1]], [])
    assert bus.engine.status()["hedged"] == 1
    assert all(not link.paths[NODE].outstanding for link in bus.links)


def test_a_call_that_is_answered_in_time_is_not_asked_twice(bus: VirtualBus) -> None:
    node = bus.node()
    bus.result(bus.call(hedge_after=0.3))
    bus.time.advance(5)
    assert len(node.calls) == 1 and bus.engine.status()["hedged"] == 0


def test_one_of_the_two_may_be_lost(bus: VirtualBus) -> None:
    first, second = bus.node(bus.brokers[0]), bus.node(bus.brokers[1])
    first.answer = second.answer = silence
    future = bus.call(hedge_after=0.3)
    bus.time.advance(0.6)
    assert (len(first.calls), len(second.calls)) == (1, 1)
    bus.brokers[0].refuse()
    bus.brokers[0].drop()
    bus.time.advance(1)
    assert not future.done() and len(second.calls) == 1, "the other is still on its way"
    second.answer = lambda _incoming: "again"
    bus.brokers[1].drop()
    second.start(bus.brokers[1])
    assert bus.result(future) == "again"


def test_one_of_the_two_may_find_its_service_busy(bus: VirtualBus) -> None:
    slow, busy = bus.node(bus.brokers[0]), bus.node(bus.brokers[1])
    slow.answer, busy.answer = silence, lambda _incoming: Fault("busy", "full")
    future = bus.call(hedge_after=0.3)
    bus.time.advance(2)
    assert not future.done() and len(busy.calls) == 1
    assert [len(link.paths[NODE].outstanding) for link in bus.links] == [1, 0], "it goes on alone"


def test_without_another_broker_a_slow_call_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with virtual_bus(monkeypatch, hosts=1) as bus:
        node = bus.node()
        node.answer = silence
        future = bus.call(hedge_after=0.3, timeout=10.0)
        bus.time.advance(5)
        assert not future.done() and len(node.calls) == 1


def test_hedges_are_bounded_by_what_a_node_may_get_again(bus: VirtualBus) -> None:
    slow, other = bus.node(bus.brokers[0]), bus.node(bus.brokers[1])
    slow.answer = other.answer = silence
    for _ in range(3 * RESENDS_FLOOR):
        bus.call(hedge_after=0.3, timeout=5.0)
    bus.time.advance(1)
    assert RESENDS_FLOOR <= len(other.calls) <= 2 * RESENDS_FLOOR
    assert bus.engine.status()["held_back"] > 0


def test_a_busy_service_is_asked_again_until_it_answers(bus: VirtualBus) -> None:
    node = bus.node()
    node.answer = lambda _incoming: "room" if len(node.calls) > 3 else Fault("busy", "its inbox is full")
    assert bus.result(bus.call()) == "room"
    assert [attempt for *_, attempt in node.calls] == [1, 2, 3, 4]


def test_one_that_stays_busy_is_told_as_such(bus: VirtualBus) -> None:
    node = bus.node()
    node.answer = lambda _incoming: Fault("busy", "its inbox is full")
    error = bus.error(bus.call(timeout=3.0))
    assert isinstance(error, ServiceBusy) and "its inbox is full" in str(error)
    assert 5 < len(node.calls) < 60


def test_many_callers_of_a_busy_service_are_held_back(bus: VirtualBus) -> None:
    node = bus.node()
    node.answer = lambda _incoming: Fault("busy", "full")
    calls = [bus.call(timeout=3.0) for _ in range(100)]
    bus.time.advance(4)
    assert all(isinstance(call.exception(), ServiceBusy) for call in calls)
    assert len(node.calls) < 400, "each alone would ask dozens of times"
    assert bus.engine.status()["held_back"] > 0
