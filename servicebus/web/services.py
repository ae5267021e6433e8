"""The services of the fleet: all of them, those of one node, and one of them, which can be called."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from servicebus.client.route import CallTracer, RouteStep
from servicebus.contracts import ServiceContract
from servicebus.contracts.pages import Page, make_pages
from servicebus.errors import ContractError, RemoteError, ServiceBusError, UnknownService
from servicebus.fleet.load import ServiceLoad, merged
from servicebus.fleet.texts import matches
from servicebus.fleet.watch import FleetWatch
from servicebus.sender import Sender
from servicebus.web.logs import LEVELS, level_of
from servicebus.web.overview import unchanged
from servicebus.web.params_form import FieldProblem, fields_of, params_of
from servicebus.web.templates import page

__all__ = ["CallForm", "NodePage", "ServiceList", "ServicePage"]

MakeSender = Callable[[], AbstractContextManager[Sender]]
_DESCRIBE_S = 3.0
_LONGEST_S = 60.0
_MOST_NODES = 5
"""So many of those that have a service are links: with 20 of them a page of 200 services is half a megabyte."""
_MOST_SERVICES = 200
_DEFAULT_S = 10.0


class ServiceList:
    """``/services``"""

    def __init__(self, watch: FleetWatch):
        self._watch = watch

    def __call__(self, request: Request) -> Response:
        view = self._watch.view
        seen = f"{view.revision} {self._watch.loads}"
        if unchanged(request, seen):
            return Response(status_code=204)
        query = request.query_params.get("q", "").strip()
        found = [each for each in view.services() if matches(query, each.name)]
        lost = [each for each in view.lost_services() if matches(query, each.name)]
        loads = _by_listed_kind(each.load for each in view.sums())
        return page(
            request,
            "services",
            services=found[:_MOST_SERVICES],
            found=len(found),
            lost=lost[:_MOST_SERVICES],
            found_lost=len(lost),
            query=query,
            seen=seen,
            loads=loads,
            most_nodes=_MOST_NODES,
        )


def _by_listed_kind(loads: Iterable[ServiceLoad]) -> dict[tuple[str, str], ServiceLoad]:
    """By name and kind: one service may get messages and events."""
    found: dict[tuple[str, str], list[ServiceLoad]] = {}
    for each in loads:
        found.setdefault((each.name, each.listed_kind), []).append(each)
    return {at: merged(parts) for at, parts in found.items()}


class ServiceRow(NamedTuple):
    """A service of a node."""

    name: str
    kind: str
    load: ServiceLoad | None
    """None if the node does not say it."""


class NodePage:
    """``/node/{node}``"""

    def __init__(self, watch: FleetWatch):
        self._watch = watch

    def __call__(self, request: Request) -> Response:
        view, looks = self._watch.view, self._watch.looks
        if unchanged(request, looks):
            return Response(status_code=204)
        node = view.nodes.get(request.path_params["node"])
        if node is None:
            raise HTTPException(404, "This node was not heard")
        loads = {(each.name, each.kind): each for each in node.loads}
        known = _by_listed_kind(node.loads)
        listed = [ServiceRow(name, kind, known.get((name, kind))) for kind, name in node.services]
        # Events and what other programs send are in no list of what can be called.
        shown = {(row.name, row.kind) for row in listed}
        listed += [ServiceRow(*at, load) for at, load in loads.items() if (at[0], load.listed_kind) not in shown]
        return page(
            request,
            "node",
            node=node,
            brokers=view.brokers,
            services=sorted(listed, key=lambda row: row[:2]),
            seen=looks,
            levels=LEVELS,
            level=level_of(request),
        )


class ServicePage:
    """``/service/{node}/{service}``: what it takes and returns, as the node says now, and a form that calls it."""

    def __init__(self, sender: Sender):
        self._sender = sender

    def __call__(self, request: Request) -> Response:
        node, key = request.path_params["node"], request.path_params["service"]
        service, shown = _described(self._sender, node, key)
        return page(
            request,
            "service",
            node=node,
            service=service,
            shown=shown,
            fields=fields_of(service),
            params=_text(service.params),
            result=_text(service.result),
            default_s=_DEFAULT_S,
        )


def _described(sender: Sender, node: str, key: str) -> tuple[ServiceContract, Page | None]:
    """The service, and how the documentation would show it, if it can."""
    try:
        contract = sender.describe(f"{node}.{key}", timeout=_DESCRIBE_S)
        service = contract.find(key)
    except UnknownService as error:
        raise HTTPException(404, f"{node} has no service {key}") from error
    except ServiceBusError as error:
        raise HTTPException(502, f"{node} could not be asked: {error}") from error
    if service is None:
        raise HTTPException(404, f"{node} has no service {key}")
    try:
        return service, next((each for each in make_pages(contract) if each.service == service), None)
    except ContractError:
        return service, None


def _text(schema: Any) -> str | None:
    return None if schema is None else json.dumps(schema, indent=2, ensure_ascii=False)


class CallAnswer(NamedTuple):
    """What became of a call."""

    is_ok: bool
    title: str
    text: str
    """The result as JSON, or the error."""
    trace: str
    seconds: float
    steps: list[RouteStep]
    """Its way over the brokers."""


class CallForm:
    """``POST /call``: call a service, or send it a message; show the answer, the time, and the way.

    Args:
        record: notes who has done what: the visitor's name and a text.
    """

    def __init__(self, sender: Sender, make_sender: MakeSender, record: Callable[[str, str, str], None]):
        self._sender, self._make_sender, self._record = sender, make_sender, record

    def __call__(self, request: Request) -> Response:
        form = request.state.form
        node, key = form.get("node", ""), form.get("service", "")
        service, _ = _described(self._sender, node, key)
        try:
            params = params_of(service, form)
            timeout_s = min(_LONGEST_S, max(0.1, float(form.get("timeout") or _DEFAULT_S)))
        except (FieldProblem, ValueError) as error:
            answer = CallAnswer(False, "Nothing was sent", str(error), "", 0.0, [])
            return page(request, "answer", 200, node=node, service=service, answer=answer)
        self._record(request.state.visitor.name, node, f"{service.kind} {key}")
        answer = self._send(service, f"{node}.{key}", params, timeout_s)
        return page(request, "answer", node=node, service=service, answer=answer)

    def _send(self, service: ServiceContract, target: str, params: Any, timeout_s: float) -> CallAnswer:
        """By a Sender of its own, whose calls alone are traced."""
        with self._make_sender() as sender:
            tracer = CallTracer(sender)
            started = time.monotonic()
            trace = ""
            try:
                if service.kind == "message":
                    sender.send(target, params, timeout=timeout_s)
                    is_ok, title, text = True, "Stored by a broker", ""
                else:
                    _, value = sender.call(target, params, timeout=timeout_s)
                    is_ok, title, text = True, "Answered", json.dumps(value, indent=2, ensure_ascii=False)
            except ServiceBusError as error:
                is_ok, title, text = False, type(error).__name__, str(error)
                trace = (error.trace or "") if isinstance(error, RemoteError) else ""
            seconds = time.monotonic() - started
            steps = [step for route in tracer.routes for step in route.steps]
        return CallAnswer(is_ok, title, text, trace, seconds, steps)
