"""What an agent and a Sender count for Prometheus, on the bus in memory."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from scraped import Scraped

import servicebus.testing
from servicebus.client.meter import SenderMeter
from servicebus.client.request import PendingRequest
from servicebus.configuration import Configuration
from servicebus.errors import ConfigurationError, NodeUnavailable, RemoteError
from servicebus.metrics import SenderCollector
from servicebus.observability.collector import AgentCollector
from servicebus.observability.families import exposed
from servicebus.observability.health import document_of
from servicebus.observability.histograms import BOUNDS_S, OTHER, Histogram, Outcomes
from servicebus.observability.reports import Entry, Reports, log_records_lost, summed
from servicebus.runtime.job import JobResult, Outcome
from servicebus.runtime.report import WorkerReport
from servicebus.runtime.service_meter import ServiceMeter, kind_of, measured
from servicebus.service import ServiceBus
from servicebus.services import MessageService, Request, RpcService
from servicebus.testing import MemoryBus
from servicebus.wire.fault import EXPIRED, Fault


class Add(RpcService):
    def handle(self, request: Request) -> Any:
        return sum(request.params)


class Fail(RpcService):
    def handle(self, request: Request) -> Any:
        raise LookupError(request.params)


class Nested(RpcService):
    def handle(self, request: Request) -> Any:
        return request.get_sender().call("NODE-01.math.add", [3, 4])[1]


class Note(MessageService):
    def handle(self, request: Request) -> None:
        if request.params == "bad":
            raise ValueError(request.params)


SERVICES: dict[str, Any] = {"math.add": Add(), "math.fail": Fail(), "math.nested": Nested(), "log.note": Note()}


@pytest.fixture
def bus() -> Iterator[MemoryBus]:
    with servicebus.testing.bus(SERVICES, metrics={}, retry_schedule=[]) as bus:
        yield bus


def told(bus: MemoryBus) -> list[tuple[str, Reports]]:
    """What the master has heard of all its workers."""
    bus.advance(0.01)
    found = []
    for worker in bus.node._workers:
        reports = Reports()
        for entry in worker.report():
            line = json.dumps({"report": entry})
            assert len(line) < 4096, "a pipe takes so much in one piece, or nothing"
            reports.take(json.loads(line)["report"])
        found.append((worker.host.name, reports))
    return found


def scraped(reports: list[tuple[str, Reports]]) -> Scraped:
    workers: list[dict[str, Any]] = [
        {"host": host, "state": "consuming", "healthy": True, "restarts": 0, "lost_s": 0.0, "heartbeat_age_s": 0.2}
        for host, _ in reports
    ]
    status = document_of("NODE-01", workers, is_stopping=False)
    return Scraped(exposed(AgentCollector(lambda: status, lambda: reports))[0].decode())


def of_sender(collector: SenderCollector) -> Scraped:
    registry = CollectorRegistry()
    registry.register(collector)
    return Scraped(generate_latest(registry).decode())


# -- an agent ----------------------------------------------------------------------------------------------------------


def test_requests_are_counted_by_service_and_outcome(bus: MemoryBus) -> None:
    for _ in range(3):
        bus.sender.call("NODE-01.math.add", [1, 2])
    with pytest.raises(RemoteError):
        bus.sender.call("NODE-01.math.fail", "x")
    for params in ("good", "bad"):
        bus.sender.send("NODE-01.log.note", params)
    found = scraped(told(bus))
    assert found.value("requests_total", kind="call", service="math.add", outcome="ok") == 3
    assert found.value("requests_total", kind="call", service="math.fail", outcome="LookupError") == 1
    assert found.value("requests_total", kind="message", service="log.note", outcome="ok") == 1
    assert found.value("requests_total", kind="message", service="log.note", outcome="ValueError") == 1
    assert found.value("dead_letters_total") == 1
    assert found.value("request_run_seconds_count", service="math.add") == 3
    assert found.value("request_wait_seconds_count", service="math.add") == 3
    assert found.value("requests_running") == found.value("requests_waiting") == 0
    assert found.value("requests_capacity", service="math.add", broker="mq-1") == 256
    assert found.value("broker_connections_opened_total", broker="mq-2") == 1


def test_what_services_ask_is_counted_as_of_a_sender(bus: MemoryBus) -> None:
    assert bus.sender.call("NODE-01.math.nested")[1] == 7
    found = scraped(told(bus))
    assert found.value("client_requests_total", node="NODE-01", target="NODE-01.math.add", outcome="ok") == 1
    assert found.value("client_request_seconds_count", target="NODE-01.math.add") == 1


def test_a_stranger_makes_no_labels(bus: MemoryBus) -> None:
    for number in range(5):
        with pytest.raises(servicebus.errors.UnknownService):
            bus.sender.call(f"NODE-01.of-a.stranger-{number}")
    found = scraped(told(bus))
    assert found.value("refusals_total", reason="unknown-service") == 5
    assert found.labels("requests_capacity", "service") == set(SERVICES)
    assert not any("stranger" in label for label in found.labels("refusals_total", "reason"))


def test_only_what_has_changed_is_told_again(bus: MemoryBus) -> None:
    first, _ = bus.node._workers
    assert isinstance(first.report, WorkerReport)
    assert {entry.section for entry in first.report()} >= {"worker", "counters", "journal", "service"}
    assert [entry.key for entry in first.report() if entry.section == "service"] == []
    bus.sender.call("NODE-01.math.add", [1])
    bus.advance(0.01)
    assert [entry.key for entry in first.report() if entry.section == "service"] == ["call math.add"]


def test_what_the_pipe_did_not_take_is_told_the_next_time(bus: MemoryBus) -> None:
    first, _ = bus.node._workers
    report = iter(first.report())
    services = 0
    while services < 2:  # the pipe takes the first one, and is full at the second
        services += next(report).section == "service"
    del report
    rest = [entry.key for entry in first.report() if entry.section == "service"]
    assert len(rest) == len(SERVICES) - 1 and rest[0] != "call math.add"


def test_without_metrics_nothing_is_counted() -> None:
    with servicebus.testing.bus(SERVICES) as bus:
        bus.sender.call("NODE-01.math.add", [1])
        worker = bus.node._workers[0]
        assert list(worker.report()) == []
        assert "noted" not in repr(worker.threads[0]._enqueue)
        assert bus.sender._form is PendingRequest and worker._meters is None


def test_the_extra_that_is_missing_is_named_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client.core", None)
    for name in ("families", "collector"):
        monkeypatch.delitem(sys.modules, f"servicebus.observability.{name}", raising=False)
    config = Configuration({"hosts": ["mq-a"], "secret_token": "s" * 20, "metrics": {}, "journal": "memory"})
    with pytest.raises(ConfigurationError, match=r"pip install servicebus-failover\[metrics\]"):
        ServiceBus(config)._begin()


# -- a Sender ----------------------------------------------------------------------------------------------------------


def test_a_sender_counts_what_it_is_asked_once_it_has_a_collector(bus: MemoryBus) -> None:
    sender = bus.make_sender()
    sender.call("NODE-01.math.add", [1])  # nobody counts yet
    collector = SenderCollector(sender)
    for _ in range(2):
        sender.call("NODE-01.math.add", [1])
    with pytest.raises(RemoteError):
        sender.call("NODE-01.math.fail")
    sender.send("NODE-01.log.note", "good")
    found = of_sender(collector)
    assert found.value("client_requests_total", kind="call", target="NODE-01.math.add", outcome="ok") == 2
    assert found.value("client_requests_total", target="NODE-01.math.fail", outcome="RemoteError") == 1
    assert found.value("client_requests_total", kind="message", target="NODE-01.log.note", outcome="ok") == 1
    assert found.value("client_request_seconds_count", target="NODE-01.math.add") == 2
    assert found.value("client_published_total", broker="mq-1") == 4
    assert found.value("client_usable", broker="mq-1") == found.value("client_preferred", broker="mq-1") == 1
    assert found.value("client_in_flight") == 0


def test_only_a_target_that_has_answered_has_a_label(bus: MemoryBus) -> None:
    collector = SenderCollector(sender := bus.make_sender())
    for number in range(3):
        with pytest.raises(NodeUnavailable):
            sender.call(f"NODE-OF-{number}.math.add", timeout=5)
    found = of_sender(collector)
    assert found.labels("client_requests_total", "target") == {OTHER}
    assert found.value("client_requests_total", outcome="NodeUnavailable") == 3


def test_what_a_broker_costs_is_counted_there(bus: MemoryBus) -> None:
    collector = SenderCollector(sender := bus.make_sender())
    sender.call("NODE-01.math.add", [1])
    bus.brokers[0].freeze()
    before = bus.now
    assert sender.call("NODE-01.math.add", [1, 2])[1] == 3
    took_s = bus.now - before
    found = of_sender(collector)
    assert found.value("client_failovers_total", broker="mq-1") == 1
    assert found.value("client_resends_total", broker="mq-1", reason="suspect") == 1
    assert 0 < found.value("client_lost_seconds_total", broker="mq-1") <= took_s + 0.001
    assert found.values("client_resends_total", broker="mq-2") == []
    assert found.value("client_hedged_total") == 1
    assert found.value("client_connections_lost_total", broker="mq-1") == 0, "it is not given up yet"


def test_senders_of_a_process_are_summed(bus: MemoryBus) -> None:
    senders = [bus.make_sender(), bus.make_sender()]
    collector = SenderCollector(*senders)
    for sender in senders:
        sender.call("NODE-01.math.add", [1])
    found = of_sender(collector)
    assert found.value("client_requests_total", outcome="ok") == found.value("client_usable", broker="mq-1") == 2


def test_a_call_that_is_cancelled_is_counted_as_that(bus: MemoryBus) -> None:
    meter = SenderMeter(sender := bus.make_sender())
    bus.brokers[0].freeze()
    bus.brokers[1].freeze()
    sender.call_async("NODE-01.math.add", [1]).cancel()
    bus.advance(0.1)
    counts = [entry.counts["outcomes"] for entry in meter.entries() if entry.section == "client"]
    assert counts == [{"cancelled": 1}]


# -- the parts ---------------------------------------------------------------------------------------------------------


class Started:
    """A job, as far as a meter asks it."""

    def __init__(self) -> None:
        self.calls = 0
        self.started: Callable[[], None] = self.start

    def start(self) -> None:
        self.calls += 1


def test_a_request_is_counted_once_whatever_happens_to_its_thread() -> None:
    meter, job = ServiceMeter("call", "a.b"), Started()
    for _ in range(2):  # put in again
        meter.noted(job)  # type: ignore[arg-type]
    assert meter.entry(1, 5).now == {"running": 0, "waiting": 1, "capacity": 5}
    job.started()
    assert job.calls == 1 and meter.entry(1, 5).now == {"running": 1, "waiting": 0, "capacity": 5}
    handed: list[Any] = []
    hand_over = measured(lambda outcome, rest: handed.append((outcome, rest)))
    outcome = Outcome(job)  # type: ignore[arg-type]
    for _ in range(2):  # handed over again
        hand_over(outcome, "rest")
    assert handed == [(outcome, "rest")] * 2
    entry = meter.entry(0, 5)
    assert entry.counts["outcomes"] == {"ok": 1} and sum(entry.counts["run"]["buckets"]) == 1
    assert entry.now == {"running": 0, "waiting": 0, "capacity": 5}


def test_what_was_never_run_has_no_times() -> None:
    meter, job = ServiceMeter("call", "a.b"), Started()
    meter.noted(job)  # type: ignore[arg-type]
    measured(lambda outcome: None)(Outcome(job, None, Fault(EXPIRED, ""), JobResult.NOT_RUN))  # type: ignore[arg-type]
    counts = meter.entry(0, 5).counts
    assert counts["outcomes"] == {"expired": 1} and not sum(counts["run"]["buckets"])


def test_kinds_of_services(bus: MemoryBus) -> None:
    kinds = {thread.service.key: kind_of(thread.service) for thread in bus.node._workers[0].threads}
    assert kinds == {"math.add": "call", "math.fail": "call", "math.nested": "call", "log.note": "message"}


def test_a_histogram_counts_each_time_once() -> None:
    histogram = Histogram()
    for seconds in (0.0, BOUNDS_S[0], 0.0006, 10.0, 11.0):
        histogram.add(seconds)
    report = histogram.report()
    assert (report["buckets"][0], report["buckets"][1], report["buckets"][-2:]) == (2, 1, [1, 1])
    assert sum(report["buckets"]) == 5 and report["sum_s"] == pytest.approx(21.0011)


def test_outcomes_have_a_limit() -> None:
    outcomes = Outcomes()
    for number in range(100):
        outcomes.add(f"Error{number}")
    assert len(outcomes.counts) == 25 and outcomes.counts[OTHER] == 76
    outcomes.add("x" * 1000)
    assert max(map(len, outcomes.counts)) < 50


def test_counts_stay_when_a_worker_ends_and_what_is_now_does_not() -> None:
    reports = Reports()
    for count in (5, 7):
        reports.take(
            ["service", "call a.b", {"outcomes": {"ok": count}, "run": {"buckets": [count, 0]}}, {"running": 2}]
        )
    reports.ended()
    reports.take(["service", "call a.b", {"outcomes": {"ok": 1, "no": 1}, "run": {"buckets": [1, 1]}}, {"running": 1}])
    (entry,) = summed(reports.entries()).values()
    assert entry.counts == {"outcomes": {"ok": 8, "no": 1}, "run": {"buckets": [8, 1]}}
    assert entry.now == {"running": 1}


@pytest.mark.parametrize("garbage", [None, 5, "text", [], ["a", "b", {}], ["a", "b", [], {}], [1, "b", {}, {}]])
def test_what_is_no_entry_is_ignored(garbage: Any) -> None:
    reports = Reports()
    reports.take(garbage)
    assert reports.entries() == []


def test_counts_of_different_forms_end_nothing() -> None:
    odd = [Entry("a", "", {"n": 1}, {}), Entry("a", "", {"n": {"x": 1}}, {}), Entry("a", "", {"n": [1]}, {})]
    assert summed(odd)["a", ""].counts == {"n": 1}


def test_a_process_without_a_log_server_loses_no_records() -> None:
    assert log_records_lost() == 0
