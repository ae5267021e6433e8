"""The timeline: what has changed in the fleet, and what users of the console have done; the latest first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from servicebus.fleet.view import Change
from servicebus.web.history import ConsoleHistory
from servicebus.web.overview import unchanged
from servicebus.web.templates import page

__all__ = ["KINDS", "Timeline"]

KINDS = ("broker", "node", "path", "worker", "deploy", "services", "user")
"""What kinds of changes begin with; the filter offers them."""
_ROWS = 100
_READ = 1000
_MOST_READ = 5000
"""What one page reads at most, if 200 nodes lose and regain their paths again and again."""
_NODES_SHOWN = 5


class TimelineRow(NamedTuple):
    """The same change of one node or of many, which one look has found."""

    number: int
    """Of the latest of them."""
    change: Change
    nodes: Sequence[str]

    @property
    def shown(self) -> Sequence[str]:
        return sorted(self.nodes)[:_NODES_SHOWN]


class Timeline:
    """``/timeline``"""

    def __init__(self, history: ConsoleHistory):
        self._history = history

    def __call__(self, request: Request) -> Response:
        node, kind = (request.query_params.get(name, "").strip() for name in ("node", "kind"))
        before = request.query_params.get("before", "")
        number = int(before) if before.isdecimal() and len(before) < 16 else None
        kind = kind if kind in KINDS else ""
        latest = self._history.changes(node, kind, number, 1)
        seen = str(latest[0][0]) if latest else "none"
        if unchanged(request, seen):
            return Response(status_code=204)
        rows, more = self._rows(node, kind, number)
        return page(
            request, "timeline", rows=rows, node=node, kind=kind, kinds=KINDS, seen=seen, is_first=number is None,
            more=more,
        )  # fmt: skip

    def _rows(self, node: str, kind: str, before: int | None) -> tuple[list[TimelineRow], int | None]:
        """One page of them, and the number before which the next one begins; None if there is nothing earlier."""
        rows: list[TimelineRow] = []
        nodes: list[str] = []
        for _ in range(_MOST_READ // _READ):
            found = self._history.changes(node, kind, before, _READ)
            for number, each in found:
                if rows and _is_same(rows[-1].change, each):
                    nodes.append(each.node)
                elif len(rows) == _ROWS:
                    return rows, before
                else:
                    nodes = [each.node] if each.node else []
                    rows.append(TimelineRow(number, each, nodes))
                before = number
            if len(found) < _READ:
                return rows, None
        return rows, before


def _is_same(one: Change, other: Change) -> bool:
    """Whether one look has found them, of two nodes."""
    return bool(one.node and other.node) and one._replace(node="") == other._replace(node="")
