"""Route: what ``servicebus call --trace`` tells of the way of one call; on brokers in memory, in virtual time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from virtual_bus import VirtualBus, silence

from servicebus.cli.main import servicebus
from servicebus.client.request import PendingRequest
from servicebus.client.route import CallTracer
from servicebus.errors import CallTimeout, NoBrokerAvailable
from servicebus.wire.fault import BUSY, STOPPING, Fault

Step = tuple[int | None, str, str, str]


def told(tracer: CallTracer) -> list[Step]:
    """The steps of the last call: attempt, broker without its port, phase, outcome."""
    return [(step.attempt, step.broker.partition(":")[0], *step[2:4]) for step in tracer.routes[-1].steps]


@pytest.fixture
def tracer(bus: VirtualBus) -> CallTracer:
    return CallTracer(bus.sender)


CONNECTED: list[Step] = [(None, "", "waiting", "until a path was found"), (None, "mq-a", "connecting", "connected")]


def test_a_call_that_is_answered_is_one_attempt(bus: VirtualBus, tracer: CallTracer) -> None:
    bus.node()
    bus.result(bus.call())
    assert told(tracer) == [*CONNECTED, (1, "mq-a", "answered", "ok")]
    bus.result(bus.call())
    assert told(tracer) == [(1, "mq-a", "answered", "ok")], "it is connected already"
    assert len({route.id for route in tracer.routes}) == 2


def test_a_broker_that_refuses_stands_before_the_one_that_works(bus: VirtualBus, tracer: CallTracer) -> None:
    bus.node()
    bus.brokers[0].refuse()
    bus.result(bus.call())
    (_, broker, phase, why), *others = told(tracer)[1:]
    assert (broker, phase) == ("mq-a", "connecting") and "refused" in why
    assert others == [(None, "mq-b", "connecting", "connected"), (1, "mq-b", "answered", "ok")]
    assert all(step.took_s is not None for step in tracer.routes[0].steps)


def test_a_path_that_dies_is_an_attempt_of_its_own(bus: VirtualBus, tracer: CallTracer) -> None:
    node = bus.node()
    node.answer = silence
    future = bus.call()
    bus.time.advance(0.1)
    node.answer = lambda _incoming: "second"
    bus.brokers[0].refuse()
    bus.brokers[0].drop()
    assert bus.result(future) == "second"
    (number, broker, phase, why) = told(tracer)[2]
    assert (number, broker, phase) == (1, "mq-a", "published") and why
    assert told(tracer)[-1] == (2, "mq-b", "answered", "ok")
    assert tracer.routes[0].steps[2].took_s == pytest.approx(0.1, abs=0.06)


def test_a_broker_without_the_node_returns_the_call(bus: VirtualBus, tracer: CallTracer) -> None:
    bus.node(bus.brokers[1])
    bus.sender.call_async("NODE-01.test.echo", timeout=30.0)
    bus.time.advance(5.0)
    attempts = [step for step in told(tracer) if step[0]]
    assert attempts == [
        (1, "mq-a", "returned", "no agent of the node consumes there"),
        (2, "mq-b", "answered", "ok"),
    ]


@pytest.mark.parametrize(
    ("fault", "outcome", "waits"),
    [
        (Fault(BUSY, "its inbox is full", retry_after_ms=10), "busy: its inbox is full", True),
        (Fault(STOPPING, ""), "the agent there is stopping", False),
    ],
)
def test_a_node_that_does_not_take_it_has_answered(
    bus: VirtualBus, tracer: CallTracer, fault: Fault, outcome: str, waits: bool
) -> None:
    answers: list[Any] = [fault, "late"]
    bus.node().answer = lambda _incoming: answers.pop(0)
    assert bus.result(bus.call()) == "late"
    attempts = [step for step in told(tracer) if step[0]]
    assert attempts[0] == (1, "mq-a", "answered", outcome) and attempts[1][2:] == ("answered", "ok")
    assert ((None, "", "waiting", "until its service is asked again") in told(tracer)) is waits


def test_what_a_service_raises_is_an_answer(bus: VirtualBus, tracer: CallTracer) -> None:
    bus.node().answer = lambda _incoming: Fault("ValueError", "of the test")
    bus.error(bus.call())
    (_, _, phase, outcome) = told(tracer)[-1]
    assert phase == "answered" and outcome.startswith("RemoteError: ") and "of the test" in outcome


def test_a_deadline_without_an_answer_leaves_it_published(bus: VirtualBus, tracer: CallTracer) -> None:
    bus.node().answer = silence
    assert isinstance(bus.error(bus.call(timeout=0.3)), CallTimeout)
    assert told(tracer)[-1] == (1, "mq-a", "published", "did not answer in time")


def test_without_a_broker_the_connections_are_all_there_is(bus: VirtualBus, tracer: CallTracer) -> None:
    for broker in bus.brokers:
        broker.refuse()
    assert isinstance(bus.error(bus.call(timeout=2.0)), NoBrokerAvailable)
    assert {step[1:3] for step in told(tracer)} == {("", "waiting"), ("mq-a", "connecting"), ("mq-b", "connecting")}


def test_an_answer_to_a_former_attempt_is_told_as_that(bus: VirtualBus, tracer: CallTracer) -> None:
    """The path falls silent, the call is sent again, and then the first answer comes."""
    node = bus.node()
    late: list[Callable[[], None]] = []
    taken = node.on_call

    def on_call(broker: Any, channel: Any, delivery: Any) -> None:
        if broker is bus.brokers[0]:
            late.append(lambda: taken(broker, channel, delivery))

    node.on_call = on_call  # type: ignore[method-assign]
    future = bus.call()
    node.answers_pings = False
    bus.time.until(lambda: any(step.attempt == 1 for step in tracer.routes[0].steps))
    late[0]()
    assert bus.result(future) == '"p"'
    assert [step for step in told(tracer) if step[0]] == [
        (1, "mq-a", "answered", "ok"),
        (2, "mq-b", "published", "attempt 1 was answered first"),
    ]


@pytest.mark.parametrize("first", [0, 1])
def test_of_two_attempts_the_one_that_was_answered_is_told(bus: VirtualBus, tracer: CallTracer, first: int) -> None:
    """The path falls silent, the call travels over another one as well, and one of them is answered first."""
    node = bus.node()
    late: list[Callable[[], None]] = []
    taken = node.on_call
    node.on_call = lambda *about: late.append(lambda: taken(*about))  # type: ignore[method-assign]
    future = bus.call()
    node.answers_pings = False
    bus.time.until(lambda: len(late) == 2)
    late[first]()
    assert bus.result(future) == '"p"'
    silent = "is late with the answer to a ping; attempt 2 was answered first"
    assert [step for step in told(tracer) if step[0]] == [
        (1, "mq-a", *[("answered", "ok"), ("published", silent)][first]),
        (2, "mq-b", *[("published", "attempt 1 was answered first"), ("answered", "ok")][first]),
    ]


def test_calls_without_it_have_nothing_of_it(bus: VirtualBus) -> None:
    assert bus.sender._form is PendingRequest
    assert [link.replied.func.__self__ for link in bus.links] == [bus.engine._answers] * 2  # type: ignore[attr-defined]


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "sender.yaml"
    path.write_text("{hosts: ['127.0.0.1:1'], secret_token: a secret of the test, path_wait: 0.1}")
    return str(path)


def test_a_call_that_fails_tells_its_route_before_the_error(config: str) -> None:
    done = CliRunner().invoke(servicebus, ["call", "N.a.b", "--trace", "-c", config])
    first, *steps, error = done.stderr.splitlines()
    assert done.exit_code == 4 and done.stdout == ""
    assert first.startswith("call ") and "waiting" in steps[0] and "connecting: connection refused" in steps[1]
    assert error.startswith("servicebus: no broker reachable for N.a.b: ")


def test_so_it_does_in_the_document_of_the_error(config: str) -> None:
    done = CliRunner().invoke(servicebus, ["call", "N.a.b", "--trace", "--json", "-c", config])
    document = json.loads(done.stderr)
    assert document["error"] == "NoBrokerAvailable" and document["exit_code"] == 4
    assert [step["phase"] for step in document["route"]][:2] == ["waiting", "connecting"]
    assert set(document["route"][1]) == {"attempt", "broker", "phase", "outcome", "at_ms", "ms"}
    assert len(document["wire_id"]) == len("0123456789abcdef-1")


def test_without_trace_the_document_has_no_route(config: str) -> None:
    done = CliRunner().invoke(servicebus, ["call", "N.a.b", "--json", "-c", config])
    assert set(json.loads(done.stderr)) == {"error", "message", "exit_code"}
