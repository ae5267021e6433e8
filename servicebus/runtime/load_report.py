"""LoadReport: what a worker says of its services when an operator asks all nodes for their load.

It is made when it is asked for, of what is counted anyway. It is bounded: an answer that is too long would be refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from servicebus.runtime.service_meter import ServiceMeters, kind_of
from servicebus.runtime.service_thread import ServiceThread
from servicebus.runtime.singleton_thread import SingletonThread

__all__ = ["MOST_SERVICES", "LoadReport"]

MOST_SERVICES = 200
_MOST_PROBLEMS = 5
_PROBLEM_CHARS = 200


class LoadReport:
    """For the I/O thread.

    Args:
        brokers: the names of all brokers of the node's configuration.
        meters: what is counted of each service; None for an agent without metrics, which says how full inboxes are.
        services: all of the worker.
        last_snapshot: what the worker has told the master last; empty at first.
    """

    def __init__(
        self,
        brokers: Sequence[str],
        meters: ServiceMeters | None,
        services: Sequence[ServiceThread | SingletonThread],
        last_snapshot: Callable[[], Mapping[str, Any]],
    ):
        self._brokers = list(brokers)
        self._meters = meters
        self._last_snapshot = last_snapshot
        self._services: dict[tuple[str, str], list[ServiceThread | SingletonThread]] = {}
        for each in services:  # former versions of a service count as the present one
            self._services.setdefault((kind_of(each.service), each.service.key), []).append(each)

    def __repr__(self) -> str:
        return f"<LoadReport of {len(self._services)} services>"

    def __call__(self) -> dict[str, Any]:
        told = sorted(self._services.items())[:MOST_SERVICES]
        last = self._last_snapshot()
        load: dict[str, Any] = {
            "brokers": self._brokers,
            "services": [self._load_of(*at, parts) for at, parts in told],
            "left_out": len(self._services) - len(told),
        }
        if last:
            journal = last["journal"]
            load["outbox"] = last["outbox_messages"]
            load["journal"] = {name: journal[name] for name in ("unfinished", "answers") if name in journal}
            load["problems"] = [text[:_PROBLEM_CHARS] for text in _problems(last)[:_MOST_PROBLEMS]]
        return load

    def _load_of(self, kind: str, name: str, parts: Iterable[ServiceThread | SingletonThread]) -> dict[str, Any]:
        threads = [thread for part in parts for thread in _started(part)]
        counted = {} if self._meters is None else self._meters.summary(kind, name)
        return {
            "kind": kind,
            "name": name,
            "backlog": sum(thread.backlog for thread in threads),
            "capacity": sum(thread.capacity for thread in threads),
            **counted,
        }


def _started(part: ServiceThread | SingletonThread) -> list[ServiceThread]:
    return part.started if isinstance(part, SingletonThread) else [part]


def _problems(last: Mapping[str, Any]) -> list[str]:
    """What keeps the worker from serving."""
    found = [f"the broker is blocked: {last['blocked']}"] if last.get("blocked") else []
    return [*found, *filter(None, [str(last.get("last_error", ""))]), *map(str, last.get("problems", ()))]
