"""Spans of what Senders ask and services do, on the bus in memory, by the SDK's exporter in memory."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode
from spans import PROVIDER, Spans, context_of, provide

import servicebus.testing
from servicebus import Services
from servicebus.cli.options import load
from servicebus.client.request import PendingRequest
from servicebus.client.tracing import TracedForm
from servicebus.configuration import Configuration
from servicebus.errors import CallTimeout, ConfigurationError, NoBrokerAvailable, RemoteError
from servicebus.metrics import SenderCollector
from servicebus.runtime.service_meter import TimedStart, start_of
from servicebus.runtime.service_tracing import ServiceTraces, TracedStart
from servicebus.sender import Sender
from servicebus.service import ServiceBus
from servicebus.services import MessageService, Request, RpcService
from servicebus.testing import MemoryBus
from servicebus.transport.loop import nothing
from servicebus.wire.address import Address
from servicebus.wire.envelope import Kind

PREFIX = "servicebus_failover."
TRACER = trace.get_tracer("test")


class Add(RpcService):
    def handle(self, request: Request) -> Any:
        with TRACER.start_as_current_span("adding"):
            return sum(request.params)


class Fail(RpcService):
    def handle(self, request: Request) -> Any:
        raise LookupError("no such thing")


class Nested(RpcService):
    def handle(self, request: Request) -> Any:
        return request.get_sender().call("NODE-01.math.add", [3, 4])[1]


class Slow(RpcService):
    def handle(self, request: Request) -> Any:
        time.sleep(request.params)
        return request.params


class Context(RpcService):
    def handle(self, request: Request) -> Any:
        return dict(request.context)


class Note(MessageService):
    def handle(self, request: Request) -> None:
        if request.params == "bad":
            raise ValueError(request.params)
        if request.params == "ask":
            request.get_sender().call("NODE-01.math.add", [1, 1])
        if request.params == "later" and request.attempts == 1:
            raise OSError("not now")


group = Services("typed")


@group.rpc
async def waits(seconds: float, sender: Sender) -> float:
    """Asynchronous."""
    with TRACER.start_as_current_span("waiting"):
        await asyncio.sleep(seconds)
    return seconds


@group.rpc
def rows(count: int) -> Iterator[int]:
    """A stream."""
    yield from range(count)


@group.event("orders.*")
def ordered(request: Request) -> None:
    """A subscriber."""


SERVICES: dict[str, Any] = {
    "math.add": Add(),
    "math.fail": Fail(),
    "math.nested": Nested(),
    "math.slow": Slow(),
    "math.context": Context(),
    "log.note": Note(),
}


@pytest.fixture
def bus() -> Iterator[MemoryBus]:
    provide()
    with servicebus.testing.bus({**SERVICES}, group, traces=True, retry_schedule=[1.0]) as bus:
        yield bus


def attributes(span: Any, *names: str) -> tuple[Any, ...]:
    return tuple((span.attributes or {}).get(name) for name in names)


def linked(span: Any) -> int:
    (link,) = span.links
    return int(link.context.span_id)


# -- calls -------------------------------------------------------------------------------------------------------------


def test_one_trace_from_the_caller_to_the_reply(bus: MemoryBus) -> None:
    with TRACER.start_as_current_span("program"):
        assert bus.sender.call("NODE-01.math.add", [1, 2])[1] == 3
    bus.advance(0.1)
    spans = Spans()
    assert len(spans.trace_ids()) == 1
    send = "send servicebus:NODE-01.rpc"
    assert sorted(map(spans.tree, spans.all)) == [
        "program",
        "program > math.add",
        "program > math.add > math.add",
        "program > math.add > math.add > adding",
        "program > math.add > math.add > reply math.add",
        f"program > math.add > {send}",
        "program > math.add > wait math.add",
    ]
    client, server = spans.one("math.add", SpanKind.CLIENT), spans.one("math.add", SpanKind.SERVER)
    wanted = ("rpc.system.name", "rpc.method", f"{PREFIX}node", f"{PREFIX}attempts", "server.address", "server.port")
    assert attributes(client, *wanted) == ("servicebus_failover", "math.add", "NODE-01", 1, "mq-1", 5672)
    assert attributes(client, f"{PREFIX}request.id") == attributes(server, f"{PREFIX}request.id")
    assert attributes(server, *wanted[:2], f"{PREFIX}attempt", f"{PREFIX}result") == (
        *attributes(client, *wanted[:2]),
        1,
        "done",
    )
    attempt = spans.one(send)
    assert attempt.kind is SpanKind.CLIENT
    assert attributes(attempt, "messaging.system", "messaging.operation.type", "server.address", f"{PREFIX}broker") == (
        "rabbitmq", "send", "mq-1", "mq-1",
    )  # fmt: skip
    assert all(span.status.status_code is StatusCode.UNSET for span in spans.all)
    assert server.instrumentation_scope is not None
    assert server.instrumentation_scope.schema_url == "https://opentelemetry.io/schemas/1.44.0"


def test_a_nested_call_is_in_the_trace(bus: MemoryBus) -> None:
    assert bus.sender.call("NODE-01.math.nested")[1] == 7
    spans = Spans()
    assert len(spans.trace_ids()) == 1
    (adding,) = spans.named("adding")
    assert spans.tree(adding) == "math.nested > math.nested > math.add > math.add > adding"


def test_the_error_of_a_service_stands_in_its_span(bus: MemoryBus) -> None:
    with pytest.raises(RemoteError):
        bus.sender.call("NODE-01.math.fail")
    spans = Spans()
    server, client = spans.one("math.fail", SpanKind.SERVER), spans.one("math.fail", SpanKind.CLIENT)
    assert attributes(server, "error.type", f"{PREFIX}result") == ("LookupError", "failed")
    assert (server.status.status_code, server.status.description) == (StatusCode.ERROR, "no such thing")
    assert attributes(client, "error.type") == ("RemoteError",)
    assert (client.status.status_code, client.status.description) == (StatusCode.ERROR, None)
    assert spans.one("send servicebus:NODE-01.rpc").status.status_code is StatusCode.UNSET, "it was answered"


def test_a_broker_that_falls_silent_is_an_attempt_of_its_own(bus: MemoryBus) -> None:
    bus.sender.call("NODE-01.math.add", [1])
    provide()
    bus.brokers[0].freeze()
    assert bus.sender.call("NODE-01.math.add", [1, 2])[1] == 3
    spans = Spans()
    first, second = spans.named("send servicebus:NODE-01.rpc")
    assert attributes(first, "server.address", f"{PREFIX}attempt", "error.type") == ("mq-1", 1, "late")
    assert first.status.description == "is late with the answer to a ping"
    assert attributes(second, "server.address", f"{PREFIX}attempt", "error.type") == ("mq-2", 2, None)
    client, server = spans.one("math.add", SpanKind.CLIENT), spans.one("math.add", SpanKind.SERVER)
    assert attributes(client, f"{PREFIX}attempts", f"{PREFIX}failovers", "server.address") == (2, 1, "mq-2")
    assert attributes(server, f"{PREFIX}attempt", "server.address") == (2, "mq-2")
    assert len(spans.trace_ids()) == 1


def test_a_call_that_waits_for_a_path_says_so(bus: MemoryBus) -> None:
    for broker in bus.brokers:
        broker.kill()
    with pytest.raises(NoBrokerAvailable):
        bus.sender.call("NODE-01.math.add", [1])
    (client,) = Spans().all
    assert [event.name for event in client.events] == [f"{PREFIX}wait"]
    assert attributes(client, "error.type", f"{PREFIX}attempts", "server.address") == ("NoBrokerAvailable", 0, None)


def test_a_hedged_call_has_both_attempts(bus: MemoryBus) -> None:
    bus.sender.call("NODE-01.math.add", [1])
    provide()
    bus.brokers[0].freeze()
    assert bus.sender.call("NODE-01.math.add", [1, 2], hedge_after=0.1)[1] == 3
    attempts = Spans().named("send servicebus:NODE-01.rpc")
    assert [attributes(span, f"{PREFIX}hedge") for span in attempts] == [(None,), (True,)]


def test_a_cancelled_call_has_ended(bus: MemoryBus) -> None:
    bus.brokers[0].freeze()
    future = bus.sender.call_async("NODE-01.math.add", [1])
    future.cancel()
    bus.advance(0.1)
    client = Spans().one("math.add", SpanKind.CLIENT)
    assert attributes(client, "error.type") == ("cancelled",)


def test_a_call_that_is_not_run_has_waited(bus: MemoryBus) -> None:
    first = bus.sender.call_async("NODE-01.math.slow", 5)
    with pytest.raises(CallTimeout):
        bus.sender.call("NODE-01.math.slow", 1, timeout=2)
    assert first.result()[1] == 5
    bus.advance(1)
    spans = Spans()
    assert len(spans.named("math.slow", SpanKind.SERVER)) == 1
    waits = spans.named("wait math.slow")
    assert [attributes(wait, "error.type") for wait in waits] == [(None,), ("cancelled.not-run",)]


def test_a_service_that_is_cancelled_says_so(bus: MemoryBus) -> None:
    with pytest.raises(CallTimeout):
        bus.sender.call("NODE-01.typed.waits", {"seconds": 60}, timeout=1)
    bus.advance(1)
    spans = Spans()
    assert attributes(spans.one("typed.waits", SpanKind.CLIENT), "error.type") == ("CallTimeout",)
    assert attributes(spans.one("typed.waits", SpanKind.SERVER), "error.type") == ("CancelledError",)
    assert attributes(spans.named("send servicebus:NODE-01.rpc")[-1], "error.type") == ("CallTimeout",)


def test_an_asynchronous_service_and_sender() -> None:
    provide()

    async def ask() -> None:
        async with servicebus.testing.bus(SERVICES, group, traces=True) as bus:
            with TRACER.start_as_current_span("program"):
                calls = [bus.async_sender.call("NODE-01.typed.waits", {"seconds": 0.1 * number}) for number in (1, 2)]
                await asyncio.gather(*calls)

    asyncio.run(ask())
    spans = Spans()
    assert len(spans.trace_ids()) == 1
    assert [spans.tree(span) for span in spans.named("waiting")] == [
        "program > typed.waits > typed.waits > waiting"
    ] * 2


def test_a_stream_is_a_call(bus: MemoryBus) -> None:
    with TRACER.start_as_current_span("program"):
        assert list(bus.sender.stream("NODE-01.typed.rows", {"count": 3})) == [0, 1, 2]
    spans = Spans()
    assert spans.tree(spans.one("typed.rows", SpanKind.SERVER)) == "program > typed.rows > typed.rows"
    assert attributes(spans.one("typed.rows", SpanKind.CLIENT), "error.type") == (None,)


def test_calls_of_a_gather_are_in_one_trace(bus: MemoryBus) -> None:
    with TRACER.start_as_current_span("program"):
        assert bus.sender.gather("*.math.add", [1, 2]).results == {"NODE-01": 3}
    spans = Spans()
    assert spans.tree(spans.one("math.add", SpanKind.SERVER)) == "program > math.add > math.add"


def test_a_trace_that_the_caller_names_goes_on(bus: MemoryBus) -> None:
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    given = {"traceparent": f"00-{trace_id}-b7ad6b7169203331-01", "tracestate": "a=b", "tenant": "north"}
    told = bus.sender.call("NODE-01.math.context", context=given)[1]
    spans = Spans()
    assert {f"{found:032x}" for found in spans.trace_ids()} == {trace_id}
    server = context_of(spans.one("math.context", SpanKind.SERVER))
    assert told == {
        "tenant": "north", "tracestate": "a=b", "traceparent": f"00-{trace_id}-{server.span_id:016x}-01",
    }  # fmt: skip


def test_a_context_that_is_full_is_not_touched(bus: MemoryBus) -> None:
    full = {"tenant": "x" * 4080}
    assert bus.sender.call("NODE-01.math.context", context=full)[1] == full
    assert len(Spans().named("math.context")) == 2, "in two traces"


def test_what_was_not_sampled_is_not_recorded_anywhere(bus: MemoryBus) -> None:
    given = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"}
    assert bus.sender.call("NODE-01.math.nested", context=given)[1] == 7
    assert bus.sender.call("NODE-01.math.context", context=given)[1]["traceparent"][-3:] == "-00"
    assert Spans().names == []


# -- messages and events -----------------------------------------------------------------------------------------------


def test_a_message_is_a_trace_of_its_own_that_links_to_its_sender(bus: MemoryBus) -> None:
    bus.sender.send("NODE-01.log.note", "ask")
    bus.advance(0.1)
    spans = Spans()
    create, process = spans.one("create NODE-01.log.note"), spans.one("process log.note")
    assert (create.kind, process.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert spans.tree(spans.one("send servicebus:NODE-01.messages")).startswith("create NODE-01.log.note > ")
    assert process.parent is None and linked(process) == context_of(create).span_id
    assert spans.tree(spans.one("adding")) == "process log.note > math.add > math.add > adding"
    wanted = ("messaging.system", "messaging.operation.type", "messaging.destination.name", f"{PREFIX}service")
    assert attributes(process, *wanted) == ("rabbitmq", "process", "servicebus:NODE-01.messages", "log.note")
    assert attributes(process, "messaging.message.id") == attributes(create, "messaging.message.id")


def test_each_attempt_at_a_message_is_a_span(bus: MemoryBus) -> None:
    bus.sender.send("NODE-01.log.note", "later")
    bus.advance(2)
    spans = Spans()
    attempts = spans.named("process log.note")
    assert [attributes(span, f"{PREFIX}attempt", f"{PREFIX}result", "error.type") for span in attempts] == [
        (1, "failed", "OSError"), (2, "done", None),
    ]  # fmt: skip
    assert len(set(map(linked, attempts))) == 1
    assert len(spans.trace_ids()) == 3


def test_an_event_links_to_its_publisher(bus: MemoryBus) -> None:
    bus.sender.publish("orders.created", {})
    bus.advance(0.1)
    spans = Spans()
    create, process = spans.one("create orders.created"), spans.one("process orders.created")
    assert linked(process) == context_of(create).span_id
    assert attributes(process, "messaging.destination.name") == ("servicebus.events:orders.created",)
    assert spans.named("send servicebus.events:orders.created")


def test_a_request_that_is_put_in_again_keeps_its_start() -> None:
    host = Configuration({"hosts": ["a"], "secret_token": "s"}).hosts[0]
    traces = ServiceTraces("NODE-01", "servicebus", host, chosen_alone=False)
    job: Any = SimpleNamespace(started=nothing)
    traces.noted(job)
    first = start_of(job, TracedStart)
    traces.noted(job)
    assert first is not None and start_of(job, TracedStart) is first
    assert start_of(job, TimedStart) is None


def test_a_control_request_has_no_spans() -> None:
    provide()
    form = TracedForm(PendingRequest, 1.0)
    assert form(0, "a-1", Address.parse("NODE-01.node.describe"), Kind.CONTROL, b"", timeout_s=1.0).context == ""
    assert form(1, "a-2", Address.parse("NODE-01.math.add"), Kind.CALL, b"", timeout_s=1.0).context != ""


def test_a_command_needs_nothing_of_it(tmp_path: Path) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text("{hosts: [a], secret_token: s, traces: true}")
    with Sender(load(str(file))) as sender:
        assert sender._form is PendingRequest


# -- what it costs, and what it needs ----------------------------------------------------------------------------------


def test_a_part_of_the_requests_begins_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    provide()
    numbers = iter([0.01, 0.99, 0.99, 0.01])
    monkeypatch.setattr("servicebus.client.tracing.random", lambda: next(numbers))
    with servicebus.testing.bus(SERVICES, traces=0.5) as bus:
        assert bus.sender.call("NODE-01.math.nested")[1] == 7
        chosen = sorted(Spans().names)
        assert len(Spans().trace_ids()) == 1 and "adding" in chosen
        assert bus.sender.call("NODE-01.math.nested")[1] == 7
        nested_alone = [name for name in Spans().names if name != "adding"]
        assert len(nested_alone) == len(chosen) - 1, "neither the call nor what its service asks"
        assert bus.sender.call("NODE-01.math.context")[1]["traceparent"]
    assert list(numbers) == []


@pytest.mark.parametrize(("given", "rate"), [(False, 0.0), (True, 1.0), (0.25, 0.25), (1, 1.0), ("yes", 1.0)])
def test_which_part_is_configured(given: Any, rate: float) -> None:
    assert Configuration({"hosts": ["a"], "secret_token": "s", "traces": given}).traces == rate


def test_metrics_and_traces_stand_beside_each_other() -> None:
    provide()
    with servicebus.testing.bus(SERVICES, traces=True, metrics={}) as bus:
        collector = SenderCollector(bus.sender)
        assert bus.sender.call("NODE-01.math.add", [1])[1] == 1
        bus.advance(0.01)
        (worker,) = [each for each in bus.node._workers if each.host.name.startswith("mq-1")]
        assert {"ok": 1} in [entry.counts.get("outcomes") for entry in worker.report() if "math.add" in entry.key]
        assert any(sample.value == 1 for metric in collector.collect() for sample in metric.samples)
    assert len(Spans().named("math.add")) == 2


def test_without_traces_nothing_is_made() -> None:
    provide()
    with servicebus.testing.bus(SERVICES) as bus, TRACER.start_as_current_span("program"):
        assert bus.sender.call("NODE-01.math.context")[1] == {}
        assert bus.sender._form is PendingRequest
    assert Spans().names == ["program"]


def test_what_a_processor_raises_costs_the_span_alone(bus: MemoryBus, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("of the program")

    monkeypatch.setattr(PROVIDER._active_span_processor, "on_end", broken)
    assert bus.sender.call("NODE-01.math.context")[1]
    monkeypatch.setattr(PROVIDER._active_span_processor, "on_start", broken)
    assert bus.sender.call("NODE-01.math.context")[1] == {}


@pytest.mark.parametrize("make", [Sender, lambda config: ServiceBus(config)._begin()])
def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch, make: Any) -> None:
    config = Configuration({"hosts": ["a"], "secret_token": "s", "traces": True, "journal": "memory"})
    monkeypatch.delitem(sys.modules, "servicebus.observability.spans", raising=False)
    monkeypatch.delitem(sys.modules, "servicebus.client.tracing", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", None)
    with pytest.raises(ConfigurationError, match=r"traces.*servicebus-failover\[otel\]"):
        make(config)
