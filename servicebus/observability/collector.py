"""What was counted, as metrics of Prometheus: of an agent from its workers' reports, and of a Sender.

Every label is bounded: nodes and brokers are of the configuration, services of the registration, and what a program
names itself (exceptions, targets) has a limit, beyond which it is counted as ``_other``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from servicebus.observability.families import AGENT, CLIENT, Families
from servicebus.observability.histograms import OTHER
from servicebus.observability.reports import Entry, Reports, log_records_lost, summed

if TYPE_CHECKING:
    from prometheus_client.core import Metric

__all__ = ["AgentCollector", "client_families"]

_REASON = re.compile(r"[a-z0-9][a-z0-9._ -]{0,39}")
_REFUSED = "refused."
_NOT_RUN = ("busy", "expired", "stopping", "unknown-service", "interrupted", "redelivered")
_OWN = {"delayed": "retries", "aside": "deferrals", "dead": "dead_letters", "not-stored": "not_stored"}
"""Counters of a worker that are metrics by themselves."""


class AgentCollector:
    """The metrics of an agent.

    Args:
        snapshot: how the agent is, as its status socket says.
        reports: what the workers have counted, by the names of their brokers.
    """

    def __init__(self, snapshot: Callable[[], dict[str, Any]], reports: Callable[[], list[tuple[str, Reports]]]):
        self._snapshot = snapshot
        self._reports = reports
        self._version = _version()

    def __repr__(self) -> str:
        return f"<AgentCollector {self._version}>"

    def collect(self) -> Iterator[Metric]:
        status, families = self._snapshot(), Families(AGENT)
        node = str(status["node"])
        families.add("agent", 1, {"node": node, "version": self._version})
        families.add("agent_live", int(status["live"]), {"node": node})
        families.add("agent_ready", int(status["ready"]), {"node": node})
        families.add("agent_log_records_lost", log_records_lost(), {"node": node})
        families.add("agent_stopping", int(status["stopping"]), {"node": node})
        by_broker: dict[str, list[Entry]] = {}
        for worker in status["workers"]:
            _add_worker(families, node, worker)
        for broker, reports in self._reports():
            by_broker.setdefault(broker, []).extend(reports.entries())
        for broker, entries in by_broker.items():
            for entry in entries:
                if entry.section == "journal":  # one for all workers, so nothing to be summed
                    families.add_each("journal", entry.now, {"node": node}, most=True)
            for entry in summed(entries).values():
                _add_entry(families, node, broker, entry)
        yield from families.found()
        of_senders = (entry for entries in by_broker.values() for entry in entries)
        yield from client_families(summed(of_senders).values(), node)


def client_families(entries: Iterable[Entry], node: str = "") -> Iterator[Metric]:
    """The metrics of a Sender, from its entries; *node* is the agent's whose services have it."""
    families = Families(CLIENT)
    for entry in entries:
        if entry.section == "client":
            kind, _, target = entry.key.partition(" ")
            for outcome, count in entry.counts["outcomes"].items():
                families.add(
                    "client_requests", count, {"node": node, "kind": kind, "target": target, "outcome": outcome}
                )
            families.add_histogram(
                "client_request_seconds", entry.counts["took"], {"node": node, "kind": kind, "target": target}
            )
        elif entry.section == "link":
            reasons = entry.counts.get("resends", {})
            for reason, count in reasons.items():
                families.add("client_resends", count, {"node": node, "broker": entry.key, "reason": reason})
            families.add_each("client", {**entry.counts, **entry.now}, {"node": node, "broker": entry.key})
        elif entry.section in ("sender", "outbox", "process"):
            families.add_each("client", {**entry.counts, **entry.now}, {"node": node})
    return families.found()


def _add_worker(families: Families, node: str, worker: Mapping[str, Any]) -> None:
    broker = str(worker["host"])
    labels = {"node": node, "broker": broker}
    families.add("workers", 1, {**labels, "state": str(worker.get("state", "starting"))})
    families.add("worker_restarts", worker["restarts"], labels)
    families.add("broker_lost_seconds", worker["lost_s"], labels)
    families.add("broker_healthy", int(bool(worker["healthy"])), labels, most=True)
    families.add("broker_ready", int(bool(worker.get("ready"))), labels, most=True)
    families.add("broker_blocked", int(bool(worker.get("blocked"))), labels, most=True)
    families.add("worker_heartbeat_age_seconds", worker.get("heartbeat_age_s") or 0.0, labels, most=True)


def _add_entry(families: Families, node: str, broker: str, entry: Entry) -> None:
    labels = {"node": node, "broker": broker}
    if entry.section == "service":
        kind, _, service = entry.key.partition(" ")
        labels |= {"kind": kind, "service": service}
        for outcome, count in entry.counts["outcomes"].items():
            families.add("requests", count, {**labels, "outcome": outcome})
        families.add_histogram("request_wait_seconds", entry.counts["wait"], labels)
        families.add_histogram("request_run_seconds", entry.counts["run"], labels)
        families.add_each("requests", entry.now, labels)
    elif entry.section == "counters":
        _add_counters(families, entry.counts, labels)
    elif entry.section == "worker":
        families.add_each("broker", entry.counts, labels)


def _add_counters(families: Families, counters: Mapping[str, Any], labels: dict[str, str]) -> None:
    for name, count in counters.items():
        if name in _OWN:
            families.add(_OWN[name], count, labels)
        elif name.startswith(_REFUSED) or name in _NOT_RUN:
            families.add("refusals", count, {**labels, "reason": _bounded(name.removeprefix(_REFUSED))})
        elif not name.startswith("executed."):  # these are counted for each service
            families.add("worker_events", count, {**labels, "event": _bounded(name)})


def _bounded(word: str) -> str:
    """*word*, which is one of ours; what does not look so is counted as another."""
    return word if _REASON.fullmatch(word) else OTHER


def _version() -> str:
    try:
        return version("servicebus-failover")
    except PackageNotFoundError:  # it runs from its sources
        return "unknown"
