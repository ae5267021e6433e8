"""Engine: carries a Sender's requests over the brokers, and every one of them to an end.

Theory of operation. A request is either *travelling* (published on a link, in ``_travelling`` by its id), *waiting* for
a usable path, or done. Whatever changes the picture (a link that comes up, a broker that blocks, a pong, a return, a
silence) moves requests between the two; a tick looks after what nobody announces: deadlines, silence, grace.
Everything here runs in the client loop's thread but ``submit()`` and ``status()``.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from servicebus.client.link import Link
from servicebus.client.path import Path
from servicebus.client.pinger import Pinger
from servicebus.client.request import Request
from servicebus.configuration import Configuration
from servicebus.errors import (
    CallError,
    CallInterrupted,
    CallTimeout,
    EnvelopeError,
    NoBrokerAvailable,
    NodeUnavailable,
    SendUnconfirmed,
    ServiceBusError,
    ServiceBusy,
)
from servicebus.policy.liveness import Verdict
from servicebus.policy.paths import Candidate, choose, next_to_connect
from servicebus.transport.interface import Delivery, Returned
from servicebus.transport.loop import EventLoop
from servicebus.wire.envelope import Kind
from servicebus.wire.fault import error_from_fault
from servicebus.wire.signing import Keyring
from servicebus.wire.xmlcodec import decode_json, decode_reply

LOG = logging.getLogger(__name__)

_BUSY_TICK_S = 0.05
_IDLE_TICK_S = 0.5
_SPARE_AFTER_S = 60.0
"""A connection to a less preferred broker is closed after being unused for so long."""
_BUSY_RETRY_S = 0.05
_QUEUE_MAY_APPEAR_S = 0.25
"""After a message came back unroutable, its node's queue on that broker is not tried again for so long."""
_AWAY = "no agent of the node consumes there"


