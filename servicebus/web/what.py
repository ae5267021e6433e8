"""Search by id: what became of a call, message or event, as ``servicebus what`` says it; in threads of their own.

A search takes each dead letter from its broker and gives it back, so it begins by a form alone, and not by a link.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from servicebus._discovering import Discovering
from servicebus._id_search import WHAT_IDS_ARE, FoundId, IdSearch, is_searchable
from servicebus._id_search_text import asked, places, what_next
from servicebus.configuration import Configuration
from servicebus.fleet.watch import FleetWatch
from servicebus.transport.loggers import get_logger
from servicebus.web.dead_jobs import DeadLetterJobs
from servicebus.web.overview import unchanged
from servicebus.web.templates import page

LOG = get_logger(__name__)

__all__ = ["IdSearches", "WhatPages"]

_TIMEOUT_S = 2.0
_QUIET_S = 0.25
_AT_ONCE = 3
_KEPT = 100


@dataclass(eq=False)
class OneSearch:
    """A search for one id, from its begin on."""

    id: str
    search: IdSearch
    """For the thread that searches, until it has ended."""
    progress: str = ""
    has_ended: bool = False
    problem: str = ""
    """Why it has found nothing at all."""

    @property
    def found(self) -> FoundId:
        return self.search.found[self.id]


class IdSearches:
    """Those that run and the last ones, by their ids. For any thread."""

    def __init__(self, config: Configuration, sender: Discovering, dead_jobs: DeadLetterJobs):
        self._config, self._sender, self._dead_jobs = config, sender, dead_jobs
        self._lock = threading.Lock()
        self._searches: dict[str, OneSearch] = {}

    def of(self, id: str) -> OneSearch | None:
        return self._searches.get(id)

    def begin(self, id: str, nodes: Sequence[str]) -> bool:
        """Search for *id*, unless that is being done. False: too many others run.

        Args:
            nodes: those that are known, which have to answer.
        """
        with self._lock:
            running = [each for each in self._searches.values() if not each.has_ended]
            if any(each.id == id for each in running):
                return True
            if len(running) >= _AT_ONCE:
                return False
            self._searches.pop(id, None)
            self._searches[id] = one = OneSearch(id, IdSearch(self._config, [id], nodes))
            for old in [each.id for each in self._searches.values() if each.has_ended][: len(self._searches) - _KEPT]:
                del self._searches[old]
        threading.Thread(target=self._run, args=(one,), name=f"search-{id}", daemon=True).start()
        return True

    def _run(self, one: OneSearch) -> None:
        def tell(broker: str, count: int, total: int) -> None:
            if count % 100 == 0:
                one.progress = f"{broker}: {count} of {total} dead letters looked at"

        try:
            one.search.ask_nodes(self._sender, _TIMEOUT_S, _QUIET_S)
            one.search.look_on_brokers(tell)
            for _, letter in one.found.dead_letters:
                self._dead_jobs.keep(letter.node, letter.found)
        except Exception as error:  # a defect of ours: the page must say that it has ended
            LOG.exception("the search for %s has failed", one.id)
            one.problem = f"unexpected {type(error).__name__}: {error}"
        one.has_ended = True


class WhatPages:
    """``POST /what``, which begins a search, and ``/what/{id}``, which shows what it has found."""

    def __init__(self, watch: FleetWatch, searches: IdSearches):
        self._watch, self._searches = watch, searches

    def begin(self, request: Request) -> Response:
        id = request.state.form.get("id", "").strip()
        if not is_searchable(id):
            raise HTTPException(400, f"This is no id: {WHAT_IDS_ARE}")
        if not self._searches.begin(id, list(self._watch.view.nodes)):
            raise HTTPException(503, "Others are searching. Try again in a moment")
        return RedirectResponse(f"/what/{quote(id)}", 303)

    def show(self, request: Request) -> Response:
        id = request.path_params["id"]
        if not is_searchable(id):
            raise HTTPException(404, f"This is no id: {WHAT_IDS_ARE}")
        one = self._searches.of(id)
        seen = one.progress if one is not None and not one.has_ended else "ended"
        if unchanged(request, seen):
            return Response(status_code=204)
        if one is None or not one.has_ended:
            return page(request, "what", id=id, one=one, seen=seen, is_over=False)
        found, is_over = one.found, not one.problem
        return page(
            request,
            "what",
            id=id,
            one=one,
            seen=seen,
            is_over=is_over,
            state=found.state,
            places=list(places(found)),
            asked=asked(one.search),
            unasked=one.search.unasked,
            what_next=[] if found.places else list(what_next(one.search)),
        )
