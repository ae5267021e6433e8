"""Pages of dead letters: which nodes have some, those of one node in groups, and one of them; what is done to them."""

from __future__ import annotations

import glob
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from servicebus.errors import AddressError, EnvelopeError, ServiceBusError
from servicebus.fleet.watch import FleetWatch
from servicebus.operations.dead_letter import RequeueStatus
from servicebus.operations.dead_letter_facts import shown_facts
from servicebus.operations.dead_letters import Found
from servicebus.operations.filters import Filter, parse_rate
from servicebus.sender import Sender
from servicebus.web.dead_jobs import DeadCounts, DeadLetterJobs, why
from servicebus.web.overview import unchanged
from servicebus.web.templates import page
from servicebus.wire.address import check_node_name
from servicebus.wire.envelope import Kind
from servicebus.wire.jsontext import decode_json

__all__ = ["DeadActions", "DeadOverview", "DeadPages"]

_MEANS = {
    RequeueStatus.GOOD: "they can go back",
    RequeueStatus.STALE: "the node cannot know whether they ran since",
    RequeueStatus.UNVERIFIED: "no worker has signed them, so they cannot go back",
    RequeueStatus.REFUSED: "not signed with a secret of the console's file, not readable, or not for this node",
}


class DeadOverview:
    """``/dead``"""

    def __init__(self, watch: FleetWatch, counts: DeadCounts):
        self._watch, self._counts = watch, counts

    def __call__(self, request: Request) -> Response:
        nodes = sorted(self._watch.view.nodes)
        self._counts.refresh(nodes)
        counts = self._counts.counts
        rows = sorted(
            ((sum(each.values()), node, each) for node, each in counts.items()), key=lambda row: (-row[0], row[1])
        )
        return page(
            request, "dead", rows=rows, nodes=len(nodes), is_known=self._counts.is_known,
            problems=self._counts.problems, latest=self._counts.latest, at=self._counts.at,
            is_any_asked=len(self._counts.problems) < len(self._watch.view.brokers),
        )  # fmt: skip


class DeadPages:
    """``/dead/{node}`` and ``/dead/{node}/{id}``"""

    def __init__(self, jobs: DeadLetterJobs):
        self._jobs = jobs

    def node(self, request: Request) -> Response:
        """All of them in groups, and what is done or was."""
        node = _node(request.path_params["node"])
        jobs, found = self._jobs.jobs(node), self._jobs.found(node)
        running = next((job for job in jobs if job.ended_at is None), None)
        now = "" if running is None else f"{running.progress}{'s' * running.stopping.is_set()}"
        seen = f"{found.at if found else 0:.3f} {len(jobs)} {now}"
        if unchanged(request, seen):
            return Response(status_code=204)
        return page(
            request, "dead_node", node=node, jobs=jobs, found=found, running=running, seen=seen, means=_MEANS, why=why
        )

    def one(self, request: Request) -> Response:
        """One of those that the last look has kept, or a search has found."""
        node = _node(request.path_params["node"])
        found = _kept(self._jobs, node, request.path_params["id"])
        facts = shown_facts(found, full=True)
        return page(
            request,
            "dead_one",
            node=node,
            facts=facts,
            params=_params_text(facts),
            is_editable=_is_editable(found, facts),
        )


