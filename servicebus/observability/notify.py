"""ServiceManager: tells systemd how an agent is, for a unit of ``Type=notify`` or ``notify-reload``."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, MutableMapping
from typing import Any, Protocol

from servicebus.observability.health import Document, ready_brokers, why_dead
from servicebus.observability.notify_socket import NotifySocket, reloading
from servicebus.wire.printable import printable

__all__ = ["ServiceManager", "Supervised"]

_LOOK_S = 0.25
_START_LIMIT_S = 10.0
"""Then it counts as started without a broker, too: systemd would kill it, and what depends on it would wait."""
_STATUS_CHARS = 200


class Supervised(Protocol):
    """What is asked of the master."""

    @property
    def reloads(self) -> int:
        """How often it was told to read its configuration again."""

    @property
    def is_reloading(self) -> bool:
        """It replaces its workers."""

    @property
    def is_stopping(self) -> bool: ...
    def snapshot(self) -> dict[str, Any]:
        """The document of the status socket."""


class ServiceManager:
    """For the master's thread. Without ``$NOTIFY_SOCKET`` it does nothing.

    Args:
        environment: its variables for this are taken out: what services start is not the unit's main process.
    """

    def __init__(self, environment: MutableMapping[str, str] = os.environ, now: Callable[[], float] = time.monotonic):
        self._socket = NotifySocket(environment, now)
        self._now = now
        self._started_at = now()
        self._look_at = 0.0
        self._is_ready = self._is_stopping = False
        self._reloads = 0
        self._status = ""

    def __repr__(self) -> str:
        return f"<ServiceManager {self._socket.path or 'none'}>"

    def tick(self, agent: Supervised) -> None:
        """Tell what has changed; to be called about once a second, and after each signal."""
        if not self._socket:
            return
        now, is_urgent = self._now(), agent.reloads != self._reloads or agent.is_stopping != self._is_stopping
        if now < self._look_at and not is_urgent:
            return
        self._look_at = now + _LOOK_S
        self._socket.send(*self._changes(agent, agent.snapshot(), now))

    def _changes(self, agent: Supervised, document: Document, now: float) -> list[str]:
        brokers, told = ready_brokers(document), []
        if agent.is_stopping and not self._is_stopping:
            self._is_stopping = True
            told.append("STOPPING=1")
        if agent.reloads != self._reloads:
            self._reloads, self._is_ready = agent.reloads, False
            told += reloading()
        elif not (self._is_ready or self._is_stopping or agent.is_reloading):
            is_ready = "" in brokers.values() or self._reloads > 0
            if is_ready or now - self._started_at >= _START_LIMIT_S:
                self._is_ready = True
                told.append("READY=1")
        status = _status(brokers, "stopping; " if agent.is_stopping else "reloading; " if agent.is_reloading else "")
        if status != self._status:
            self._status = status
            told.append(f"STATUS={status}")
        if not why_dead(document):
            told += self._socket.watchdog()
        return told


def _status(brokers: dict[str, str], doing: str) -> str:
    ready = [host for host, why in brokers.items() if not why]
    others = [f"{host}: {why}" for host, why in brokers.items() if why]
    consumes = f"consuming from {', '.join(ready)}" if ready else "consuming from no broker"
    return printable(doing + "; ".join([consumes, *others]))[:_STATUS_CHARS]
