"""Reloading: after HUP the master reads its configuration again, and replaces its workers one after another.

First the workers of brokers that are new, then the others, and at the end those of brokers that are gone from the file
are told to stop: while one is away, the rest takes what comes. A configuration that cannot be used changes nothing, and
one with which a worker turns out not to serve is taken back.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from servicebus.configuration import Configuration
from servicebus.configuration.reloading import Reloaded, SettingChange, reloaded
from servicebus.errors import ServiceBusError
from servicebus.observability.health import why_not_ready
from servicebus.runtime.child import Child, slots
from servicebus.runtime.listeners import Listeners
from servicebus.transport.loggers import get_logger

LOG = get_logger(__name__)

__all__ = ["ReloadReport", "Reloading"]

_ROLL_WAIT_S = 5.0
"""A new worker that does not consume after so long (its broker may be down) holds up the others no longer."""
_MOST_DEATHS = 2
"""Of a new worker, before it holds up the others no longer."""


@dataclass
class ReloadReport:
    """What became of the last HUP, for the status socket."""

    count: int = 0
    """How many there have been."""
    state: str = "none"
    """``running``, ``done``, ``refused`` (the configuration cannot be used) or ``taken-back``."""
    at: float | None = None
    """When it came, in Unix time."""
    seconds: float | None = None
    error: str = ""
    changed: list[SettingChange] = field(default_factory=list)
    needs_restart: list[SettingChange] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    """What does not work with the new configuration, and was not taken back for it."""

    def to_json(self) -> dict[str, Any]:
        """The object ``reload`` of the document."""
        changes = {"changed": self.changed, "needs_restart": self.needs_restart}
        return {**vars(self), **{name: [each._asdict() for each in found] for name, found in changes.items()}}

    def ended(self, state: str, error: str = "") -> None:
        """It is over."""
        self.state, self.error = state, error
        self.seconds = round(time.time() - self.at, 2) if self.at is not None else None

    def log(self) -> None:
        """Say what became of one that was carried out."""
        changed = ", ".join(change.key for change in self.changed) or "nothing"
        LOG.info("HUP: done in %.1f s; changed: %s", self.seconds or 0.0, changed)
        if pending := ", ".join(change.key for change in self.needs_restart):
            LOG.warning("HUP: the former values hold until the agent is started again: %s", pending)


class Reloading:
    """Private base of ``Master``: its children, and how they come to another configuration. For the master's thread.

    Args:
        read_again: returns the configuration of the file; what it raises refuses it.
        take: called with the configuration that workers are to have from now on; what it raises refuses it as well.
    """

    def __init__(
        self,
        config: Configuration,
        listeners: Listeners,
        read_again: Callable[[], Configuration] | None,
        take: Callable[[Configuration], None] | None,
    ):
        self._config = self._proven = config
        self._listeners = listeners
        self._read_again = read_again
        self._take = take
        self._children = [Child(host, number) for host, number in slots(config)]
        self._leaving: list[Child] = []
        self._rolling: list[Child] = []
        """Those that are to be waited for, replaced or told to stop, in this order."""
        self._replacing: tuple[Child, int] | None = None
        """Which one is waited for, and what ``restarts`` of it must exceed."""
        self._had_served: set[str] = set()
        """The brokers that were consumed from when their worker was replaced."""
        self._began_at = 0.0
        self.report = ReloadReport()

    @property
    def reloads(self) -> int:
        """How often it was told to read its configuration again."""
        return self.report.count

    @property
    def is_reloading(self) -> bool:
        """It replaces its workers one after another."""
        return bool(self._rolling or self._replacing)

    # -- taking a configuration ----------------------------------------------------------------------------------------

    def _reload(self) -> None:
        """HUP: read the configuration again, then replace the workers. A bad one is reported and changes nothing."""
        self.report = ReloadReport(self.report.count + 1, "running", time.time())
        try:
            given = self._read_again() if self._read_again is not None else self._config
            found = reloaded(self._config, given)
            if self._take is not None:
                self._take(found.configuration)
        except ServiceBusError as error:
            LOG.error("HUP: the configuration stays as it was: %s", error)
            self.report.ended("refused", str(error))
            return
        except BaseException as error:  # the program's own function
            LOG.exception("HUP: the configuration stays as it was")
            self.report.ended("refused", f"{type(error).__name__}; the log has more")
            return
        LOG.info("HUP: replacing the workers one after another")
        self._begin(found)

    def _begin(self, found: Reloaded) -> None:
        self.report.changed, self.report.needs_restart = found.changed, found.needs_restart
        self._began_at = time.monotonic()
        self._had_served.clear()
        self._apply(found.configuration)
        self._end_if_done()

    def _apply(self, config: Configuration, is_to_be_replaced: Callable[[Child], bool] = lambda _child: True) -> None:
        self._config = config
        self.report.failed += self._listeners.reload(config)
        untold = [child for child in self._leaving if child in self._rolling]
        self._leaving = [child for child in self._leaving if child not in untold]
        kept = {(child.host.name, child.number): child for child in untold + self._children}
        self._children, added = [], []
        for host, number in slots(config):
            child = kept.pop((host.name, number), None)
            if child is None:
                added.append(child := Child(host, number))
            child.host, child.is_retired = host, False  # what kept it from starting may be mended
            self._children.append(child)
        if self._replacing is not None and self._replacing[0] not in self._children:
            self._replacing = None  # it has no next one to wait for
        gone = [child for child in kept.values() if child.pid is not None]
        self._leaving += gone
        served = [child for child in self._children if child.is_alive and is_to_be_replaced(child)]
        self._rolling = added + served + gone

    # -- replacing the workers -----------------------------------------------------------------------------------------

    def _roll(self) -> None:
        """Replace workers one at a time: the next one drains when the one before consumes again."""
        if self._replacing is not None:
            child, restarts = self._replacing
            problem = _outcome(child, restarts)
            if problem is None:
                return
            self._replacing = None
            if problem:
                self._failed(child, problem)
        if self._rolling:
            self._next(self._rolling.pop(0))
        self._end_if_done()

    def _next(self, child: Child) -> None:
        if child in self._leaving:
            if self._config is not self._proven and self._is_without(child):
                self._rolling.insert(0, child)
                self._take_back(f"no worker consumes but that of {child.host.name}, which is gone from the file")
            else:
                child.kill(signal.SIGTERM)
        elif child.pid is None or child.started_at >= self._began_at:  # it has the new configuration, or will
            self._replacing = child, child.restarts - 1
        else:
            if child.state.get("healthy"):
                self._had_served.add(child.host.name)
            self._replacing = child, child.restarts
            child.kill(signal.SIGTERM)

    def _is_without(self, child: Child) -> bool:
        """Whether the node would be served by no worker any more if *child* left."""
        return bool(child.state.get("healthy")) and not any(each.state.get("healthy") for each in self._children)

    def _end_if_done(self) -> None:
        if self.is_reloading:
            return
        self._proven = self._config
        if self.report.state == "running":  # else another one was refused meanwhile
            self.report.ended("done")
            self.report.log()

    def _failed(self, child: Child, problem: str) -> None:
        if self._is_to_blame(child):
            self._take_back(f"{child.label} does not serve with the new one: {problem}")
        else:
            LOG.warning("HUP: %s does not serve yet: %s", child.label, problem)
            self.report.failed.append(f"{child.label} does not serve: {problem}")

    def _is_to_blame(self, child: Child) -> bool:
        """Whether it is the new configuration that keeps *child* from serving, and not its broker."""
        if self._config is self._proven:
            return False
        if child.is_retired or not child.is_alive:
            return True
        former = {host.name: host for host in self._proven.hosts}.get(child.host.name)
        has_served = child.host.name in self._had_served and bool(child.state.get("last_error"))
        return has_served and former is not None and former != child.host

    def _take_back(self, why: str) -> None:
        LOG.error("HUP: the former configuration is taken again: %s", why)
        self.report.ended("taken-back", why)
        try:
            if self._take is not None:
                self._take(self._proven)
        except Exception:  # it has worked before, with the same
            LOG.exception("HUP: not all of the former configuration could be taken again")
        self._replacing = None
        self._apply(self._proven, lambda child: child.started_at >= self._began_at)
        self._began_at = time.monotonic()


def _outcome(child: Child, restarts: int) -> str | None:
    """Why the worker that was to come does not consume; "" if it does, None while that is not known."""
    if child.is_retired:
        return "it could not start; see the log"
    if child.restarts > restarts + 1 + _MOST_DEATHS:
        return "its process ends again and again; see the log"
    if not (child.restarts > restarts and child.is_alive):
        return None
    if child.state.get("healthy"):
        return ""
    return None if time.monotonic() - child.started_at <= _ROLL_WAIT_S else why_not_ready(child.state)