class Engine:
    """The machinery behind one Sender in one process."""

    def __init__(self, loop: EventLoop, config: Configuration, keyring: Keyring):
        self._loop = loop
        self._config = config
        self._keyring = keyring
        self._links = [Link(loop, host, config, self) for host in config.hosts]
        self._reversed = self._links[::-1]
        self._pinger = Pinger(config, keyring)
        self._submitted: deque[Request] = deque()
        self._is_scheduled = False
        self._travelling: dict[str, Request] = {}
        self._waiting: dict[str, Request] = {}
        self._pausing: dict[str, Request] = {}
        self._deadlines: list[tuple[float, int, Request]] = []
        self._order = itertools.count()
        self._tick_is_set = False
        self._connect_timer_is_set = False
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
        return {
            "hosts": [
                {
                    "name": link.host.name,
                    "state": link.state.value,
                    "usable": link.is_usable,
                    "preferred": link is self._best_link(),
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
                request.fail(ServiceBusError(f"{request.address}: the Sender was closed"))
                continue
            heapq.heappush(self._deadlines, (request.deadline, next(self._order), request))
            self._route(request, now)
        self._set_tick()

    def _route(self, request: Request, now: float) -> None:
        """Publish *request* on the best path there is, or let it wait for one."""
        if request.future.done():
            return
        link = self._choose(request, now)
        if link is None:
            self._wait(request, now)
            return
        self._travelling[request.id] = request
        request.maybe_ran = True
        link.publish(request, self._config.exchange_name, now)

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

        links = self._reversed if request.reverse else self._links
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
        self._connect_more()

    def _retry_waiting(self) -> None:
        now = time.monotonic()
        waiting, self._waiting = self._waiting, {}
        for request in waiting.values():
            self._route(request, now)

    def _take_back(self, request: Request, why: str, now: float) -> None:
        """*request* comes back from a dead path: carry it over to the next one, under the same id."""
        self._travelling.pop(request.id, None)
        if request.future.done():
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
        if self._waiting or link.is_wanted:
            self._connect_more()

    def link_down(self, link: Link, reason: str, orphans: list[Request]) -> None:
        if self._closed:
            return
        now = time.monotonic()
        LOG.debug("%s: %s", link.host.name, reason)
        link.trust.lose(reason)
        link.is_wanted = self._is_in_use(now)
        for request in orphans:
            self._take_back(request, reason, now)
        for request in [request for request in self._waiting.values() if request.pinned is link]:
            self._finish(request)
            request.fail(NoBrokerAvailable(str(request.address), [(link.host.name, reason)]))
        if self._waiting:
            self._connect_more()
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
        now = time.monotonic()
        wire_id = returned.correlation_id or returned.message_id or ""
        if self._pinger.gave_up(wire_id):
            return
        request = self._travelling.get(wire_id)
        if request is None or request.link is not link:
            return
        path = link.path(request.address.node, now)
        if request.kind is Kind.MESSAGE:
            request.returned = True  # its confirm follows
            path.lacks_queue_until = now + _QUEUE_MAY_APPEAR_S
            return
        path.outstanding.pop(request.id, None)
        request.maybe_ran = False
        self._path_failed(path, _AWAY, now)
        if request.pinned is not None:
            self._finish(request)
            request.fail(NodeUnavailable(str(request.address), [(link.host.name, _AWAY)]))
            return
        self._take_back(request, _AWAY, now)

    def confirmed(self, link: Link, request: Request, is_ack: bool) -> None:
        if is_ack and not request.returned:
            self._finish(request)
            request.complete(request.event_id)
            return
        request.maybe_ran = False
        why = "has no queue for the messages of the node" if request.returned else "refused the message (nack)"
        self._take_back(request, why, time.monotonic())

    def replied(self, link: Link, delivery: Delivery) -> None:
        wire_id = delivery.correlation_id or ""
        path = self._pinger.answered(wire_id, delivery.body)
        if path is not None:
            self._path_answered(path)
            return
        request = self._travelling.get(wire_id)
        if request is None:
            self.late_replies += 1
            LOG.debug("%s: reply to %s, which nobody waits for (any more)", link.host.name, wire_id)
            return
        try:
            reply = decode_reply(delivery.body, self._config.max_envelope_bytes)
            self._keyring.verify_reply(reply, request.token)
            if reply.id != request.id:
                raise EnvelopeError("signature", "the reply belongs to another request")
        except EnvelopeError as error:
            self.unverified_replies += 1
            request.tried(link.host.name, f"sent a reply that cannot be believed ({error})")
            LOG.warning("%s: ignored a reply to %s: %s", link.host.name, request.address, error)
            return
        if request.path is not None and request.path.link is link:
            request.path.heard(time.monotonic())
        if reply.fault is not None:
            self._faulted(request, reply.fault)
            return
        self._finish(request)
        try:
            value = decode_json(reply.message)
        except EnvelopeError as error:
            request.fail(error)
        else:
            request.complete((request.event_id, value))

    def _faulted(self, request: Request, fault: Any) -> None:
        if fault.type == "stopping" and request.path is not None:
            # The agent is draining and has not run it: as good as an unroutable call, but said in time.
            request.maybe_ran = False
            self._path_failed(request.path, "the agent there is stopping", time.monotonic())
            return
        self._finish(request)
        error = error_from_fault(fault, str(request.address), time.monotonic() - request.started_at)
        if not isinstance(error, ServiceBusy):
            request.fail(error)
            return
        request.is_busy = True
        request.maybe_ran = False
        request.link = request.path = None
        self._pausing[request.id] = request
        self._loop.call_later(error.retry_after_s or _BUSY_RETRY_S, lambda: self._resume(request))

    def _resume(self, request: Request) -> None:
        if self._pausing.pop(request.id, None) is not None:
            self._route(request, time.monotonic())

    # -- connecting ----------------------------------------------------------------------------------------------------

    def _connect_more(self) -> None:
        """Start the next connection that somebody waits for; one after another, ``connect_stagger`` apart."""
        now = time.monotonic()
        for link in self._links:
            if link.is_wanted and link.can_start:
                link.connect(now)
        if not self._waiting:
            return
        order = self._reversed if next(iter(self._waiting.values())).reverse else self._links
        pinned = {id(request.pinned) for request in self._waiting.values() if request.pinned is not None}
        for link in order:
            if id(link) in pinned:
                link.connect(now)
        index, again_s = next_to_connect(
            [link.can_start for link in order],
            [link.connecting_since for link in order],
            now,
            self._config.connect_stagger,
        )
        if index is not None:
            self._pass_over(order[:index], now)
            order[index].connect(now)
        if any(link.can_start for link in order) and not self._connect_timer_is_set:
            self._connect_timer_is_set = True
            self._loop.call_later(again_s, self._connect_again)

    def _connect_again(self) -> None:
        self._connect_timer_is_set = False
        if self._waiting and not self._closed:
            self._connect_more()

    def _pass_over(self, links: Iterable[Link], now: float) -> None:
        """A host that was too slow must prove itself before it is preferred again."""
        for link in links:
            if not link.is_up and not link.trust.failed:
                link.trust.lose("too slow to connect")
            link.is_wanted = True

    # -- the tick: what nobody announces -------------------------------------------------------------------------------

    def _set_tick(self) -> None:
        if self._tick_is_set or self._closed:
            return
        self._tick_is_set = True
        is_busy = bool(self._travelling or self._waiting or self._deadlines or self._pinger.is_waiting)
        self._loop.call_later(_BUSY_TICK_S if is_busy else _IDLE_TICK_S, self._tick)

    def _tick(self) -> None:
        self._tick_is_set = False
        if self._closed:
            return
        now = time.monotonic()
        self._expire(now)
        for link in self._links:
            if link.is_up:
                link.check_pulse(now, self._link_is_silent)
                for path in list(link.paths.values()):
                    self._check_path(path, now)
        self._end_grace(now)
        self._look_after_links(now)
        if self._waiting or any(link.is_up or link.is_wanted for link in self._links) or self._deadlines:
            self._set_tick()

    def _expire(self, now: float) -> None:
        while self._deadlines and (self._deadlines[0][0] <= now or self._deadlines[0][2].future.done()):
            request = heapq.heappop(self._deadlines)[2]
            if request.future.done():
                continue
            self._finish(request)
            request.fail(self._timeout_error(request, now))
        alive = len(self._travelling) + len(self._waiting) + len(self._pausing)
        if len(self._deadlines) > 2 * alive + 1024:
            # Answered requests would otherwise stay in memory until their deadline, 300 s by default.
            self._deadlines = [entry for entry in self._deadlines if not entry[2].future.done()]
            heapq.heapify(self._deadlines)

    def _timeout_error(self, request: Request, now: float) -> ServiceBusError:
        address = str(request.address)
        if request.link is not None:
            request.tried(request.link.host.name, "did not answer" if request.kind is Kind.CALL else "did not confirm")
        if request.kind is Kind.MESSAGE:
            return self._unreachable_error(request)
        if request.is_busy:
            return ServiceBusy(address)
        return CallTimeout(address, now - request.started_at, request.attempts)

    def _check_path(self, path: Path, now: float) -> None:
        if not path.trust.is_healthy:
            self._probe(path, now)
            return
        verdict = path.clock.verdict(now, path.oldest())
        if verdict is Verdict.PING:
            self._pinger.ping(path, now)
            self._prepare_next(path.link, now)
        elif verdict is Verdict.DEAD:
            if path.link.bytes_received == path.link_bytes_at_ping:
                self._link_is_silent(path.link)
            else:
                self._path_failed(path, path.doubt or "the node did not answer a ping", now)

    def _probe(self, path: Path, now: float) -> None:
        """Ask a dead path now and then whether it lives again, while somebody cares."""
        is_awaited = any(request.address.node == path.node for request in self._waiting.values())
        if now >= path.probe_at and path.link.is_usable and (is_awaited or now - path.used_at < _SPARE_AFTER_S):
            self._pinger.ping(path, now)
            path.probe_at = now + (0.1 if is_awaited else 1.0)

    def _path_answered(self, path: Path) -> None:
        was_dead = not path.trust.is_healthy
        path.heard(time.monotonic())
        if was_dead:
            self._retry_waiting()

    def _path_failed(self, path: Path, why: str, now: float) -> None:
        path.trust.lose(why)
        path.clock.heard(now)
        orphans = list(path.outstanding.values())
        path.outstanding.clear()
        for request in orphans:
            self._take_back(request, why, now)

    def _link_is_silent(self, link: Link) -> None:
        silence_s = self._config.path_ping_after + self._config.path_ping_timeout
        link.abort(f"silent for {silence_s:g} s")

    def _prepare_next(self, suspect: Link, now: float) -> None:
        """Connect to the next host while the suspect has time to answer, so that a failover finds it ready."""
        if any(link.is_usable for link in self._links if link is not suspect):
            return
        for link in self._links:
            if link is not suspect and link.can_start:
                link.connect(now)
                return

    def _end_grace(self, now: float) -> None:
        for request in list(self._waiting.values()):
            since = request.waiting_since
            if since is not None and now - since >= self._config.away_grace:
                self._finish(request)
                request.fail(self._unreachable_error(request))

    def _unreachable_error(self, request: Request) -> ServiceBusError:
        address = str(request.address)
        attempts = list(request.attempts) + self._host_reasons(request)
        if request.maybe_ran:
            if request.kind is Kind.MESSAGE:
                return SendUnconfirmed(address, attempts)
            if request.kind is Kind.CALL:
                text = ", ".join(f"{host} {what}" for host, what in attempts)
                return CallInterrupted(address, text)
        if any(link.is_usable for link in self._links):
            return NodeUnavailable(address, attempts)
        return NoBrokerAvailable(address, attempts)

    def _host_reasons(self, request: Request) -> list[tuple[str, str]]:
        """Why each host is of no use to *request* now, where its own attempts do not say so already."""
        told = {host for host, _ in request.attempts}
        links = [request.pinned] if request.pinned is not None else self._links
        reasons = []
        for link in links:
            if link.host.name not in told:
                path = link.paths.get(request.address.node)
                is_path = link.is_usable and path is not None and not path.trust.is_healthy
                reasons.append((link.host.name, path.trust.reason if is_path and path else link.describe()))
        return reasons

    def _look_after_links(self, now: float) -> None:
        best = self._best_link()
        for link in self._links:
            if best is None or link is best:
                continue
            is_preferred = self._links.index(link) < self._links.index(best)
            if is_preferred and self._is_in_use(now):
                link.is_wanted = True
                if link.can_start:
                    link.connect(now)
            elif not is_preferred and link.is_spare(now, _SPARE_AFTER_S):
                link.rest()

    def _best_link(self) -> Link | None:
        now = time.monotonic()
        usable = [link for link in self._links if link.is_usable]
        trusted = [link for link in usable if link.trust.is_trusted(now, self._config.failback_after)]
        return (trusted or usable or [None])[0]  # type: ignore[list-item]

    def _is_in_use(self, now: float) -> bool:
        """Something was published lately; an idle Sender does not knock at dead brokers for ever."""
        return any(link.used_at and now - link.used_at < 2 * _SPARE_AFTER_S for link in self._links)

    # -- the end -------------------------------------------------------------------------------------------------------

    def _close(self, on_closed: Callable[[], None]) -> None:
        self._closed = True
        for requests in (self._travelling, self._waiting, self._pausing):
            for request in requests.values():
                request.fail(CallError(str(request.address), "the Sender was closed before the answer came"))
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
