"""Engine: every request comes to an end, over whichever broker works; on brokers in memory, in virtual time."""

from __future__ import annotations

import gc
import math
from typing import Any
from unittest.mock import Mock

import pytest
from virtual_bus import NODE, VirtualBus, silence

from servicebus.errors import (
    CallError,
    CallInterrupted,
    CallTimeout,
    NoBrokerAvailable,
    NodeUnavailable,
    RemoteError,
    SendUnconfirmed,
)
from servicebus.wire.fault import Fault

# -- calls ---------------------------------------------------------------------------------------------------------


def test_a_call_is_answered_over_the_preferred_broker(bus: VirtualBus) -> None:
    node = bus.node()
    assert bus.result(bus.call("question")) == '"question"'
    assert [name for name, *_ in node.calls] == ["mq-a:5672"]
    assert bus.state() == ["up", "idle"]
    first, second = bus.engine.status()["hosts"]
    assert (first["preferred"], first["usable"], first["calls"]) == (True, True, 1)
    assert (second["preferred"], second["usable"], second["calls"]) == (False, False, 0)


def test_what_a_service_raises_ends_its_call(bus: VirtualBus) -> None:
    bus.node().answer = lambda _incoming: Fault("ValueError", "of the test")
    error = bus.error(bus.call())
    assert isinstance(error, RemoteError) and error.type == "ValueError"


def test_a_call_goes_to_the_next_broker_when_the_first_refuses(bus: VirtualBus) -> None:
    node = bus.node()
    bus.brokers[0].refuse()
    began = bus.time.now
    bus.result(bus.call())
    assert [name for name, *_ in node.calls] == ["mq-b:5672"]
    assert bus.time.now == began, "at once"


def test_a_call_is_carried_over_when_its_connection_breaks(bus: VirtualBus) -> None:
    node = bus.node()
    node.answer = silence
    future = bus.call()
    node.answer = lambda _incoming: "second"
    bus.brokers[0].refuse()
    bus.brokers[0].drop()
    assert bus.result(future) == "second"
    (first, id, one), (second, same, two) = node.calls
    assert (first, one, second, two) == ("mq-a:5672", 1, "mq-b:5672", 2)
    assert id == same
    assert bus.engine.status()["travelling"] == 0


def test_a_call_that_must_not_be_sent_again_is_interrupted(bus: VirtualBus) -> None:
    node = bus.node()
    node.answer = silence
    future = bus.call(resend=False)
    bus.brokers[0].drop("reset by the test")
    error = bus.error(future)
    assert isinstance(error, CallInterrupted) and "mq-a:5672 reset by the test" in str(error)
    assert len(node.calls) == 1


def test_a_broker_that_falls_silent_is_found_out_and_left(bus: VirtualBus) -> None:
    node = bus.node()
    assert bus.result(bus.call())
    bus.brokers[0].freeze()
    began = bus.time.now
    assert bus.result(bus.call("lost")) == '"lost"'
    assert bus.time.now - began < 0.75, "it is suspect"
    assert [name for name, *_ in node.calls][1:] == ["mq-b:5672"]
    limit_s = bus.config.path_ping_after + bus.config.path_ping_timeout
    bus.time.until(lambda: bus.state()[0] != "up")
    assert limit_s <= bus.time.now - began < limit_s + 0.2
    assert f"silent for {limit_s:g} s" in bus.links[0].last_error


def test_a_node_that_does_not_answer_a_ping_is_left_and_its_broker_is_not(bus: VirtualBus) -> None:
    node = bus.node()
    node.answer = silence
    future = bus.call()
    node.answers_pings = False
    node.answer = lambda _incoming: "elsewhere"
    assert bus.result(future) == "elsewhere"
    assert [name for name, *_ in node.calls] == ["mq-a:5672", "mq-b:5672"]
    bus.time.advance(bus.config.path_ping_timeout)
    assert bus.state() == ["up", "up"]
    assert bus.links[0].paths[NODE].health.reason == "the node did not answer a ping"
    assert bus.links[0].health.is_healthy


