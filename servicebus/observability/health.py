"""Health of an agent, from the document of its status socket: whether it lives, and where it is ready.

It *lives* while the loops of its master and workers iterate, whatever brokers do: if it does not, restart it. It
is *ready* on a broker while a worker consumes there and has just proved it: its probe went out by the connection that
publishes, through the broker, and came back by the one that consumes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

__all__ = ["Document", "document_of", "ready_brokers", "why_dead", "why_not_ready"]

Document = Mapping[str, Any]


def why_dead(document: Document) -> str:
    """Why the agent does not live; empty if it does."""
    silent = [worker for worker in document["workers"] if worker.get("silent")]
    return ", ".join(
        f"the worker of {worker['host']} (pid {worker['pid']}) stands still since {worker['heartbeat_age_s']:g} s"
        for worker in silent
    )


def document_of(node: str, workers: list[dict[str, Any]], *, is_stopping: bool) -> dict[str, Any]:
    """The document of an agent whose master is this process."""
    document = {
        "node": node,
        "pid": os.getpid(),
        "stopping": is_stopping,
        "healthy": any(worker.get("healthy") for worker in workers),
        "workers": workers,
    }
    is_ready = not is_stopping and "" in ready_brokers(document).values()
    return {**document, "live": not why_dead(document), "ready": is_ready}


def ready_brokers(document: Document) -> dict[str, str]:
    """For each broker why the agent is not ready there; empty if it is."""
    found: dict[str, str] = {}
    for worker in document["workers"]:
        why = "" if worker.get("ready") else why_not_ready(worker)
        host = str(worker["host"])
        found[host] = why if found.get(host, why) else ""  # one worker of several is enough
    return found


def why_not_ready(worker: Document) -> str:
    """In a few words, for one whose ``ready`` is false."""
    state = str(worker.get("state", "starting"))
    problems = [str(worker["last_error"])] if worker.get("last_error") else []
    problems += [f"the broker is blocked: {worker['blocked']}"] if worker.get("blocked") else []
    problems += map(str, worker.get("problems", ()))
    if state == "consuming" and not problems:
        problems.append("no probe has come through the broker just now")
    return f"{state} ({'; '.join(problems)})" if problems else state
