"""FleetWatch: asks all nodes over all brokers, once a second or so, and keeps what they answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

from servicebus._discovering import Discovering, Survey, survey
from servicebus.errors import NoBrokerAvailable, ServiceBusError
from servicebus.transport.loggers import get_logger
from servicebus.web.fleet import Change, FleetView, Look, seen

LOG = get_logger(__name__)

__all__ = ["FleetWatch"]

_EVERY_S = 1.0
_TIMEOUT_S = 1.5
"""A broker that is frozen is waited for so long; a killed one is seen at once."""
_QUIET_S = 0.25
_SERVICES_EVERY_S = 10.0
STALE_S = 6.0
"""Without an answer for so long the pages say that they are old."""


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
        return _look_of(found, lists_services=lists_services)

    def _run(self) -> None:
        while not self._stop.is_set():
            started = time.monotonic()
            try:
                self.look()
            except ServiceBusError as error:
                LOG.warning("the fleet cannot be asked: %s", error)
            except Exception:  # a defect of ours must not leave the pages as they are for ever
                LOG.exception("the console has failed to ask the fleet")
            self._stop.wait(max(0.1, started + _EVERY_S - time.monotonic()))


def _look_of(found: Survey, *, lists_services: bool) -> Look:
    versions: dict[str, set[str]] = {}
    services: dict[str, set[tuple[str, str]]] = {}
    for _, answer in found.heard:
        services.setdefault(answer.node, set()).update(answer.services)
        with suppress(KeyError, TypeError):
            versions.setdefault(answer.node, set()).add(str((answer.about or {})["version"]))
    return Look(
        {node.name: node.brokers for node in found.nodes},
        found.nodes.unreachable,
        {name: tuple(sorted(each)) for name, each in versions.items() if each},
        {name: tuple(sorted(each)) for name, each in services.items()} if lists_services else None,
    )