class DeadActions:
    """What the forms of these pages do; each leads back to the page of the node.

    Args:
        record: notes who does what: the user, the node and a text.
    """

    def __init__(
        self, watch: FleetWatch, jobs: DeadLetterJobs, sender: Sender, record: Callable[[str, str, str], None]
    ):
        self._watch, self._jobs, self._sender, self._record = watch, jobs, sender, record

    def look(self, request: Request) -> Response:
        node = _node(request.state.form.get("node", ""))
        return _back(node, self._jobs.look(node, request.state.visitor.name))

    def requeue(self, request: Request) -> Response:
        form, user = request.state.form, request.state.visitor.name
        node, (wanted, which) = _node(form.get("node", "")), _wanted(form)
        try:
            per_s = parse_rate(form["rate"].strip()) if form.get("rate", "").strip() else None
        except ValueError as error:
            raise HTTPException(400, str(error)) from error
        growing, reseal = "growing" in form, "reseal" in form
        lost = [broker.name for broker in self._watch.view.brokers if broker.problem]
        is_begun = self._jobs.requeue(
            node, user, wanted, f"requeue {which}", per_s=per_s, growing=growing, reseal=reseal, lost=lost
        )
        return self._begun(is_begun, user, node, f"requeue dead letters: {which}")

    def drop(self, request: Request) -> Response:
        form, user = request.state.form, request.state.visitor.name
        node, (wanted, which) = _node(form.get("node", "")), _wanted(form)
        if "sure" not in form:
            raise HTTPException(400, "Nothing was dropped: say that you are sure")
        is_begun = self._jobs.drop(node, user, wanted, f"drop {which}")
        return self._begun(is_begun, user, node, f"drop dead letters: {which}")

    def stop(self, request: Request) -> Response:
        """End what is done to the dead letters of a node; what has gone back or was dropped stays so."""
        node, user = _node(request.state.form.get("node", "")), request.state.visitor.name
        job = self._jobs.stop(node, user)
        if job is not None:
            self._record(user, node, f"stop: {job.text}")
        return RedirectResponse(f"/dead/{quote(node)}", 303)

    def _begun(self, is_begun: bool, user: str, node: str, text: str) -> Response:
        if is_begun:
            self._record(user, node, text)
        return _back(node, is_begun)

    def edit(self, request: Request) -> Response:
        """Send the service a new message with other params, and drop the dead letter then."""
        form, user = request.state.form, request.state.visitor.name
        node = _node(form.get("node", ""))
        found = _kept(self._jobs, node, form.get("id", ""))
        if not _is_editable(found, shown_facts(found, full=True)):
            raise HTTPException(400, "This dead letter cannot be sent as another message")
        letter = found.dead_letter
        try:
            params = decode_json(form.get("params", "").encode())
            self._sender.send(f"{node}.{letter.service}", params, timeout=10)
        except EnvelopeError as error:
            raise HTTPException(400, f"Nothing was sent: {error.detail}") from error
        except ServiceBusError as error:
            raise HTTPException(502, f"Not sent: {error}") from error
        self._record(user, node, f"send dead letter {letter.id} with other params, and drop it")
        which = f"{letter.id}, which was sent as a new message with other params"
        return _back(node, self._jobs.drop(node, user, Filter(ids=frozenset({letter.id})), f"drop {which}"))


def _node(name: str) -> str:
    try:
        check_node_name(name)
    except AddressError as error:
        raise HTTPException(404, "No node has such a name") from error
    return name


def _wanted(form: Mapping[str, str]) -> tuple[Filter, str]:
    """Which dead letters a form means, and how that is said: one, or a group or all as the page has shown them.

    What has died since the page was shown is in no group that its reader has seen.
    """
    if id := form.get("id", ""):
        return Filter(ids=frozenset({id})), id
    until = form.get("until", "")
    seen = Filter(until=int(until)) if until.isascii() and until.isdigit() else Filter()
    if "all" in form:
        return seen, "all"
    service, reason, status = (form.get(name, "") for name in ("service", "reason", "status"))
    if not service or not reason:
        raise HTTPException(400, "The form does not say which dead letters")
    found = replace(seen, services=(glob.escape(service),), reasons=(glob.escape(reason),))
    if status not in list(RequeueStatus):
        return found, f"{service}: {reason}"
    which = f"{service}: {reason}" + ("" if status == RequeueStatus.GOOD else f" ({status})")
    return replace(found, statuses=frozenset({RequeueStatus(status)})), which


def _kept(jobs: DeadLetterJobs, node: str, id: str) -> Found:
    found = jobs.kept(node, id)
    if found is None:
        raise HTTPException(404, "The last look has not kept this dead letter; search for its id")
    return found


def _params_text(facts: Mapping[str, Any]) -> str:
    if "params" in facts:
        return json.dumps(facts["params"], indent=2, ensure_ascii=False)
    return str(facts["params_text"])


def _is_editable(found: Found, facts: Mapping[str, Any]) -> bool:
    """A message for the node itself, whose params can be read; an event cannot be sent to one subscriber alone."""
    letter = found.dead_letter
    is_message = letter.envelope is not None and letter.envelope.kind is Kind.MESSAGE and not letter.subscription
    return is_message and "params" in facts and "encrypted_with" not in facts


def _back(node: str, is_begun: bool) -> Response:
    if not is_begun:
        raise HTTPException(409, "Something is being done with the dead letters of this node; wait for its end")
    return RedirectResponse(f"/dead/{quote(node)}", 303)
