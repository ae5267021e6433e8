"""The timeline: what has changed in the fleet, and what users of the console have done; the latest first."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from servicebus.web.history import ConsoleHistory
from servicebus.web.overview import unchanged
from servicebus.web.templates import page

__all__ = ["KINDS", "Timeline"]

KINDS = ("broker", "node", "path", "worker", "deploy", "services", "user")
"""What kinds of changes begin with; the filter offers them."""
_ROWS = 100


class Timeline:
    """``/timeline``"""

    def __init__(self, history: ConsoleHistory):
        self._history = history

    def __call__(self, request: Request) -> Response:
        node, kind = (request.query_params.get(name, "").strip() for name in ("node", "kind"))
        before = request.query_params.get("before", "")
        number = int(before) if before.isdecimal() and len(before) < 16 else None
        rows = self._history.changes(node, kind if kind in KINDS else "", number, _ROWS)
        seen = str(rows[0][0]) if rows else "none"
        if unchanged(request, seen):
            return Response(status_code=204)
        return page(
            request, "timeline", rows=rows, node=node, kind=kind, kinds=KINDS, seen=seen, is_first=number is None,
            more=rows[-1][0] if len(rows) == _ROWS else None,
        )  # fmt: skip
