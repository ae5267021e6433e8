"""Carrier: a request's way: published, waiting for a path, taken back from a dead one and carried over to the next.

A request is either *travelling* (published on a link), *waiting* for a usable path, or *pausing* because its service is
busy; the roster knows which.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from servicebus.client.connector import Connector
from servicebus.client.link import Link
from servicebus.client.request import Request
from servicebus.client.roster import Roster
from servicebus.client.router import Router
from servicebus.client.verdicts import out_of_paths, out_of_time
from servicebus.configuration import Configuration
from servicebus.errors import CallInterrupted, EnvelopeError
from servicebus.transport.loop import EventLoop
from servicebus.wire.envelope import Kind


class Carrier:
    """Belongs to the engine's thread."""

    def __init__(
        self, loop: EventLoop, config: Configuration, links: Sequence[Link], roster: Roster, connector: Connector
    ):
        self._loop = loop
        self._config = config
        self._links = links
        self._roster = roster
        self._connector = connector
        self._router = Router(links, config.failback_after)

    def accept(self, request: Request, now: float) -> None:
        """A new request of a caller's."""
        self._roster.deadlines.add(request)
        self.route(request, now)

    def route(self, request: Request, now: float) -> None:
        """Publish *request* on the best path there is, or let it wait for one."""
        if request.is_done:
            return
        link = self._router.choose(request, now)
        if link is None:
            self.wait(request, now)
            return
        try:
            link.publish(request, now)
        except EnvelopeError as error:
            request.fail(error)
            return
        self._roster.travelling[request.id] = request
        request.published()

    def wait(self, request: Request, now: float) -> None:
        """Let *request* wait for a path."""
        if request.waiting_since is None or (
            request.published_at is not None and now - request.published_at > self._config.away_grace
        ):
            request.waiting_since = now
        self._roster.waiting[request.id] = request
        if request.pinned is not None:
            request.pinned.connect(now)
        else:
            self._connector.connect_more(request.reverse)

    def retry_waiting(self, now: float) -> None:
        """Something has become better: look again for everybody who waits."""
        roster = self._roster
        waiting, roster.waiting = roster.waiting, {}
        for request in waiting.values():
            self.route(request, now)

    def take_back(self, request: Request, why: str, now: float) -> None:
        """*request* comes back from a dead path: carry it over to the next one, under the same id."""
        self._roster.travelling.pop(request.id, None)
        if request.is_done:
            return
        host = request.link.host.name if request.link else "?"
        request.tried(host, why)
        request.link = request.path = None
        if request.kind is Kind.CALL and not request.resend and request.maybe_ran:
            request.fail(CallInterrupted(str(request.address), f"{host} {why}"))
            return
        self.route(request, now)

    def pause(self, request: Request, pause_s: float) -> None:
        """Try *request* again after *pause_s*; it is on no path now."""
        request.link = request.path = None
        self._roster.pausing[request.id] = request
        self._loop.call_later(pause_s, lambda: self._resume(request))

    def end_overdue(self, now: float) -> None:
        """End what has run out of time."""
        for request in self._roster.deadlines.expired(now):
            self._roster.finish(request)
            request.fail(out_of_time(request, self._links, now))
        self._roster.deadlines.forget_done(len(self._roster))

    def end_grace(self, now: float) -> None:
        """End what has waited for a path for too long."""
        for request in list(self._roster.waiting.values()):
            since = request.waiting_since
            if since is not None and now - since >= self._config.away_grace:
                self._roster.finish(request)
                request.fail(out_of_paths(request, self._links))

    def _resume(self, request: Request) -> None:
        if self._roster.pausing.pop(request.id, None) is not None:
            self.route(request, time.monotonic())
