"""Traces as a collector gets them: OTLP over HTTP, from a caller and an agent's forked workers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from otlp_receiver import OtlpReceiver, ReceivedSpan, otlp_receiver
from waiting import wait_until

from servicebus.testing import Broker
from servicebus.testing.ports import free_ports

if TYPE_CHECKING:
    from agents import Agent

pytestmark = pytest.mark.broker
StartAgent = Callable[..., "Agent"]
PROGRAM = "exporting_program.py"


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[OtlpReceiver]:
    with otlp_receiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        yield receiver


def call(agent: Agent, address: str, params: Any) -> Any:
    """By a program of its own; what the service returned."""
    program = str(Path(__file__).parent.parent / "fixtures" / PROGRAM)
    ended = subprocess.run(
        [sys.executable, program, str(agent.folder / "agent.yaml"), "call", address, json.dumps(params)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def test_a_collector_gets_one_trace_of_all_processes(
    receiver: OtlpReceiver, brokers: list[Broker], start_agent: StartAgent
) -> None:
    agent = start_agent(brokers, mode=PROGRAM, traces=True).wait_consuming()
    assert call(agent, "NODE-01.test.nested", ["NODE-01.test.echo", "inside"]) == "inside"
    agent.stop()  # its workers send what they have left
    (program,) = receiver.spans("program")
    assert {span.trace_id for span in receiver.spans()} == {program.trace_id}

    def only(name: str, kind: str, service: str) -> ReceivedSpan:
        (found,) = receiver.spans(name, kind, service)
        return found

    client = only("test.nested", "CLIENT", "caller")
    server = only("test.nested", "SERVER", "agent")
    asked = only("test.echo", "CLIENT", "agent")
    inner = only("test.echo", "SERVER", "agent")
    attempt = only("send servicebus:NODE-01.rpc", "CLIENT", "caller")
    parents = [each.parent_id for each in (program, client, attempt, server, asked, inner)]
    assert parents == [b"", *(each.span_id for each in (program, client, client, server, asked))]
    assert attempt.attributes["server.address"] == brokers[0].host
    assert attempt.attributes["server.port"] in {broker.port for broker in brokers}
    assert server.attributes["rpc.system.name"] == "servicebus_failover"
    assert server.attributes["rpc.method"] == "test.nested"
    assert all(
        isinstance(value, str | int | bool | float) for span in receiver.spans() for value in span.attributes.values()
    )


def test_a_collector_that_is_down_costs_no_call(
    monkeypatch: pytest.MonkeyPatch, brokers: list[Broker], start_agent: StartAgent
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_ports(1)[0]}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    agent = start_agent(brokers, mode=PROGRAM, traces=True).wait_consuming()
    for number in range(3):
        assert call(agent, "NODE-01.math.add", [number, 1]) == number + 1
    wait_until(lambda: agent.log_lines("opentelemetry", "export"), 30, agent.log)
    assert call(agent, "NODE-01.math.add", [1, 2]) == 3
