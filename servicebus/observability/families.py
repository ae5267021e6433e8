"""Families: the names of all metrics, what they mean, and their samples while they are collected."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any, Literal, NamedTuple

from servicebus.observability.histograms import BOUNDS_S

try:
    from prometheus_client.core import (
        CollectorRegistry,
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        InfoMetricFamily,
        Metric,
    )
    from prometheus_client.exposition import choose_encoder
except ImportError as error:
    raise ImportError("metrics need prometheus-client: pip install servicebus-failover[metrics]") from error

__all__ = ["AGENT", "CLIENT", "PREFIX", "Families", "Spec", "exposed"]

PREFIX = "servicebus_"


class Spec(NamedTuple):
    """A metric."""

    form: Literal["counter", "gauge", "histogram", "info"]
    labels: tuple[str, ...]
    help: str


_BROKER = ("node", "broker")
_SERVICE = (*_BROKER, "kind", "service")

AGENT: dict[str, Spec] = {
    "agent": Spec("info", ("node", "version"), "The agent and its version."),
    "agent_live": Spec("gauge", ("node",), "1 if the loops of master and workers iterate."),
    "agent_ready": Spec("gauge", ("node",), "1 if the agent takes requests over at least one broker."),
    "agent_log_records_lost": Spec("counter", ("node",), "Log records of the master that the log server never got."),
    "agent_stopping": Spec("gauge", ("node",), "1 from the moment when the agent was told to stop."),
    "workers": Spec("gauge", (*_BROKER, "state"), "Workers by their state."),
    "worker_restarts": Spec("counter", _BROKER, "Workers that have ended, and were or are to be started again."),
    "worker_heartbeat_age_seconds": Spec("gauge", _BROKER, "Since the last heartbeat of a worker; the oldest one."),
    "worker_events": Spec("counter", (*_BROKER, "event"), "What else the workers have counted: see docs/agent."),
    "broker_healthy": Spec("gauge", _BROKER, "1 if a worker serves the broker."),
    "broker_ready": Spec("gauge", _BROKER, "1 if a worker consumes from the broker, proved by a probe just now."),
    "broker_blocked": Spec("gauge", _BROKER, "1 if the broker does not read what a worker publishes."),
    "broker_lost_seconds": Spec("counter", _BROKER, "For how long the workers did not serve the broker."),
    "broker_connections_opened": Spec("counter", _BROKER, "How often workers began to consume from the broker."),
    "broker_connections_lost": Spec("counter", _BROKER, "Connections of workers that were lost, or failed to open."),
    "broker_log_records_lost": Spec("counter", _BROKER, "Log records of workers that the log server never got."),
    "requests": Spec("counter", (*_SERVICE, "outcome"), "Requests that services have left: ok, or why not."),
    "requests_running": Spec("gauge", _SERVICE, "Requests that a service runs now."),
    "requests_waiting": Spec("gauge", _SERVICE, "Requests in the inbox of a service."),
    "requests_capacity": Spec("gauge", _SERVICE, "How many requests a service accepts at a time."),
    "request_wait_seconds": Spec("histogram", _SERVICE, "From the inbox of a service until it runs."),
    "request_run_seconds": Spec("histogram", _SERVICE, "How long a service runs for a request."),
    "refusals": Spec("counter", (*_BROKER, "reason"), "Requests that were refused before a service had them."),
    "retries": Spec("counter", _BROKER, "Messages that were stored for a later attempt."),
    "deferrals": Spec("counter", _BROKER, "Messages that made room for others; no attempt."),
    "dead_letters": Spec("counter", _BROKER, "Messages that were stored among the dead letters."),
    "not_stored": Spec("counter", _BROKER, "Failed attempts to store a message; it is kept."),
    "journal_chunks": Spec("gauge", ("node",), "Ranges of ids that the journal remembers."),
    "journal_unfinished": Spec("gauge", ("node",), "Requests that the journal knows as begun."),
    "journal_answers": Spec("gauge", ("node",), "Answers that the journal keeps."),
    "journal_answer_bytes": Spec("gauge", ("node",), "Bytes of these answers."),
    "journal_forgotten_early": Spec("gauge", ("node",), "Ids that the journal had to forget before their time."),
    "journal_answers_forgotten_early": Spec("gauge", ("node",), "Answers that it had to forget before their time."),
}  # fmt: skip
"""Of an agent, without the prefix. A node's workers on one broker are one: their counts are summed."""

