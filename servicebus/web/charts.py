"""Pages with charts: the rates of a node in the last hour, and failovers in the last day. Each is a table, too."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from servicebus.fleet.load import ServiceLoad, merged
from servicebus.fleet.view import Change, FleetView, NodeView
from servicebus.fleet.watch import FleetWatch
from servicebus.web.history import ConsoleHistory
from servicebus.web.series import HOUR_S, Chart, Line, RateSeries, TimeMark, as_json, steps_of
from servicebus.web.templates import page

__all__ = ["FailoverChart", "NodeChart", "NodeRates"]

_RATES = ("calls/s", "messages/s")
_TIMES = {"median": 0.5, "99 of 100": 0.99}
"""Milliseconds that the services ran for calls: of what share of them at most."""
_ROW_STEPS = 30
"""5 minutes: so much is one row of the table."""
_MARKED = 100
_DAY_S = 24 * HOUR_S
_FAILOVER_STEP_S = 600
_FAILOVERS = {"path lost": "paths lost", "broker lost": "brokers lost", "worker new": "workers started"}
"""The kinds of changes that are counted, and what they are called."""


class NodeRates:
    """Keeps how fast each node works, as the looks at the fleet find it."""

    def __init__(self) -> None:
        self.series = RateSeries((*_RATES, *_TIMES))

    def saw(self, view: FleetView, now: float) -> None:
        """After a look."""
        for node in view.nodes.values():
            values = dict(zip(_RATES, (node.calls_per_s, node.messages_per_s), strict=True))
            ended = _ended_calls(node)
            if ended is not None:
                values |= {name: ended.run_ms(share) for name, share in _TIMES.items()}
            known = {name: value for name, value in values.items() if value is not None}
            if known:
                self.series.add(node.name, known, now)


def _ended_calls(node: NodeView) -> ServiceLoad | None:
    """All calls of its services together; None if none has ended in the last minute."""
    workers = (worker.load for worker in node.workers if worker.load is not None)
    calls = [each for load in workers for each in load.services if each.kind == "call" and any(each.runs)]
    return merged(calls) if calls else None


class NodeChart:
    """``/node/{node}/rates``"""

    def __init__(self, watch: FleetWatch, rates: NodeRates, history: ConsoleHistory):
        self._watch, self._rates, self._history = watch, rates, history

    def __call__(self, request: Request) -> Response:
        node, now = request.path_params["node"], time.time()
        if node not in self._watch.view.nodes:
            raise HTTPException(404, "This node was not heard")
        times, values = self._rates.series.of(node, now)
        changes = [change for _, change in self._history.changes(node, limit=_MARKED) if change.at >= times[0]]
        lines = [Line(name, of) for name, of in values.items()]
        rows = [
            (times[first], [_mean(line.values[first : first + _ROW_STEPS]) for line in lines])
            for first in range(0, len(times), _ROW_STEPS)
        ]
        return page(
            request, "rates", node=node, lines=lines, rows=rows, changes=changes,
            series=as_json(times, _charts(values), map(_mark, changes)),
        )  # fmt: skip


def _charts(values: Mapping[str, Sequence[float | None]]) -> list[Chart]:
    charts = {"Calls and messages a second": _RATES, "Calls of the last minute, milliseconds": tuple(_TIMES)}
    return [Chart(title, [Line(name, values[name]) for name in names]) for title, names in charts.items()]


def _mean(values: Iterable[float | None]) -> float | None:
    known = [each for each in values if each is not None]
    return sum(known) / len(known) if known else None


def _mark(change: Change) -> TimeMark:
    return TimeMark(change.at, f"{change.kind} {change.broker}".strip(), change.kind.endswith("lost"))


class FailoverChart:
    """``/timeline/failovers``"""

    def __init__(self, history: ConsoleHistory):
        self._history = history

    def __call__(self, request: Request) -> Response:
        steps = steps_of(time.time(), _DAY_S, _FAILOVER_STEP_S)
        counts = self._history.counts(list(_FAILOVERS), steps.start * _FAILOVER_STEP_S, _FAILOVER_STEP_S)
        times = [float(step * _FAILOVER_STEP_S) for step in steps]
        lines = [
            Line(name, [float(counts.get((kind, step), 0)) for step in steps]) for kind, name in _FAILOVERS.items()
        ]
        rows = [(at, [line.values[index] for line in lines]) for index, at in enumerate(times)]
        return page(
            request, "failovers", lines=lines, rows=[row for row in rows if any(row[1])],
            series=as_json(times, [Chart("Failovers in 10 minutes", lines, is_stepped=True)]),
        )  # fmt: skip
