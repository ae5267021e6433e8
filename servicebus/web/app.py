"""make_app(): the pages of the console and who may see them, as an ASGI application."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from servicebus.fleet.view import Change
from servicebus.fleet.watch import FleetWatch
from servicebus.sender import Sender
from servicebus.web.access import Access
from servicebus.web.charts import FailoverChart, NodeChart, NodeRates
from servicebus.web.dead import DeadActions, DeadOverview, DeadPages
from servicebus.web.dead_jobs import DeadCounts, DeadLetterJobs
from servicebus.web.drill import DrillActions, DrillJobs, DrillPage
from servicebus.web.forecast import ForecastPage
from servicebus.web.guard import RequestGuard
from servicebus.web.history import ConsoleHistory
from servicebus.web.login import login_routes
from servicebus.web.logs import NodeLog, NodeLogs
from servicebus.web.overview import Overview
from servicebus.web.services import CallForm, MakeSender, NodePage, ServiceList, ServicePage
from servicebus.web.templates import page
from servicebus.web.timeline import Timeline
from servicebus.web.what import IdSearches, WhatPages

__all__ = ["Console", "make_app"]

Page = Callable[[Request], Response]

_STATIC = Path(__file__).with_name("files")


@dataclass(frozen=True)
class Console:
    """What the pages are made from."""

    watch: FleetWatch
    sender: Sender
    """Asks nodes for their contracts."""
    make_sender: MakeSender
    """Gives one for a single call."""
    dead_jobs: DeadLetterJobs
    dead_counts: DeadCounts
    searches: IdSearches
    rates: NodeRates
    history: ConsoleHistory
    drills: DrillJobs

    def record(self, user: str, node: str, text: str) -> None:
        """Note what *user* does."""
        self.history.add([Change(time.time(), "user", node, "", f"{user}: {text}" if user else text)])


class _StaticFiles(StaticFiles):
    """Scripts and styles; their addresses change with the version."""

    def file_response(self, *args: object, **named: object) -> Response:
        response = super().file_response(*args, **named)  # type: ignore[arg-type]
        response.headers["cache-control"] = "private, max-age=86400"
        return response

    def lookup_path(self, path: str) -> tuple[str, object]:  # type: ignore[override]
        """Templates are files of the same folder, and nobody's business."""
        return super().lookup_path(path) if path.endswith((".js", ".css", ".svg")) else ("", None)


def make_app(console: Console, access: Access, *, is_secure: bool = False) -> Starlette:
    """The application.

    Args:
        is_secure: the browser sees it over HTTPS: its cookie is sent over nothing else.
    """
    views: dict[str, Page] = {
        "/": Overview(console.watch),
        "/services": ServiceList(console.watch),
        "/node/{node}": NodePage(console.watch),
        "/node/{node}/rates": NodeChart(console.watch, console.rates, console.history),
        "/node/{node}/log": NodeLog(NodeLogs(console.sender)),
        "/service/{node}/{service}": ServicePage(console.sender),
    }
    actions: dict[str, Page] = {"/call": CallForm(console.sender, console.make_sender, console.record)}
    what = WhatPages(console.watch, console.searches)
    pages = DeadPages(console.dead_jobs)
    dead = DeadActions(console.watch, console.dead_jobs, console.sender, console.record)
    views |= {
        "/timeline": Timeline(console.history),
        "/timeline/failovers": FailoverChart(console.history),
        "/forecast": ForecastPage(console.watch),
        "/drill": DrillPage(console.watch, console.drills),
        "/dead": DeadOverview(console.watch, console.dead_counts),
        "/dead/{node}": pages.node,
        "/dead/{node}/{id}": pages.one,
        "/what/{id}": what.show,
    }
    actions["/what"] = what.begin
    actions |= {f"/dead/{each.__name__}": each for each in (dead.look, dead.requeue, dead.drop, dead.edit, dead.stop)}
    drill = DrillActions(console.watch, console.drills, console.record)
    actions |= {"/drill/start": drill.start, "/drill/stop": drill.stop}
    login, log_in, log_out = login_routes(access, is_secure=is_secure)
    views["/login"] = login
    actions |= {"/login": log_in, "/logout": log_out}
    return Starlette(
        routes=[
            *(Route(path, _threaded(view), methods=["GET"]) for path, view in views.items()),
            *(Route(path, _threaded(action), methods=["POST"]) for path, action in actions.items()),
            Mount("/static", _StaticFiles(directory=_STATIC)),
        ],
        middleware=[Middleware(RequestGuard, access=access, is_secure=is_secure)],
        exception_handlers={HTTPException: _failed},  # type: ignore[dict-item]
    )


def _threaded(view: Page) -> Callable[[Request], object]:
    """Pages ask the bus and wait for it, so each runs in a thread of the pool."""

    async def run(request: Request) -> Response:
        started = time.perf_counter()
        response = await run_in_threadpool(view, request)
        response.headers["server-timing"] = f"page;dur={(time.perf_counter() - started) * 1000:.1f}"
        return response

    return run


async def _failed(request: Request, error: HTTPException) -> Response:
    return page(request, "problem", error.status_code, status_code=error.status_code, text=error.detail)
