"""Listeners: where the master is asked how its workers are: the status socket, and the HTTP server if there is one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from servicebus.configuration import Configuration
from servicebus.observability.reports import Reports
from servicebus.runtime.status import StatusSocket

__all__ = ["Listeners"]


class Listener(Protocol):
    """Served by the master's loop, which waits for nothing else."""

    def open(self) -> None: ...
    def watched(self) -> list[Any]:
        """What can be read when there is something to do."""

    def serve(self, source: Any) -> None: ...
    def forget(self) -> None:
        """In a forked child: all of it is the master's."""

    def close(self) -> None: ...


class Listeners:
    """All of them, as one."""

    def __init__(
        self,
        config: Configuration,
        snapshot: Callable[[], dict[str, Any]],
        reports: Callable[[], list[tuple[str, Reports]]],
    ):
        self._all: list[Listener] = [StatusSocket(config.status_socket, snapshot)]
        if config.metrics is not None:
            from servicebus.observability.http_listener import HttpListener
            from servicebus.observability.pages import Pages

            self._all.append(HttpListener(config.metrics.host, config.metrics.port, Pages(snapshot, reports).answer))

    def __repr__(self) -> str:
        return f"<Listeners {self._all}>"

    def open(self) -> None:
        for each in self._all:
            each.open()

    def watched(self) -> list[Any]:
        return [source for each in self._all for source in each.watched()]

    def serve(self, source: Any) -> None:
        for each in self._all:
            if source in each.watched():
                each.serve(source)

    def forget(self) -> None:
        for each in self._all:
            each.forget()

    def close(self) -> None:
        for each in self._all:
            each.close()