def test_a_long_call_is_waited_for_while_its_node_answers_pings(bus: VirtualBus) -> None:
    node = bus.node()
    node.answer = silence
    future = bus.call(timeout=60.0)
    bus.time.advance(30)
    assert not future.done() and len(node.calls) == 1
    assert 15 <= node.dispatcher.counters["pings"] <= 30 / bus.config.path_ping_after


def test_a_call_to_a_node_that_is_nowhere_ends_after_the_wait_limit(bus: VirtualBus) -> None:
    bus.node(bus.brokers[0]).stop(bus.brokers[0])
    began = bus.time.now
    error = bus.error(bus.call())
    assert isinstance(error, NodeUnavailable)
    assert "mq-a:5672 no agent of the node consumes there" in str(error)
    assert bus.time.now - began == pytest.approx(bus.config.path_wait, abs=0.1)


def test_a_call_waits_for_a_node_that_comes_in_time(bus: VirtualBus) -> None:
    future = bus.call()
    bus.time.advance(1)
    assert not future.done()
    bus.node(bus.brokers[1])
    assert bus.result(future) == '"p"'


def test_without_any_broker_every_host_is_told_with_its_reason(bus: VirtualBus) -> None:
    bus.brokers[0].refuse()
    bus.brokers[1].refuse("credentials", "the broker refused the credentials of user 'guest'")
    error = bus.error(bus.call())
    assert isinstance(error, NoBrokerAvailable)
    assert [host for host, _ in error.attempts] == ["mq-a:5672", "mq-b:5672"]
    assert "connection refused" in str(error) and "refused the credentials" in str(error)
    assert getattr(error.__cause__, "kind", "") == "credentials"


def test_a_call_ends_at_its_deadline_and_its_node_is_told(bus: VirtualBus) -> None:
    node = bus.node()
    node.answer = silence
    future = bus.call(timeout=2.0)
    bus.time.advance(1.9)
    assert not future.done()
    bus.time.advance(0.2)
    assert isinstance(future.exception(), CallTimeout)
    bus.time.settle()
    assert node.cancelled == [node.calls[0][1]]


def test_a_call_that_is_cancelled_is_over_and_its_node_is_told(bus: VirtualBus) -> None:
    node = bus.node()
    node.answer = silence
    future = bus.call()
    assert future.cancel()
    bus.time.settle()
    assert node.cancelled == [node.calls[0][1]]
    assert bus.engine.status()["travelling"] == 0


def test_an_agent_that_stops_hands_new_calls_on(bus: VirtualBus) -> None:
    stopping, other = bus.node(bus.brokers[0]), bus.node(bus.brokers[1])
    stopping.dispatcher.is_stopping = True
    stopping.answer = lambda _incoming: Fault("stopping", "")
    other.answer = lambda _incoming: "elsewhere"
    assert [bus.result(bus.call()) for _ in range(3)] == ["elsewhere"] * 3
    assert (len(stopping.calls), len(other.calls)) == (1, 3)
    assert bus.links[0].paths[NODE].health.reason == "the agent there is stopping"


def test_calls_go_back_to_the_preferred_broker_when_it_has_earned_it(bus: VirtualBus) -> None:
    node = bus.node()
    bus.brokers[0].refuse()
    bus.result(bus.call())
    bus.brokers[0].accept()
    node.calls.clear()
    for _ in range(12):
        bus.time.advance(5)
        bus.result(bus.call())
    names = [name for name, *_ in node.calls]
    assert names[0] == "mq-b:5672" and names[-1] == "mq-a:5672"
    back = names.index("mq-a:5672")
    assert names == ["mq-b:5672"] * back + ["mq-a:5672"] * (12 - back)
    assert bus.config.failback_after <= 5 * (back + 1) <= bus.config.failback_after + 20


def test_a_call_may_prefer_the_last_broker(bus: VirtualBus) -> None:
    node = bus.node()
    bus.result(bus.call(reverse=True))
    assert [name for name, *_ in node.calls] == ["mq-b:5672"]


def test_calls_of_a_queue_that_was_made_anew_are_sent_again(bus: VirtualBus) -> None:
    """The worker died with its queue, and another one has it now: nobody else knows of the call."""
    node = bus.node(bus.brokers[0])
    node.answer = silence
    future = bus.call()
    bus.time.advance(0.2)
    node.stop(bus.brokers[0])
    node.start(bus.brokers[0])
    node.control.calls_made_at = bus.time.now
    node.answer = lambda _incoming: "again"
    assert bus.result(future) == "again"
    assert [attempt for *_, attempt in node.calls] == [1, 2]


