"""FleetWatch: asks all nodes over all brokers, once a second or so, and keeps what they answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

from servicebus._discovering import Discovering, Survey, survey
from servicebus.configuration import Configuration
from servicebus.errors import NoBrokerAvailable, ServiceBusError
from servicebus.fleet.rates import UNREADABLE, Rates
from servicebus.fleet.view import BrokerView, Change, FleetView, Look, WorkerView, seen
from servicebus.protocol.discovery import ask_for
from servicebus.transport.loggers import get_logger

LOG = get_logger(__name__)

__all__ = ["FleetWatch", "unseen_fleet"]

_TIMEOUT_S = 1.5
"""A broker that is frozen is waited for so long; a killed one is seen at once."""
_QUIET_S = 0.25
_SERVICES_EVERY_S = 10.0
_LOAD_EVERY_S = 5.0
"""A node with many services has much to say of them."""
STALE_S = 6.0
"""Without an answer for so long what is known is old."""


def unseen_fleet(config: Configuration) -> FleetView:
    """What is known before the first look: the brokers of *config*."""
    now = time.time()
    return FleetView(tuple(BrokerView(host.name, now) for host in config.hosts))


class FleetWatch:
    """One thread of its own. What it knows is for any thread.

    Args:
        sender: asked with; not closed here.
        view: what is known before the first look: all brokers of the configuration at least.
        on_changes: told what has changed, in the thread.
        pattern: of the names of nodes, as of ``Sender.nodes()``.
        every_s: from one look to the next.
        load_every_s: from one look that asks for the load of services to the next.
        timeout_s: a broker that says nothing is waited for so long.

    Raises:
        AddressError: no node has a name like *pattern*.
    """

    def __init__(
        self,
        sender: Discovering,
        view: FleetView,
        on_changes: Callable[[FleetView, list[Change]], None] = lambda _view, _changes: None,
        *,
        pattern: str = "*",
        every_s: float = 1.0,
        load_every_s: float = _LOAD_EVERY_S,
        timeout_s: float = _TIMEOUT_S,
    ):
        self._sender = sender
        self._on_changes = on_changes
        ask_for(pattern)
        self._pattern, self._every_s, self._load_every_s = pattern, every_s, load_every_s
        self._timeout_s = timeout_s
        self._services_at = self._load_at = float("-inf")
        self.failure: NoBrokerAvailable | None = None
        """Why the last look has asked no node; None if it could."""
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
    def loads(self) -> str:
        """Another text after each look that has asked for the load of services."""
        return f"{self._load_at:.3f}"

    @property
    def is_stale(self) -> bool:
        """What it knows is old, or it knows nothing yet."""
        return self._looked_at is None or time.monotonic() - self._looked_at > max(STALE_S, 3 * self._every_s)

    def look(self) -> None:
        """Ask once, and keep the answers."""
        started = time.monotonic()
        asks_services = started - self._services_at >= _SERVICES_EVERY_S
        asks_load = started - self._load_at >= self._load_every_s
        look = self._ask(lists_services=asks_services, asks_load=asks_load)
        if asks_services:
            self._services_at = started
        if look.nodes.keys() - self.view.nodes.keys() or look.versions.items() - self._versions().items():
            self._services_at = float("-inf")  # new ones: ask for their services next
        if asks_load:
            self._load_at = started
        self.view, changes = seen(self.view, look, time.time())
        self._looked_at = time.monotonic()
        self._on_changes(self.view, changes)

    def _versions(self) -> dict[str, tuple[str, ...]]:
        return {node.name: node.versions for node in self.view.nodes.values()}

    def _ask(self, **what: bool) -> Look:
        try:
            found = survey(self._sender, self._timeout_s, _QUIET_S, pattern=self._pattern, **what)
        except NoBrokerAvailable as error:
            self.failure = error
            return Look({}, dict(error.attempts), {})
        self.failure = None
        return _look_of(found, self._rates, lists_services=what["lists_services"])

    def _run(self) -> None:
        while not self._stop.is_set():
            started = time.monotonic()
            try:
                self.look()
            except ServiceBusError as error:
                LOG.warning("the fleet cannot be asked: %s", error)
            except Exception:  # a defect of ours must not end the thread
                LOG.exception("the fleet could not be asked, for a defect of ours")
            self._stop.wait(max(0.1, started + self._every_s - time.monotonic()))


def _look_of(found: Survey, rates: Rates, *, lists_services: bool) -> Look:
    versions: dict[str, set[str]] = {}
    services: dict[str, set[tuple[str, str]]] = {}
    workers: dict[str, dict[tuple[str, int, float], WorkerView]] = {}
    for came_at, answer, broker in found.heard:
        services.setdefault(answer.node, set()).update(answer.services)
        about = answer.about or {}
        if "version" in about:
            versions.setdefault(answer.node, set()).add(str(about["version"]))
        with suppress(*UNREADABLE):  # an agent of an earlier version says nothing of it
            worker = rates.worker(about, came_at, broker)
            workers.setdefault(answer.node, {})[worker.key] = worker
    rates.forget()
    return Look(
        {node.name: node.brokers for node in found.nodes},
        found.nodes.unreachable,
        {name: tuple(sorted(each)) for name, each in versions.items()},
        {name: tuple(sorted(each)) for name, each in services.items()} if lists_services else None,
        {name: tuple(each[key] for key in sorted(each)) for name, each in workers.items()},
    )
