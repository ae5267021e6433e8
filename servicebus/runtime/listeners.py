"""Listeners: where the master is asked how its workers are: the status socket, and the HTTP server if there is one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from servicebus.configuration import Configuration, MetricsSettings
from servicebus.observability.reports import Reports
from servicebus.runtime.status import StatusSocket
from servicebus.transport.loggers import get_logger

if TYPE_CHECKING:
    from servicebus.observability.http_listener import HttpListener

LOG = get_logger(__name__)

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
        self._snapshot, self._reports = snapshot, reports
        self._status = StatusSocket(config.status_socket, snapshot)
        self._metrics = config.metrics
        self._http = self._http_of(config.metrics)

    def __repr__(self) -> str:
        return f"<Listeners {self._all}>"

    @property
    def _all(self) -> list[Listener]:
        return [self._status] if self._http is None else [self._status, self._http]

    def _http_of(self, settings: MetricsSettings | None) -> HttpListener | None:
        if settings is None:
            return None
        from servicebus.observability.http_listener import HttpListener
        from servicebus.observability.pages import Pages

        return HttpListener(settings.host, settings.port, Pages(self._snapshot, self._reports).answer)

    def reload(self, config: Configuration) -> list[str]:
        """Start, stop or move the HTTP server, if *config* has another one; returns what failed."""
        if config.metrics == self._metrics:
            return []
        if self._http is not None:
            self._http.close()
            LOG.info("no metrics and health on port %d any more", self._http.port)
        self._metrics, self._http = config.metrics, self._http_of(config.metrics)
        if self._http is not None:
            self._http.open()
        return [self._http.problem] if self._http is not None and self._http.problem else []

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
