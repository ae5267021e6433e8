"""PathWatch and Pinger: paths that died without a word, and dead ones that live again."""

from __future__ import annotations

from typing import Any

import pytest
from virtual_bus import NODE, TARGET, Node, VirtualBus, silence, virtual_bus

from servicebus.errors import CallError, CallInterrupted, CallTimeout, NodeUnavailable
from servicebus.protocol.control_requests import MOST_ASKED
from servicebus.protocol.interface import Incoming
from servicebus.wire.envelope import OK, Reply
from servicebus.wire.xmlcodec import encode_reply


def test_a_call_that_is_answered_soon_costs_no_ping(bus: VirtualBus) -> None:
    node = bus.node()
    for _ in range(20):
        bus.result(bus.call())
        bus.time.advance(0.1)
    assert node.dispatcher.counters["pings"] == 0


def test_a_path_is_pinged_as_often_as_nothing_else_is_heard_of_it(bus: VirtualBus) -> None:
    node = bus.node()
    node.answer = silence
    bus.call()
    bus.time.advance(bus.config.path_ping_after - 0.01)
    assert node.dispatcher.counters["pings"] == 0
    bus.time.advance(0.1)
    assert node.dispatcher.counters["pings"] == 1
    node.answer = lambda _incoming: "heard"
    bus.result(bus.call())
    bus.time.advance(bus.config.path_ping_after - 0.1)
    assert node.dispatcher.counters["pings"] == 1, "an answer of another call is as good"


def lose_answers(node: Node) -> None:
    """From here on it answers, and the broker throws that away."""

    def lost(incoming: Incoming) -> None:
        node.answered.append(incoming.id)

    node.answer = lost


def test_a_call_whose_answer_was_lost_gets_it_by_another_attempt(bus: VirtualBus) -> None:
    """RabbitMQ 4 throws direct replies away while it starts."""
    node = bus.node()
    lose_answers(node)
    future = bus.call(timeout=3600.0)
    node.answer = lambda _incoming: "kept"
    began = bus.time.now
    assert bus.result(future) == "kept"
    assert bus.time.now - began < 2 * bus.config.path_ping_after + 1
    assert [(id, attempt) for _, id, attempt in node.calls] == [(node.answered[0], 1), (node.answered[0], 2)]


def test_it_is_asked_for_also_where_other_calls_are_answered_all_the_time(bus: VirtualBus) -> None:
    node = bus.node()
    lose_answers(node)
    future = bus.call(timeout=3600.0)
    node.answer = lambda _incoming: "kept"
    for _ in range(40):
        bus.result(bus.call())
        bus.time.advance(0.1)
    assert future.done() and future.result()[1] == "kept"
    assert node.dispatcher.counters["pings"] <= 5


def test_a_call_that_must_not_run_twice_ends_where_its_answer_was_lost(bus: VirtualBus) -> None:
    node = bus.node()
    lose_answers(node)
    error = bus.error(bus.call(timeout=3600.0, resend=False))
    assert isinstance(error, CallInterrupted)
    assert "mq-a:5672 lost the answer" in str(error)
    assert len(node.calls) == 1


def test_a_call_that_still_runs_is_not_sent_again(bus: VirtualBus) -> None:
    node = bus.node()
    node.answer = silence
    future = bus.call(timeout=3600.0)
    bus.time.advance(600)
    assert not future.done()
    assert len(node.calls) == 1


def test_an_answer_that_comes_after_its_announcement_is_not_lost(bus: VirtualBus) -> None:
    """Another worker of the node has finished the call; the one that has it answers in a moment."""
    node = bus.node()
    lose_answers(node)
    future = bus.call(timeout=3600.0)
    bus.time.until(lambda: bool(bus.links[0].paths[NODE].missed))
    bus.time.advance(bus.config.path_ping_after / 2)
    assert not future.done() and len(node.calls) == 1


def test_of_many_calls_that_wait_every_one_is_asked_about(bus: VirtualBus) -> None:
    """However many run for long: no more fit into one ping."""
    node = bus.node()
    node.answer = silence
    for _ in range(3 * MOST_ASKED):
        bus.sender.call_async(TARGET, "p", timeout=3600.0)
    bus.time.settle()
    lose_answers(node)
    future = bus.call(timeout=3600.0)
    node.answer = lambda _incoming: "kept"
    assert bus.result(future) == "kept"


