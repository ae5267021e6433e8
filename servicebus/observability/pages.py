"""Pages: what an agent answers by HTTP: ``/metrics``, ``/livez`` and ``/readyz``."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs

from servicebus.observability.collector import AgentCollector
from servicebus.observability.families import exposed
from servicebus.observability.health import ready_brokers, why_dead
from servicebus.observability.http_listener import HttpPage, PageRequest
from servicebus.observability.reports import Reports
from servicebus.wire.printable import printable

__all__ = ["Pages"]


class Pages:
    """Belongs to the master's thread."""

    def __init__(self, snapshot: Callable[[], dict[str, Any]], reports: Callable[[], list[tuple[str, Reports]]]):
        self._snapshot = snapshot
        self._collector = AgentCollector(snapshot, reports)

    def answer(self, question: PageRequest) -> HttpPage | None:
        """The page that *question* asks for; None if there is no such page."""
        if question.path == "/metrics":
            body, content_type = exposed(self._collector, question.headers.get("accept", ""))
            return HttpPage(body, content_type)
        if question.path == "/livez":
            why = why_dead(self._snapshot())
            return _said(not why, why or "live")
        if question.path == "/readyz":
            return self._readiness(question.query)
        return None

    def _readiness(self, query: str) -> HttpPage | None:
        document = self._snapshot()
        brokers = ready_brokers(document)
        named = parse_qs(query).get("broker", [])
        if unknown := [name for name in named if name not in brokers]:
            return HttpPage(f"no broker {unknown[0]} here\n".encode(), status=HTTPStatus.NOT_FOUND)
        lines = [f"{name}: {why or 'ready'}" for name, why in brokers.items() if name in named or not named]
        if document["stopping"]:
            return _said(False, "\n".join(["the agent stops", *lines]))
        found = [brokers[name] for name in named] if named else [min(brokers.values(), default="no broker")]
        return _said(not any(found), "\n".join(lines))


def _said(is_well: bool, text: str) -> HttpPage:
    return HttpPage(
        f"{printable(text, keep_newlines=True)}\n".encode(),
        status=HTTPStatus.OK if is_well else HTTPStatus.SERVICE_UNAVAILABLE,
    )
