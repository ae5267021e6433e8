"""Engine: carries a Sender's requests over the brokers, and every one of them to an end.

Theory of operation. A request is either *travelling* (published on a link, in ``_travelling`` by its id), *waiting* for
a usable path, or done. Whatever changes the picture (a link that comes up, a broker that blocks, a pong, a return, a
silence) moves requests between the two; a tick looks after what nobody announces: deadlines, silence, grace.
Everything here runs in the client loop's thread but ``submit()`` and ``status()``.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from servicebus.client.compat_path import CompatPinger, Version1
from servicebus.client.connector import Connector
from servicebus.client.deadlines import Deadlines
from servicebus.client.link import Link
from servicebus.client.path import Path
from servicebus.client.pinger import Pinger
from servicebus.client.request import Request
from servicebus.client.verdicts import out_of_paths, out_of_time
from servicebus.client.version import Version, Version2
from servicebus.client.watch import AWAY, PathWatch
from servicebus.configuration import Configuration
from servicebus.errors import CallError, CallInterrupted, EnvelopeError, NoBrokerAvailable, NodeUnavailable, ServiceBusy
from servicebus.policy.paths import Candidate, choose
from servicebus.transport.interface import Delivery, Returned
from servicebus.transport.loop import EventLoop, Timer
from servicebus.wire.envelope import Kind
from servicebus.wire.fault import Fault, error_from_fault
from servicebus.wire.signing import Keyring

LOG = logging.getLogger(__name__)

_BUSY_TICK_S = 0.05
_IDLE_TICK_S = 0.5
_BUSY_RETRY_S = 0.05
_QUEUE_MAY_APPEAR_S = 0.25
"""After a message came back unroutable, its node's queue on that broker is not tried again for so long."""


