"""Rates: how fast what workers count has grown from one look at the fleet to the next."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from servicebus.fleet.load import LoadHistory, WorkerLoad, read_load
from servicebus.fleet.view import WorkerView

__all__ = ["UNREADABLE", "Rates"]

_Key = tuple[str, int, float]
UNREADABLE = (AttributeError, KeyError, TypeError, ValueError)
"""What reading an answer raises that says something else, as agents of earlier versions do."""


class _KnownWorker(NamedTuple):
    """What a worker has said last."""

    at: float
    view: WorkerView
    history: LoadHistory


class Rates:
    """Of all workers; ``forget()`` ends each look."""

    def __init__(self) -> None:
        self._before: dict[_Key, _KnownWorker] = {}
        self._now: dict[_Key, _KnownWorker] = {}

    def __repr__(self) -> str:
        return f"<Rates of {len(self._before)} workers>"

    def worker(self, about: Mapping[str, Any], came_at: float, broker: str = "") -> WorkerView:
        """What a worker says of itself, over *broker*. Its load is that of the last look that has asked for it.

        Raises:
            one of UNREADABLE: it says something else.
        """
        said = about["worker"]
        counters = {str(name): int(count) for name, count in said["counters"].items()}
        worker = WorkerView(str(said["machine"]), int(said["pid"]), float(said["since"]), counters, {}, broker)
        if worker.key in self._now:  # one broker by two names: it has answered twice
            return self._now[worker.key].view
        before = self._before.get(worker.key)
        history = LoadHistory() if before is None else before.history
        worker = worker._replace(load=_load(about, came_at, history, None if before is None else before.view.load))
        if before is not None and came_at > before.at:
            passed_s, was = came_at - before.at, before.view.counters
            worker = worker._replace(per_s={name: (n - was.get(name, 0)) / passed_s for name, n in counters.items()})
        self._now[worker.key] = _KnownWorker(came_at, worker, history)
        return worker

    def forget(self) -> None:
        """The look has ended; of who did not answer nothing is known in the next one."""
        self._before, self._now = self._now, {}


def _load(about: Mapping[str, Any], at: float, history: LoadHistory, before: WorkerLoad | None) -> WorkerLoad | None:
    """What it says now, or else what it has said before."""
    with suppress(*UNREADABLE):
        return history.watched(read_load(about["load"]), at)
    return before