def test_calls_that_lose_one_path_after_the_other_are_not_sent_again_without_bound(bus: VirtualBus) -> None:
    """Each may be what kills the worker: the first failover is free, and then a node gets a few again at most."""
    node = bus.node()
    node.answer = silence
    node.answers_pings = False
    calls = [bus.call(number, timeout=60.0) for number in range(60)]
    bus.time.advance(30)
    errors = [call.exception() for call in calls if call.done()]
    held_back = [error for error in errors if "too many calls were lost with their paths to this node" in str(error)]
    assert len(held_back) >= 20
    assert all(isinstance(error, CallInterrupted) for error in errors)
    attempts = [attempt for *_, attempt in node.calls]
    assert attempts.count(1) == attempts.count(2) == 60, "the failover is free"
    assert attempts.count(3) <= 40
    assert bus.engine.status()["held_back"] > 0


def test_a_call_that_was_held_back_goes_on_when_its_node_is_well_again(bus: VirtualBus) -> None:
    node = bus.node()
    node.answer = silence
    node.answers_pings = False
    calls = [bus.call(number, timeout=60.0) for number in range(40)]
    bus.time.until(lambda: bus.engine.status()["held_back"], 20)
    node.answers_pings = True
    node.answer = lambda incoming: incoming.raw_params.decode()
    for number in range(30):
        bus.time.advance(0.1)
        for _ in range(10):
            bus.call(f"more {number}")
    bus.time.advance(3)
    answered = [call for call in calls if call.done() and call.exception() is None]
    assert len(answered) >= 25, "new calls have earned it room"


# -- messages ------------------------------------------------------------------------------------------------------


def test_a_message_is_confirmed_and_arrives(bus: VirtualBus) -> None:
    node = bus.node()
    future = bus.send("order")
    bus.time.until(future.done)
    assert future.result().confirmed_by == "mq-a:5672"
    assert node.messages == ['"order"']


def test_a_message_waits_for_its_queue_and_goes_when_it_is_there(bus: VirtualBus) -> None:
    bus.node()
    for broker in bus.brokers:
        broker.forget_queue(f"{NODE}.messages")
    future = bus.send()
    bus.time.advance(1)
    assert not future.done()
    bus.node()
    bus.time.until(future.done)
    assert future.result().confirmed_by in ("mq-a:5672", "mq-b:5672")


def test_a_message_without_its_confirm_is_sent_again_elsewhere(bus: VirtualBus) -> None:
    node = bus.node()
    bus.brokers[0].holds_confirms = True
    future = bus.send()
    bus.brokers[0].drop()
    bus.time.until(future.done)
    assert future.result().confirmed_by in ("mq-a:5672", "mq-b:5672")
    assert len(node.messages) == 2, "the journal drops the second"


def test_a_message_that_was_never_confirmed_is_told_as_such(bus: VirtualBus) -> None:
    bus.node()
    for broker in bus.brokers:
        broker.holds_confirms = True
    error = bus.error(bus.send(timeout=5.0))
    assert isinstance(error, SendUnconfirmed)


def test_messages_leave_a_broker_that_is_blocked(bus: VirtualBus) -> None:
    node = bus.node()
    bus.result(bus.call())
    bus.brokers[0].block("low on disk")
    future = bus.send("order")
    bus.time.until(future.done)
    assert future.result().confirmed_by == "mq-b:5672"
    assert "blocked by the broker (low on disk)" in bus.engine.status()["hosts"][0]["reason"]
    bus.brokers[0].unblock()
    bus.time.settle()
    assert bus.links[0].connections.blocked is None and bus.links[0].health.is_healthy
    assert '"order"' in node.messages


# -- the end -------------------------------------------------------------------------------------------------------


def test_at_the_end_every_request_fails_and_every_connection_is_closed(bus: VirtualBus) -> None:
    node = bus.node()
    node.answer = silence
    calls = [bus.call(), bus.call()]
    engine, links = bus.engine, bus.links
    assert bus.close() == []
    bus.time.advance(1)
    assert all(isinstance(call.exception(), CallError) for call in calls)
    assert len(node.cancelled) == 2
    assert [link.connections.is_gone for link in links] == [True, True]
    assert engine.status()["travelling"] == 0


