"""One trace over processes and brokers: a program, an agent with its forked workers, and a broker that is killed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import SpanKind
from spans import Spans, provide
from waiting import wait_until

from servicebus.errors import RemoteError
from servicebus.sender import Sender
from servicebus.testing import Broker

if TYPE_CHECKING:
    from agents import Agent

pytestmark = pytest.mark.broker
StartAgent = Callable[..., "Agent"]
PREFIX = "servicebus_failover."


def of_workers(agent: Agent) -> list[dict[str, Any]]:
    """The spans in the files of its workers."""
    files = agent.notes.glob("spans-*")
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def called(spans: list[dict[str, Any]], name: str, kind: str = "") -> list[dict[str, Any]]:
    return [span for span in spans if span["name"] == name and kind in span["kind"]]


def test_a_killed_broker_is_an_attempt_in_the_trace(brokers: list[Broker], start_agent: StartAgent) -> None:
    provide()
    agent = start_agent(brokers, mode="traced_program.py", traces=True).wait_consuming()
    with Sender(agent.configuration()) as sender:
        with trace.get_tracer("test").start_as_current_span("program") as program:
            future = sender.call_async("NODE-01.test.nested", ["NODE-01.test.sleep", [0.5, 7]], timeout=60)
        wait_until(lambda: agent.noted("started"))
        brokers[0].kill()
        assert future.result(60)[1] == 7
    own, theirs = Spans(), of_workers(agent)
    client = own.one("test.nested", SpanKind.CLIENT)
    first, second = own.named("send servicebus:NODE-01.rpc")
    for span, broker, problem in ((first, brokers[0], "lost"), (second, brokers[1], None)):
        assert span.attributes is not None and own.parent(span) is client
        assert (span.attributes["server.address"], span.attributes["server.port"]) == (broker.host, broker.port)
        assert span.attributes.get("error.type") == problem
    (server,) = called(theirs, "test.nested", "SERVER")
    (asked,) = called(theirs, "test.sleep", "CLIENT")
    (slept,) = called(theirs, "test.sleep", "SERVER")
    assert client.context is not None
    assert server["parent_id"] == f"0x{client.context.span_id:016x}"
    assert asked["parent_id"] == server["context"]["span_id"]
    assert slept["parent_id"] == asked["context"]["span_id"]
    assert called(theirs, "wait test.nested") and called(theirs, "reply test.sleep")
    trace_id = program.get_span_context().trace_id
    assert own.trace_ids() == {trace_id}
    assert {span["context"]["trace_id"] for span in theirs} == {f"0x{trace_id:032x}"}


def test_the_log_of_an_agent_has_the_ids_of_the_request(brokers: list[Broker], start_agent: StartAgent) -> None:
    provide()
    agent = start_agent(brokers, mode="traced_program.py", traces=True).wait_consuming()
    with Sender(agent.configuration()) as sender, pytest.raises(RemoteError):
        sender.call("NODE-01.test.raises", "boom", timeout=60)
    client = Spans().one("test.raises", SpanKind.CLIENT)
    assert client.context is not None and client.attributes is not None
    line = agent.wait_log("service test.raises failed for")
    request_id = str(client.attributes[f"{PREFIX}request.id"])
    assert f"[request_id={request_id} trace_id={client.context.trace_id:032x} " in line