def test_a_dead_path_that_is_asked_for_is_found_and_used_again(bus: VirtualBus) -> None:
    node = bus.node()
    node.answer = silence
    node.answers_pings = False
    error = bus.error(bus.call(timeout=8.0))
    assert error is not None
    bus.time.advance(20)
    assert bus.state() == ["up", "up"]
    assert [broker.connects for broker in bus.brokers] == [2, 2], "the brokers have answered all the time"
    assert not bus.links[0].paths[NODE].health.is_healthy
    node.answers_pings = True
    node.answer = lambda _incoming: "alive"
    bus.time.advance(2)
    assert bus.links[0].paths[NODE].health.is_healthy, "a probe has found it"
    assert bus.result(bus.call()) == "alive"


def test_while_somebody_waits_a_dead_path_is_asked_often(bus: VirtualBus) -> None:
    nodes = [bus.node(broker) for broker in bus.brokers]
    bus.result(bus.call())
    for node, broker in zip(nodes, bus.brokers, strict=True):
        node.stop(broker)
    began = bus.time.now
    future = bus.call()
    bus.time.advance(1)
    nodes[0].start(bus.brokers[0])
    bus.time.until(future.done)
    assert future.exception() is None
    assert bus.time.now - began <= 1.2


def test_nobody_is_asked_for_ever_about_a_path_that_is_not_used(bus: VirtualBus) -> None:
    node = bus.node()
    node.answer = silence
    node.answers_pings = False
    bus.error(bus.call(timeout=8.0))
    bus.time.advance(300)
    before = node.dispatcher.counters["pings"]
    assert before
    bus.time.advance(300)
    assert node.dispatcher.counters["pings"] == before


def test_a_pong_that_cannot_be_believed_proves_nothing_and_is_reported(bus: VirtualBus) -> None:
    node = bus.node()
    node.answer = silence

    def forge(channel: Any, delivery: Any) -> None:
        body = encode_reply(Reply(delivery.correlation_id, "0" * 64, OK, b"{}"))
        channel.publish("", delivery.reply_to, body, correlation_id=delivery.correlation_id, mandatory=False)

    node.on_control = forge  # type: ignore[method-assign]
    future = bus.call(timeout=20.0, resend=False)
    error = bus.error(future)
    assert "answered a ping, but cannot be believed" in str(error)
    assert bus.engine.status()["travelling"] == 0


