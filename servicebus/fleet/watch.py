"""FleetWatch: asks all nodes over all brokers, once a second or so, and keeps what they answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from servicebus._discovering import Discovering, Survey, survey
from servicebus.errors import NoBrokerAvailable, ServiceBusError
from servicebus.fleet.view import Change, FleetView, Look, WorkerView, seen
from servicebus.transport.loggers import get_logger

LOG = get_logger(__name__)

__all__ = ["FleetWatch"]

_EVERY_S = 1.0
_TIMEOUT_S = 1.5
"""A broker that is frozen is waited for so long; a killed one is seen at once."""
_QUIET_S = 0.25
_SERVICES_EVERY_S = 10.0
STALE_S = 6.0
"""Without an answer for so long what is known is old."""


class FleetWatch:
    """One thread of its own. What it knows is for any thread.

    Args:
        sender: asked with; not closed here.
        view: what is known before the first look: all brokers of the configuration at least.
        on_changes: told what has changed, in the thread.
    """

    def __init__(
        self,
        sender: Discovering,
        view: FleetView,
        on_changes: Callable[[FleetView, list[Change]], None] = lambda _view, _changes: None,
    ):
        self._sender = sender
        self._on_changes = on_changes
        self._services_at = float("-inf")
        self._rates = Rates()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fleet-watch", daemon=True)
        self._looked_at: float | None = None
        self.view = view

    def __repr__(self) -> str:
        return f"<FleetWatch {len(self.view.nodes)} nodes>"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread, once it has its answers."""
        self._stop.set()
        self._thread.join()

    @property
    def looks(self) -> str:
        """Another text after each look."""
        return f"{self._looked_at or 0:.3f}"

    @property
    def is_stale(self) -> bool:
        """What it knows is old, or it knows nothing yet."""
        return self._looked_at is None or time.monotonic() - self._looked_at > STALE_S

    def look(self) -> None:
        """Ask once, and keep the answers."""
        started = time.monotonic()
        asks_services = started - self._services_at >= _SERVICES_EVERY_S
        look = self._ask(lists_services=asks_services)
        if asks_services:
            self._services_at = started
        if look.nodes.keys() - self.view.nodes.keys() or look.versions.items() - self._versions().items():
            self._services_at = float("-inf")  # new ones: ask for their services next
        self.view, changes = seen(self.view, look, time.time())
        self._looked_at = time.monotonic()
        self._on_changes(self.view, changes)

    def _versions(self) -> dict[str, tuple[str, ...]]:
        return {node.name: node.versions for node in self.view.nodes.values()}

    def _ask(self, *, lists_services: bool) -> Look:
        try:
            found = survey(self._sender, _TIMEOUT_S, _QUIET_S, lists_services=lists_services)
        except NoBrokerAvailable as error:
            return Look({}, dict(error.attempts), {})
        return _look_of(found, self._rates, lists_services=lists_services)

    def _run(self) -> None:
        while not self._stop.is_set():
            started = time.monotonic()
            try:
                self.look()
            except ServiceBusError as error:
                LOG.warning("the fleet cannot be asked: %s", error)
            except Exception:  # a defect of ours must not end the thread
                LOG.exception("the fleet could not be asked, for a defect of ours")
            self._stop.wait(max(0.1, started + _EVERY_S - time.monotonic()))


def _look_of(found: Survey, rates: Rates, *, lists_services: bool) -> Look:
    versions: dict[str, set[str]] = {}
    services: dict[str, set[tuple[str, str]]] = {}
    workers: dict[str, dict[tuple[str, int, float], WorkerView]] = {}
    for came_at, answer in found.heard:
        services.setdefault(answer.node, set()).update(answer.services)
        about = answer.about or {}
        if "version" in about:
            versions.setdefault(answer.node, set()).add(str(about["version"]))
        with suppress(KeyError, TypeError, ValueError):  # an agent of an earlier version says nothing of it
            worker = rates.worker(about["worker"], came_at)
            workers.setdefault(answer.node, {})[worker.key] = worker
    rates.forget()
    return Look(
        {node.name: node.brokers for node in found.nodes},
        found.nodes.unreachable,
        {name: tuple(sorted(each)) for name, each in versions.items()},
        {name: tuple(sorted(each)) for name, each in services.items()} if lists_services else None,
        {name: tuple(each[key] for key in sorted(each)) for name, each in workers.items()},
    )


class Rates:
    """How fast the counters of workers grow from one look to the next."""

    def __init__(self) -> None:
        self._before: dict[tuple[str, int, float], tuple[float, Mapping[str, int]]] = {}
        self._now: dict[tuple[str, int, float], tuple[float, Mapping[str, int]]] = {}

    def worker(self, said: Any, came_at: float) -> WorkerView:
        """What a worker says of itself. Raises KeyError, TypeError or ValueError: it says something else."""
        counters = {str(name): int(count) for name, count in said["counters"].items()}
        worker = WorkerView(str(said["machine"]), int(said["pid"]), float(said["since"]), counters, {})
        before_at, before = self._before.get(worker.key, (came_at, {}))
        self._now[worker.key] = came_at, counters
        passed_s = came_at - before_at
        if passed_s <= 0:
            return worker
        return worker._replace(per_s={name: (n - before.get(name, 0)) / passed_s for name, n in counters.items()})

    def forget(self) -> None:
        """The look has ended; of who did not answer nothing is known in the next one."""
        self._before, self._now = self._now, {}
