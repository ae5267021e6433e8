"""The forecast: which nodes and services would still answer if a broker were lost."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from servicebus.fleet.view import FleetView, PathState
from servicebus.fleet.watch import FleetWatch
from servicebus.operations.doctor.forecast import Forecast, without
from servicebus.web.overview import MOST_ROWS
from servicebus.web.templates import page

__all__ = ["ForecastPage", "forecast_of"]


class ForecastPage:
    """``/forecast``"""

    def __init__(self, watch: FleetWatch):
        self._watch = watch

    def __call__(self, request: Request) -> Response:
        view = self._watch.view
        names = [broker.name for broker in view.brokers]
        lost = request.query_params.get("lost", "")
        drawn = forecast_of(view, lost) if lost in names else None
        services = [] if drawn is None else [each for each in drawn.services if each.lost]
        return page(
            request,
            "forecast",
            names=names,
            lost=lost,
            drawn=drawn,
            services=services[:MOST_ROWS],
            found=len(services),
            unreachable=[broker.name for broker in view.brokers if broker.problem and broker.name != lost],
        )


def forecast_of(view: FleetView, lost: str) -> Forecast:
    """From what answers now, as ``servicebus doctor --if-lost`` draws it."""
    nodes = {
        node.name: [broker for broker, path in node.paths.items() if path.state is PathState.ANSWERS]
        for node in view.nodes.values()
        if node.answers
    }
    services = [(each.name, each.kind, [node.name for node in each.nodes]) for each in view.services()]
    return without(lost, nodes, services)
