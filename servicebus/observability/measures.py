"""Measures of an agent, from the document of its status socket: what ``servicebus check`` compares with thresholds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from servicebus.observability.health import Document, ready_brokers, why_dead
from servicebus.observability.thresholds import Measured

__all__ = ["AGENT_MEASURES", "BROKER_MEASURES", "Measure", "agent_measures"]


class Measure(NamedTuple):
    """What one is, and which ranges hold if the operator says nothing; "" for no alert."""

    help: str
    warn: str = ""
    critical: str = ""


AGENT_MEASURES: Mapping[str, Measure] = {
    "live": Measure("1 if the loops of master and workers iterate.", critical="1:"),
    "brokers_ready": Measure("Brokers over which the agent takes requests.", critical="1:"),
    "brokers_not_ready": Measure("Brokers over which it does not, but for those that an operator drains.", warn="0"),
    "brokers_drained": Measure("Brokers that an operator has taken out of service."),
    "workers_consuming": Measure("Workers that consume, of each broker.", warn="1:"),
    "heartbeat_age": Measure("Since the last heartbeat of a worker; the oldest.", warn="5", critical="15"),
    "restarts": Measure("Workers that have ended, since the agent began."),
    "lost": Measure("For how long each broker was not served, since the agent began."),
    "inbox": Measure("Requests that services of the workers have not finished."),
    "problems": Measure("Services that cannot serve.", warn="0"),
    "journal_unfinished": Measure("Ids in the journal that are begun and not finished."),
    "journal_forgotten_early": Measure("Ids that the journal had to forget before their time.", warn="0"),
    "outbox": Measure("Events that services have published, and no broker has taken yet."),
    "reload_failed": Measure("1 if the last reload was refused or taken back, or left something that fails.", warn="0"),
    "needs_restart": Measure("Settings of the file that need a restart."),
}
BROKER_MEASURES: Mapping[str, Measure] = {
    "brokers_reached": Measure("Brokers that could be reached from here.", critical="1:"),
    "brokers_unreachable": Measure("Those that could not.", warn="0"),
    "consumers": Measure("Workers that take calls of the node, of each broker.", warn="1:"),
    "consumers_of_all": Measure("The same over all brokers.", critical="1:"),
    "messages": Measure("Messages and events that wait for the node, over all brokers.", warn="1000"),
    "dead_letters": Measure("Dead letters of the node, over all brokers.", warn="0"),
}
_DRAINED = ("leaving", "drained")


def agent_measures(document: Document) -> Iterator[Measured]:
    """All of them."""
    workers = document["workers"]
    why = why_dead(document)
    yield Measured("live", int(not why), why=why)
    yield from _of_brokers(document)
    ages = [worker.get("heartbeat_age_s") or 0.0 for worker in workers]
    yield Measured("heartbeat_age", max(ages, default=0.0), unit="s")
    yield Measured("restarts", sum(worker.get("restarts", 0) for worker in workers), unit="c")
    yield Measured("inbox", _sum(workers, "backlog"))
    problems = [str(problem) for worker in workers for problem in worker.get("problems", ())]
    yield Measured("problems", len(problems), why="; ".join(problems))
    journals = [worker.get("journal", {}) for worker in workers]
    for name, key in (("journal_unfinished", "unfinished"), ("journal_forgotten_early", "forgotten_early")):
        yield Measured(name, max((each.get(key, 0) for each in journals), default=0))  # one journal for all workers
    yield Measured("outbox", _sum(workers, "outbox_messages"))
    yield from _of_reload(document.get("reload", {}))


def _of_brokers(document: Document) -> Iterator[Measured]:
    workers = document["workers"]
    unready = {broker: why for broker, why in ready_brokers(document).items() if why}
    drained = [broker for broker in unready if _states(workers, broker) <= set(_DRAINED)]
    missing = [f"{broker}: {why}" for broker, why in unready.items() if broker not in drained]
    brokers = list(dict.fromkeys(str(worker["host"]) for worker in workers))
    if document.get("stopping"):
        missing.append("the agent is stopping")
    why = "; ".join(missing)
    yield Measured("brokers_ready", 0 if document.get("stopping") else len(brokers) - len(unready), why=why)
    yield Measured("brokers_not_ready", len(unready) - len(drained), why=why)
    yield Measured("brokers_drained", len(drained), why=", ".join(drained))
    for broker in brokers:
        of_broker = [worker for worker in workers if str(worker["host"]) == broker]
        if broker not in drained:
            yield Measured("workers_consuming", sum(map(_consumes, of_broker)), broker, why=unready.get(broker, ""))
        yield Measured("lost", max(worker.get("lost_s", 0.0) for worker in of_broker), broker, "c")


def _of_reload(report: Mapping[str, Any]) -> Iterator[Measured]:
    why = "; ".join([report["error"]] if report.get("error") else report.get("failed", ()))
    yield Measured("reload_failed", int(bool(why)), why=why)
    pending = [str(each.get("key")) for each in report.get("needs_restart", ())]
    yield Measured("needs_restart", len(pending), why=", ".join(pending))


def _states(workers: Any, broker: str) -> set[str]:
    return {str(worker.get("state")) for worker in workers if str(worker["host"]) == broker}


def _consumes(worker: Mapping[str, Any]) -> bool:
    return worker.get("state") == "consuming" and bool(worker.get("healthy"))


def _sum(workers: Any, name: str) -> int:
    return int(sum(worker.get(name, 0) for worker in workers))