class Engine:
    """The machinery behind one Sender in one process."""

    def __init__(self, loop: EventLoop, config: Configuration, keyring: Keyring):
        self._loop = loop
        self._config = config
        versions, pinger = _versions(config, keyring)
        self._links = [Link(loop, host, config, versions, self) for host in config.hosts]
        self._connector = Connector(loop, config, self._links, lambda: bool(self._waiting) and not self._closed)
        self._watch = PathWatch(config, pinger, self)
        self._submitted: deque[Request] = deque()
        self._is_scheduled = False
        self._travelling: dict[str, Request] = {}
        self._waiting: dict[str, Request] = {}
        self._pausing: dict[str, Request] = {}
        """Answered "busy", and asked again in a moment."""
        self._deadlines = Deadlines()
        self._timer: Timer | None = None
        self._timer_is_idle = False
        self._closed = False
        self.unverified_replies = 0
        self.late_replies = 0

    def __repr__(self) -> str:
        return f"<Engine travelling={len(self._travelling)} waiting={len(self._waiting)} links={self._links}>"

    # -- for any thread ----------------------------------------------------------------------------------------------

    def submit(self, request: Request) -> None:
        self._submitted.append(request)
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.post(self._take_submitted)

    def status(self) -> dict[str, Any]:
        """What an operator wants to see; a snapshot, callable from any thread."""
        best = self._connector.best(time.monotonic())
        return {
            "hosts": [
                {
                    "name": link.host.name,
                    "state": link.state.value,
                    "usable": link.is_usable,
                    "preferred": link is best,
                    "reason": link.describe(),
                    "calls": link.calls,
                    "unconfirmed": link.unconfirmed,
                }
                for link in self._links
            ],
            "travelling": len(self._travelling),
            "waiting": len(self._waiting),
            "unverified_replies": self.unverified_replies,
            "late_replies": self.late_replies,
        }

    def close(self, on_closed: Callable[[], None]) -> None:
        """Fail what is unfinished and close the connections; ``on_closed()`` follows in the loop's thread."""
        self._loop.post(lambda: self._close(on_closed))

    @property
    def links(self) -> tuple[Link, ...]:
        return tuple(self._links)

    # -- a request's way -----------------------------------------------------------------------------------------------

    def _take_submitted(self) -> None:
        self._is_scheduled = False
        now = time.monotonic()
        while self._submitted:
            request = self._submitted.popleft()
            if self._closed:
                request.fail(_closed_error(request))
                continue
            self._deadlines.add(request)
            self._route(request, now)
        self._set_tick()

    def _route(self, request: Request, now: float) -> None:
        """Publish *request* on the best path there is, or let it wait for one."""
        if request.is_done:
            return
        link = self._choose(request, now)
        if link is None:
            self._wait(request, now)
            return
        try:
            link.publish(request, now)
        except EnvelopeError as error:
            request.fail(error)
            return
        self._travelling[request.id] = request
        request.published()

    def _choose(self, request: Request, now: float) -> Link | None:
        if request.pinned is not None:
            return request.pinned if request.pinned.is_usable else None
        node = request.address.node
        patience_s = self._config.failback_after
        is_message = request.kind is Kind.MESSAGE

        def look(link: Link) -> Candidate:
            path = link.path(node, now)
            return Candidate(
                is_usable=link.is_usable and not (is_message and path.lacks_queue(now)),
                is_trusted=link.trust.is_trusted(now, patience_s),
                path_is_healthy=path.trust.is_healthy,
                path_is_trusted=path.trust.is_trusted(now, patience_s),
            )

        links = self._links[::-1] if request.reverse else self._links
        found = choose(links, look)
        if found is None and is_message:
            # A message is safe in the durable queue of a broker whose agent is away just now; it only needs that queue.
            found = next((link for link in links if look(link).is_usable), None)
        return found

    def _wait(self, request: Request, now: float) -> None:
        if request.waiting_since is None or (
            request.published_at is not None and now - request.published_at > self._config.away_grace
        ):
            request.waiting_since = now
        self._waiting[request.id] = request
        if request.pinned is not None:
            request.pinned.connect(now)
        else:
            self._connector.connect_more(request.reverse)

    def _retry_waiting(self) -> None:
        now = time.monotonic()
        waiting, self._waiting = self._waiting, {}
        for request in waiting.values():
            self._route(request, now)

    def _take_back(self, request: Request, why: str, now: float) -> None:
        """*request* comes back from a dead path: carry it over to the next one, under the same id."""
        self._travelling.pop(request.id, None)
        if request.is_done:
            return
        host = request.link.host.name if request.link else "?"
        request.tried(host, why)
        request.link = request.path = None
        if request.kind is Kind.CALL and not request.resend and request.maybe_ran:
            request.fail(CallInterrupted(str(request.address), f"{host} {why}"))
            return
        self._route(request, now)

    def _finish(self, request: Request) -> None:
        self._travelling.pop(request.id, None)
        self._waiting.pop(request.id, None)
        self._pausing.pop(request.id, None)
        if request.path is not None:
            request.path.outstanding.pop(request.id, None)

    # -- what the links tell -------------------------------------------------------------------------------------------

    def link_up(self, link: Link) -> None:
        now = time.monotonic()
        link.up_since = now
        link.trust.recover(now)
        for path in link.paths.values():
            path.revive(now)
        LOG.debug("%s: connected", link.host.name)
        self._retry_waiting()
        self._set_tick()

    def link_idle(self, link: Link) -> None:
        self._connector.connect_more()

    def link_down(self, link: Link, reason: str, orphans: list[Request]) -> None:
        if self._closed:
            return
        now = time.monotonic()
        LOG.debug("%s: %s", link.host.name, reason)
        link.trust.lose(reason)
        for request in orphans:
            self._take_back(request, reason, now)
        for request in [request for request in self._waiting.values() if request.pinned is link]:
            self._finish(request)
            request.fail(NoBrokerAvailable(str(request.address), [(link.host.name, reason)]))
        self._connector.failed(link, now)
        self._set_tick()

    def link_blocked(self, link: Link, reason: str | None) -> None:
        now = time.monotonic()
        if reason is None:
            link.trust.recover(now)
            self._retry_waiting()
            return
        LOG.warning("%s: blocked by the broker (%s); leaving it", link.host.name, reason)
        link.trust.lose(f"blocked by the broker ({reason})")
        for request in link.take_orphans():
            self._take_back(request, f"blocked by the broker ({reason})", now)

    def unroutable(self, link: Link, returned: Returned) -> None:
        wire_id = returned.correlation_id or returned.message_id or ""
        now = time.monotonic()
        request = self._travelling.get(wire_id)
        if request is None or request.link is not link:
            self._watch.returned(wire_id, now)
            return
        if request.kind is Kind.MESSAGE:
            request.returned = True  # its confirm follows
            path = link.path(request.address.node, now)
            path.lacks_queue_until = now + _QUEUE_MAY_APPEAR_S
            self._watch.ask(path, now)
        else:
            self._not_run(request, AWAY, now)

    def _not_run(self, request: Request, why: str, now: float) -> None:
        """The path takes no calls, and surely did not run this one. Those that it took before may be under way."""
        path = request.path
        may_be_another = False
        if path is not None:
            path.outstanding.pop(request.id, None)
            path.trust.lose(why)
            may_be_another = self._watch.ask(path, now)
        request.not_run()
        if request.pinned is None:
            self._take_back(request, why, now)
            return
        self._finish(request)
        if may_be_another:
            self._wait(request, now)
        else:
            request.fail(NodeUnavailable(str(request.address), [(request.pinned.host.name, why)]))

    def confirmed(self, link: Link, request: Request, is_ack: bool) -> None:
        if is_ack and not request.returned:
            self._finish(request)
            request.complete(request.event_id)
            return
        request.not_run()
        why = "has no queue for the messages of the node" if request.returned else "refused the message (nack)"
        self._take_back(request, why, time.monotonic())

    def replied(self, link: Link, delivery: Delivery) -> None:
        wire_id = delivery.correlation_id or ""
        request = self._travelling.get(wire_id)
        if request is None:
            if not self._watch.answered(wire_id, delivery.body, time.monotonic()):
                self.late_replies += 1
                LOG.debug("%s: reply to %s, which nobody waits for (any more)", link.host.name, wire_id)
            return
        try:
            assert request.version is not None, "it travels"
            reply = request.version.read(request, delivery.body)
        except EnvelopeError as error:
            self.unverified_replies += 1
            request.tried(link.host.name, f"sent a reply that cannot be believed ({error})")
            LOG.warning("%s: ignored a reply to %s: %s", link.host.name, request.address, error)
            return
        if request.path is not None and request.path.link is link:
            request.path.clock.heard(time.monotonic())  # it lives; whether it takes new calls, only a pong says
        if reply.fault is not None:
            self._faulted(request, reply.fault)
            return
        self._finish(request)
        try:
            value = request.version.value(reply.message)
        except EnvelopeError as error:
            request.fail(error)
        else:
            request.complete((request.event_id, value))

    def _faulted(self, request: Request, fault: Fault) -> None:
        if fault.type == "stopping":
            # The agent is draining and has not run it: as good as an unroutable call, but said in time.
            self._not_run(request, "the agent there is stopping", time.monotonic())
            return
        self._finish(request)
        error = error_from_fault(fault, str(request.address), time.monotonic() - request.started_at)
        if not isinstance(error, ServiceBusy):
            request.fail(error)
            return
        request.is_busy = True
        request.not_run()
        request.link = request.path = None
        self._pausing[request.id] = request
        self._loop.call_later(error.retry_after_s or _BUSY_RETRY_S, lambda: self._resume(request))

    def _resume(self, request: Request) -> None:
        if self._pausing.pop(request.id, None) is not None:
            self._route(request, time.monotonic())

    # -- what the watch tells ------------------------------------------------------------------------------------------

    def path_suspect(self, path: Path) -> None:
        self._connector.prepare_another(path.link, time.monotonic())

    def path_alive(self, path: Path) -> None:
        self._retry_waiting()

    def path_dead(self, path: Path, why: str) -> None:
        now = time.monotonic()
        path.trust.lose(why)
        path.clock.heard(now)
        orphans = list(path.outstanding.values())
        path.outstanding.clear()
        for request in orphans:
            self._take_back(request, why, now)

    # -- the tick: what nobody announces -------------------------------------------------------------------------------

    def _set_tick(self) -> None:
        if self._closed or (self._timer is not None and not self._timer_is_idle):
            return
        is_idle = not (self._unfinished or self._watch.is_waiting)
        if self._timer is not None:
            if is_idle:
                return
            self._timer.cancel()  # a request after a pause must not wait for an idle tick: its limit may be shorter
        self._timer_is_idle = is_idle
        self._timer = self._loop.call_later(_IDLE_TICK_S if is_idle else _BUSY_TICK_S, self._tick)

    @property
    def _unfinished(self) -> int:
        return len(self._travelling) + len(self._waiting) + len(self._pausing)

    def _tick(self) -> None:
        self._timer = None
        if self._closed:
            return
        now = time.monotonic()
        for request in self._deadlines.expired(now):
            self._finish(request)
            request.fail(out_of_time(request, self._links, now))
        self._deadlines.forget_done(self._unfinished)
        awaited_nodes = {request.address.node for request in self._waiting.values()}
        for link in self._links:
            if link.is_up:
                self._watch.check(link, awaited_nodes, now)
        if any(request.kind is Kind.MESSAGE for request in self._waiting.values()):
            self._retry_waiting()  # the queue that was missing may have been declared; nobody would tell us
        self._end_grace(now)
        self._connector.look_after(now)
        if self._unfinished or any(link.is_up or link.is_wanted for link in self._links):
            self._set_tick()

    def _end_grace(self, now: float) -> None:
        for request in list(self._waiting.values()):
            since = request.waiting_since
            if since is not None and now - since >= self._config.away_grace:
                self._finish(request)
                request.fail(out_of_paths(request, self._links))

    # -- the end -------------------------------------------------------------------------------------------------------

    def _close(self, on_closed: Callable[[], None]) -> None:
        self._closed = True
        for requests in (self._travelling, self._waiting, self._pausing):
            for request in requests.values():
                request.fail(_closed_error(request))
            requests.clear()
        self._take_submitted()
        for link in self._links:
            link.close()
        self._await_closed(on_closed, time.monotonic() + 1.0)

    def _await_closed(self, on_closed: Callable[[], None], deadline: float) -> None:
        if all(link.is_gone for link in self._links):
            on_closed()
            return
        if time.monotonic() >= deadline:
            for link in self._links:
                link.abort("the Sender was closed")
            on_closed()
            return
        self._loop.call_later(0.01, lambda: self._await_closed(on_closed, deadline))


def _versions(config: Configuration, keyring: Keyring) -> tuple[list[Version], Pinger]:
    """What is spoken, the newest first, and the pinger that finds out where."""
    newest = Version2(config, keyring)
    if not config.compat:
        return [newest], Pinger(config)
    old = Version1(config)
    return [newest, old], CompatPinger(config, newest, old)


def _closed_error(request: Request) -> CallError:
    return CallError(str(request.address), "the Sender was closed before the answer came")
