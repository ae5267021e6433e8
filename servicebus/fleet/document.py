"""document_of_fleet(): what is known of the fleet as JSON; ``servicebus status --fleet`` and ``top`` print it."""

from __future__ import annotations

from typing import Any

from servicebus.fleet.load import ServiceLoad
from servicebus.fleet.view import FleetView, NodeView, WorkerView

__all__ = ["document_of_fleet"]

_SHARES = {"p50": 0.5, "p99": 0.99}


def document_of_fleet(view: FleetView, at: float) -> dict[str, Any]:
    """All of *view*, as it was *at* that Unix time."""
    return {
        "time": round(at, 3),
        "brokers": [
            {"name": each.name, "reachable": not each.problem, **({"problem": each.problem} if each.problem else {})}
            for each in view.brokers
        ],
        "nodes": [_node(each) for each in view.nodes.values()],
    }


def _node(node: NodeView) -> dict[str, Any]:
    return {
        "name": node.name,
        "healthy": node.is_well,
        "paths": {broker: path.state.value for broker, path in node.paths.items()},
        "versions": list(node.versions),
        "calls_per_s": _rounded(node.calls_per_s),
        "messages_per_s": _rounded(node.messages_per_s),
        "problems": node.problems,
        "workers": [_worker(each) for each in node.workers],
        "services": [_service(each) for each in node.loads],
    }


def _worker(worker: WorkerView) -> dict[str, Any]:
    found: dict[str, Any] = {
        "broker": worker.broker,
        "machine": worker.machine,
        "pid": worker.pid,
        "since": worker.since,
        "counters": dict(worker.counters),
        "per_s": {name: _rounded(rate) for name, rate in worker.per_s.items()},
    }
    if worker.load is not None:
        found |= {"outbox": worker.load.outbox, "journal": dict(worker.load.journal)}
    return found


def _service(load: ServiceLoad) -> dict[str, Any]:
    return {
        "kind": load.kind,
        "name": load.name,
        "in_flight": load.backlog,
        "capacity": load.capacity,
        "ended": load.ended,
        "failed": load.failed,
        "per_s": _rounded(load.per_s),
        "failed_per_s": _rounded(load.failed_per_s),
        "run_ms": {name: _rounded(load.run_ms(share)) for name, share in _SHARES.items()},
        "wait_ms": {name: _rounded(load.wait_ms(share)) for name, share in _SHARES.items()},
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