def test_the_end_does_not_wait_long_for_a_broker_that_is_silent(bus: VirtualBus) -> None:
    bus.node()
    bus.result(bus.call())
    bus.brokers[0].freeze()
    closed = bus.close()
    bus.time.advance(0.9)
    assert closed == []
    bus.time.advance(0.2)
    assert closed == [True]


def drop(bus: VirtualBus) -> None:
    """The program has no Sender any more."""
    del bus.sender
    gc.collect()


def test_a_sender_that_is_dropped_closes_its_connections(bus: VirtualBus) -> None:
    bus.node()
    bus.result(bus.call())
    links = bus.links
    drop(bus)
    bus.time.advance(1)
    assert [link.connections.is_gone for link in links] == [True, True]
    bus.time.advance(60)
    assert bus.loop.due_at == math.inf, "no timer is left"


def test_what_a_dropped_sender_has_begun_comes_to_its_end(bus: VirtualBus) -> None:
    node = bus.node()
    node.answer = silence
    call, links = bus.call(timeout=30), bus.links
    message = bus.send()
    drop(bus)
    bus.time.advance(29)
    assert message.done() and not call.done() and node.cancelled == []
    assert links[0].is_up
    bus.time.advance(3)
    assert isinstance(call.exception(), CallTimeout)
    assert [link.connections.is_gone for link in links] == [True, True]


def test_what_is_asked_after_the_end_fails_at_once(bus: VirtualBus) -> None:
    bus.node()
    bus.result(bus.call())
    session = bus.sender._current()
    bus.close()
    bus.sender._session = session
    error = bus.error(bus.call())
    assert isinstance(error, CallError) and "closed" in str(error)
    bus.sender._session = None


# -- what it is told -----------------------------------------------------------------------------------------------


def test_what_waits_goes_on_as_soon_as_the_only_broker_reads_again(bus: VirtualBus) -> None:
    bus.node()
    bus.result(bus.call())
    bus.brokers[1].refuse()
    bus.brokers[0].block()
    message = bus.send()
    bus.time.advance(1)
    assert not message.done()
    bus.brokers[0].unblock()
    bus.time.settle()
    assert message.result().confirmed_by == "mq-a:5672"


def test_only_calls_that_are_older_than_their_queue_are_sent_again(bus: VirtualBus) -> None:
    node = bus.node(bus.brokers[0])
    node.answer = silence
    bus.call()
    published_at, path = bus.time.now, bus.links[0].paths[NODE]
    bus.engine.queue_made_anew(path, published_at + 0.0009)  # its age was rounded
    bus.time.settle()
    assert [attempt for *_, attempt in node.calls] == [1]
    bus.engine.queue_made_anew(path, published_at + 0.002)
    bus.time.settle()
    assert [attempt for *_, attempt in node.calls] == [1, 2]


def test_a_pong_that_travels_slowly_makes_the_queue_no_younger(bus: VirtualBus) -> None:
    node = bus.node(bus.brokers[0])
    node.answer, node.control.calls_made_at = silence, bus.time.now

    def answer_slowly(channel: Any, delivery: Any) -> None:
        body, reply_to = node.control.answer(delivery) or (b"", "")
        asked = delivery.correlation_id
        bus.loop.call_later(0.3, lambda: channel.publish("", reply_to, body, correlation_id=asked, mandatory=False))

    node.on_control = answer_slowly  # type: ignore[method-assign]
    bus.time.advance(0.1)
    bus.call()
    bus.time.advance(3.0)
    assert [attempt for *_, attempt in node.calls] == [1]


def test_a_request_that_cannot_be_taken_ends_and_the_next_one_goes_on(
    bus: VirtualBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus.node()
    bus.result(bus.call())
    with monkeypatch.context() as broken:
        broken.setattr(bus.engine._scheduler, "accept", Mock(side_effect=OverflowError))
        failed = bus.call()
    error = failed.exception()
    assert isinstance(error, CallError) and "a defect ended it: OverflowError" in str(error)
    assert bus.result(bus.call("next")) == '"next"'
