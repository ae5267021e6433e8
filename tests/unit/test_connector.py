"""Connector: which brokers a Sender connects to, in which order, and which it lets go."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from virtual_bus import VirtualBus, virtual_bus

from servicebus.client.nodes import SPARE_AFTER_S


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualBus]:
    with virtual_bus(monkeypatch, hosts=3) as bus:
        yield bus


def connects(bus: VirtualBus) -> list[int]:
    return [broker.connects for broker in bus.brokers]


def attempts_in(bus: VirtualBus, seconds: float) -> list[int]:
    """How often each broker is dialled meanwhile."""
    before = connects(bus)
    bus.time.advance(seconds)
    return [now - then for now, then in zip(connects(bus), before, strict=True)]


def test_nothing_is_connected_before_something_is_asked(bus: VirtualBus) -> None:
    assert bus.state() == ["idle"] * 3
    bus.time.advance(100)
    assert connects(bus) == [0, 0, 0]


def test_only_the_preferred_broker_is_connected_while_it_works(bus: VirtualBus) -> None:
    bus.node()
    bus.result(bus.call())
    bus.time.advance(10)
    assert bus.state() == ["up", "idle", "idle"]


@pytest.mark.parametrize("is_new", [True, False], ids=["new", "connected before"])
def test_a_broker_that_says_nothing_makes_room_for_the_next_after_the_stagger(bus: VirtualBus, is_new: bool) -> None:
    """A new Sender does not wait for it as long as one of those that all come back when a broker does."""
    bus.node()
    if not is_new:
        bus.result(bus.call())
        for link in bus.links:
            link.rest()
        bus.time.advance(1)
    before = connects(bus)
    bus.brokers[0].freeze()
    future = bus.call()
    stagger_s = 0.08 if is_new else bus.config.connect_stagger
    bus.time.advance(stagger_s - 0.01)
    assert not future.done() and connects(bus)[1] == before[1]
    bus.time.advance(0.02)
    assert future.done()
    assert bus.state() == ["connecting", "up", "idle"]
    assert bus.links[0].health.reason == "too slow to connect"
    assert bus.links[0].is_wanted
    bus.brokers[0].thaw()
    bus.result(bus.call())
    bus.time.settle()
    assert bus.state() == ["up", "up", "idle"]
    assert bus.engine.status()["hosts"][1]["preferred"], "it has to prove itself first"


def test_a_broker_that_has_begun_to_answer_is_given_the_whole_stagger(bus: VirtualBus) -> None:
    bus.node()
    before = connects(bus)
    bus.brokers[0].delay_s = 0.03  # there and back, and again for each step
    future = bus.call()
    bus.time.advance(0.2)
    assert not future.done() and connects(bus)[1] == before[1]
    assert bus.links[0].bytes_received > 0


def test_brokers_that_refuse_are_passed_over_at_once(bus: VirtualBus) -> None:
    bus.node()
    bus.brokers[0].refuse()
    bus.brokers[1].refuse()
    began = bus.time.now
    bus.result(bus.call())
    assert bus.time.now == began
    assert bus.state()[2] == "up"


def test_while_somebody_waits_and_has_nothing_else_hosts_are_tried_often(bus: VirtualBus) -> None:
    for broker in bus.brokers:
        broker.refuse()
    bus.call()
    tried = attempts_in(bus, 2.0)
    assert all(3 <= count <= 20 for count in tried), tried


def test_a_preferred_broker_is_knocked_at_while_the_sender_is_in_use_and_then_no_more(bus: VirtualBus) -> None:
    bus.node()
    bus.brokers[0].refuse()
    bus.result(bus.call())
    assert attempts_in(bus, 30)[0] > 20
    assert attempts_in(bus, 30)[1:] == [0, 0], "nothing is asked of those after the best"
    bus.time.advance(2 * SPARE_AFTER_S)
    assert attempts_in(bus, 600)[0] == 0, "an idle Sender leaves dead brokers alone"


def test_a_broker_that_is_preferred_is_found_when_it_is_back(bus: VirtualBus) -> None:
    bus.node()
    bus.brokers[0].refuse()
    bus.result(bus.call())
    bus.brokers[0].accept()
    bus.time.advance(2)
    assert bus.state() == ["up", "up", "idle"]
    bus.time.advance(bus.config.failback_after)
    assert bus.engine.status()["hosts"][0]["preferred"]


def test_a_spare_connection_is_let_go_when_it_was_not_used_for_long(bus: VirtualBus) -> None:
    bus.node()
    bus.result(bus.call(reverse=True))
    assert bus.state() == ["idle", "idle", "up"]
    bus.result(bus.call())
    assert bus.state() == ["idle", "idle", "up"], "any that is up will do"
    bus.brokers[2].refuse()
    bus.brokers[2].drop()
    bus.result(bus.call())
    bus.brokers[2].accept()
    bus.time.until(lambda: bus.state()[0] == "up")
    bus.result(bus.call(reverse=True))
    bus.time.advance(SPARE_AFTER_S - 5)
    up = bus.state()
    assert up[0] == "up"
    bus.time.advance(SPARE_AFTER_S + 10)
    assert bus.state() == ["up", "idle", "idle"]


def test_a_suspect_broker_gets_a_neighbour_before_it_is_given_up(bus: VirtualBus) -> None:
    bus.node()
    bus.result(bus.call())
    bus.brokers[0].freeze()
    bus.call()
    bus.time.advance(bus.config.path_ping_after + 0.2)
    assert bus.state() == ["up", "up", "idle"], "connected while the suspect has time to answer"


def test_one_that_is_lost_is_connected_again_by_itself_while_it_is_in_use(bus: VirtualBus) -> None:
    bus.node()
    bus.result(bus.call())
    bus.brokers[0].drop()
    bus.time.settle()
    assert bus.links[0].is_wanted
    bus.time.advance(2)
    assert bus.state()[0] == "up"


def test_one_that_is_lost_unused_is_left_alone(bus: VirtualBus) -> None:
    bus.node()
    bus.result(bus.call())
    bus.time.advance(3 * SPARE_AFTER_S)
    bus.brokers[0].drop()
    bus.time.advance(60)
    assert bus.state() == ["idle", "idle", "idle"]
