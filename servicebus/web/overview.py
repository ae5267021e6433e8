"""The overview: nodes and brokers, and which reach which."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response

from servicebus.fleet.texts import matches
from servicebus.fleet.view import FleetView, NodeView, PathState
from servicebus.fleet.watch import FleetWatch
from servicebus.web.templates import is_fragment, page

__all__ = ["MOST_ROWS", "Overview", "unchanged"]

MOST_ROWS = 500
"""A longer list is cut, and says so: the filter finds the rest."""


class Overview:
    """``/``"""

    def __init__(self, watch: FleetWatch):
        self._watch = watch

    def __call__(self, request: Request) -> Response:
        view, is_stale = self._watch.view, self._watch.is_stale
        seen = f"{view.revision}{'s' * is_stale}"
        if unchanged(request, seen):
            return Response(status_code=204)
        query, only_problems = request.query_params.get("q", "").strip(), "problems" in request.query_params
        nodes = _chosen(view, query, only_problems=only_problems)
        return page(
            request,
            "overview",
            view=view,
            seen=seen,
            is_stale=is_stale,
            nodes=nodes[:MOST_ROWS],
            found=len(nodes),
            whole=sum(node.is_whole for node in view.nodes.values()),
            lost=[node.name for node in view.nodes.values() if not node.answers],
            unwell=sum(bool(node.problems) for node in view.nodes.values()),
            query=query,
            only_problems=only_problems,
            answers=PathState.ANSWERS,
        )


def _chosen(view: FleetView, query: str, *, only_problems: bool) -> Sequence[NodeView]:
    """Those that answer over no broker come first, then others with a fault of their own."""
    found = (node for node in view.nodes.values() if matches(query, node.name))
    chosen = [node for node in found if not (only_problems and node.is_whole and node.is_well)]
    return sorted(chosen, key=lambda node: (node.answers, node.is_well))


def unchanged(request: Request, seen: str) -> bool:
    """Whether a page that asks for what has changed shows it already."""
    return is_fragment(request) and request.query_params.get("seen") == seen