_TARGET = ("node", "kind", "target")
CLIENT: dict[str, Spec] = {
    "client_requests": Spec("counter", (*_TARGET, "outcome"), "Calls, messages and events: ok, or an error."),
    "client_request_seconds": Spec("histogram", _TARGET, "From the call until its end, whatever that is."),
    "client_in_flight": Spec("gauge", ("node",), "Requests that were published and are not answered."),
    "client_waiting": Spec("gauge", ("node",), "Requests that wait for a broker or a node."),
    "client_busy": Spec("counter", ("node",), "Answers that a service was busy; the call asks again."),
    "client_held_back": Spec("counter", ("node",), "How often a call was not sent again yet, for want of budget."),
    "client_hedged": Spec("counter", ("node",), "Calls that travelled over a second broker as well."),
    "client_late_replies": Spec("counter", ("node",), "Replies that no call waited for any more."),
    "client_unverified_replies": Spec("counter", ("node",), "Replies that were not believed."),
    "client_defects": Spec("counter", ("node",), "Callbacks that failed: please report them."),
    "client_published": Spec("counter", _BROKER, "Calls that were published over the broker."),
    "client_resends": Spec("counter", (*_BROKER, "reason"), "Requests that came back, to be sent again."),
    "client_failovers": Spec("counter", _BROKER, "Those that another broker has taken then."),
    "client_lost_seconds": Spec("counter", _BROKER, "Time that those had been on their way."),
    "client_usable": Spec("gauge", _BROKER, "Senders that can publish over the broker now."),
    "client_preferred": Spec("gauge", _BROKER, "Senders whose next request would take the broker."),
    "client_dead_paths": Spec("gauge", _BROKER, "Nodes that cannot be reached over the broker."),
    "client_unconfirmed": Spec("gauge", _BROKER, "Messages that the broker has not confirmed yet."),
    "client_connections_opened": Spec("counter", _BROKER, "How often the broker was connected."),
    "client_connections_lost": Spec("counter", _BROKER, "Connections that were lost, or failed to open."),
    "client_log_records_lost": Spec("counter", ("node",), "Log records of the program that the log server never got."),
    "client_outbox_messages": Spec("gauge", ("node",), "Messages in the outbox."),
    "client_outbox_bytes": Spec("gauge", ("node",), "Bytes of the file of the outbox."),
    "client_outbox_stored": Spec("counter", ("node",), "Messages that went into the outbox."),
    "client_outbox_delivered": Spec("counter", ("node",), "Messages that a broker took from the outbox."),
    "client_outbox_expired": Spec("counter", ("node",), "Messages whose time was over in the outbox."),
    "client_outbox_refused": Spec("counter", ("node",), "Messages of the outbox that no broker will take."),
}  # fmt: skip
"""Of a Sender: of that of a program, where ``node`` is empty, or of those of an agent's services."""


class Families:
    """The samples of one collection. What is not among *known* is ignored: an older worker may say less or more."""

    def __init__(self, known: Mapping[str, Spec]):
        self._known = known
        self._values: dict[str, dict[tuple[str, ...], Any]] = {}

    def __repr__(self) -> str:
        return f"<Families {list(self._values)}>"

    def add(self, name: str, value: float, labels: Mapping[str, str], *, most: bool = False) -> None:
        """One more value of *name*: those of the same labels are summed, or with *most* the largest counts."""
        family = self._known[name]
        values = self._values.setdefault(name, {})
        at = tuple(labels[label] for label in family.labels)
        before = values.get(at)
        values[at] = value if before is None else max(before, value) if most else before + value

    def add_each(self, group: str, values: Mapping[str, Any], labels: Mapping[str, str], *, most: bool = False) -> None:
        """All numbers of *values*, whose names follow that of their *group*."""
        for name, value in values.items():
            if f"{group}_{name}" in self._known and isinstance(value, (int, float)):
                self.add(f"{group}_{name}", value, labels, most=most)

    def add_histogram(self, name: str, report: Mapping[str, Any], labels: Mapping[str, str]) -> None:
        at = tuple(labels[label] for label in self._known[name].labels)
        self._values.setdefault(name, {})[at] = report

    def found(self) -> Iterator[Metric]:
        """Each metric that has a value, and the counters and gauges without one, so that their names are there."""
        for name, family in self._known.items():
            values = self._values.get(name, {})
            yield _made(PREFIX + name, family, values)


def exposed(collector: Any, accept: str = "") -> tuple[bytes, str]:
    """The text of the metrics of *collector* in the format that *accept* asks for, and its content type."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


def _made(name: str, family: Spec, values: Mapping[tuple[str, ...], Any]) -> Metric:
    if family.form == "histogram":
        histogram = HistogramMetricFamily(name, family.help, labels=family.labels)
        for labels, report in values.items():
            bounds = [*map(repr, BOUNDS_S), "+Inf"]
            histogram.add_metric(labels, list(zip(bounds, accumulate(report["buckets"]), strict=True)), report["sum_s"])
        return histogram
    if family.form == "info":
        info = InfoMetricFamily(name, family.help)
        for labels in values:
            info.add_metric([], dict(zip(family.labels, labels, strict=True)))
        return info
    make = CounterMetricFamily if family.form == "counter" else GaugeMetricFamily
    metric = make(name, family.help, labels=family.labels)
    for labels, value in values.items():
        metric.add_metric(labels, value)
    return metric