def test_a_node_that_can_never_be_believed_costs_as_long_as_a_silent_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seconds by default, and not the time limit of the call."""

    def forge(channel: Any, delivery: Any) -> None:
        body = encode_reply(Reply(delivery.correlation_id, "0" * 64, OK, b"666"))
        channel.publish("", delivery.reply_to, body, correlation_id=delivery.correlation_id, mandatory=False)

    with virtual_bus(monkeypatch, hosts=1, path_wait=0.2) as bus:
        node = bus.node()
        node.on_call = lambda _broker, *about: forge(*about)  # type: ignore[method-assign]
        node.on_control = forge  # type: ignore[method-assign]
        began = bus.time.now
        error = bus.error(bus.call(timeout=20.0))
        assert isinstance(error, CallError)
        assert not isinstance(error, CallTimeout)
        assert "sent a reply that cannot be believed" in str(error)
        assert bus.time.now - began < bus.config.path_ping_after + bus.config.path_ping_timeout + 0.5


def test_an_agent_that_stops_is_waited_for_but_gets_nothing_new(bus: VirtualBus) -> None:
    stopping, other = bus.node(bus.brokers[0]), bus.node(bus.brokers[1])
    stopping.answer = silence
    other.answer = lambda _incoming: "new"
    old = bus.call(timeout=60.0)
    channel = stopping.calls
    stopping.dispatcher.is_stopping = True
    bus.time.advance(20)
    assert not old.done(), "its pongs say that it is finishing what it has"
    assert len(channel) == 1


def test_a_slow_link_is_not_taken_for_a_dead_one(bus: VirtualBus) -> None:
    node = bus.node()
    bus.result(bus.call())
    bus.brokers[0].delay_s = 0.55  # the answer has four such ways to go
    node.answer = lambda _incoming: "late"
    assert bus.result(bus.call()) == "late"
    assert [name for name, *_ in node.calls] == ["mq-a:5672", "mq-b:5672"], "what may be dead is not waited for"
    bus.time.advance(3)
    health = bus.links[0].paths[NODE].health
    assert health.is_healthy and not health.failed and not health.is_suspect
    assert bus.links[0].connections.lost == 0


def test_a_node_whose_queue_is_gone_is_found_out_at_once(bus: VirtualBus) -> None:
    nodes = [bus.node(broker) for broker in bus.brokers]
    bus.result(bus.call())
    for node, broker in zip(nodes, bus.brokers, strict=True):
        node.stop(broker)
    future = bus.call()
    assert bus.links[0].paths[NODE].health.reason == "no agent of the node consumes there"
    assert isinstance(bus.error(future), NodeUnavailable)


# -- a path that is suspect --------------------------------------------------------------------------------------------


def test_calls_on_a_silent_path_go_over_another_one_long_before_it_is_dead(bus: VirtualBus) -> None:
    node = bus.node()
    node.answer = silence
    under_way = [bus.call(number) for number in range(30)]
    node.answer = lambda incoming: incoming.raw_params.decode()
    bus.brokers[0].freeze()
    began = bus.time.now
    assert [bus.result(future) for future in under_way] == list(map(str, range(30)))
    assert bus.time.now - began < 0.75
    assert bus.engine.status()["hedged"] == 30
    began = bus.time.now
    assert bus.result(bus.call("next")) == '"next"'
    assert bus.time.now - began < 0.1, "new calls avoid it"
    assert bus.state()[0] == "up"


def test_other_nodes_are_called_elsewhere_while_a_broker_is_suspect(bus: VirtualBus) -> None:
    node, other = bus.node(), bus.node(name="NODE-02")
    bus.result(bus.call())
    bus.brokers[0].freeze()
    assert bus.result(bus.call())
    began = bus.time.now
    future = bus.sender.call_async("NODE-02.test.echo", "p", timeout=30.0)
    assert bus.result(future)
    assert bus.time.now - began < 0.1
    assert [name for name, *_ in other.calls] == ["mq-b:5672"]
    assert node.calls


def test_a_suspicion_ends_as_soon_as_the_path_is_heard(bus: VirtualBus) -> None:
    node = bus.node()
    bus.result(bus.call())
    bus.brokers[0].freeze()
    assert bus.result(bus.call())
    bus.brokers[0].thaw()
    bus.time.advance(0.2)
    health = bus.links[0].paths[NODE].health
    assert not (health.is_suspect or health.failed or bus.links[0].health.is_suspect)
    bus.result(bus.call())
    assert node.calls[-1][0] == "mq-a:5672", "it has not failed: no time must pass before it is preferred again"


def test_a_call_that_must_not_run_twice_is_not_sent_for_a_suspicion(bus: VirtualBus) -> None:
    node = bus.node()
    node.answer = silence
    future = bus.call(resend=False)
    node.answers_pings = False
    bus.time.advance(1.0)
    assert bus.links[0].paths[NODE].health.is_suspect
    assert not future.done() and len(node.calls) == 1


def test_pongs_that_have_taken_long_lately_make_a_path_less_suspect(bus: VirtualBus) -> None:
    node = bus.node()
    node.answer = silence
    bus.brokers[0].delay_s = 0.1  # a pong has four such ways to go
    bus.call(timeout=60.0)
    bus.time.advance(20)
    hedged = bus.engine.status()["hedged"]
    assert hedged <= 1, "the first was a surprise"
    assert bus.links[0].paths[NODE].health.is_healthy


def test_second_copies_for_a_suspicion_have_a_bound(bus: VirtualBus) -> None:
    node = bus.node()
    node.answer = silence
    node.answers_pings = False
    for number in range(300):
        bus.call(number, timeout=60.0)
    bus.time.advance(1.0)
    assert 100 <= bus.engine.status()["hedged"] <= 130


def test_a_call_that_cannot_travel_twice_keeps_no_other_back(bus: VirtualBus, monkeypatch: pytest.MonkeyPatch) -> None:
    bus.node()
    bus.result(bus.call())
    bus.brokers[0].freeze()
    first, second = bus.call("first"), bus.call("second")
    publish = bus.links[1].publish

    def fails_for_the_first(request: Any, now: float, *, is_hedge: bool = False) -> None:
        if is_hedge and request.body == refused[0]:
            raise RuntimeError("of the test")
        publish(request, now, is_hedge=is_hedge)

    refused = [next(iter(bus.links[0].paths[NODE].outstanding.values())).body]
    monkeypatch.setattr(bus.links[1], "publish", fails_for_the_first)
    began = bus.time.now
    assert bus.result(second) == '"second"'
    assert bus.time.now - began < 0.75
    assert bus.result(first) == '"first"', "when its path is dead"
    assert bus.loop.failures.count > 0
    bus.loop.failures.count = 0
