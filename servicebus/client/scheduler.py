"""RequestScheduler: a request's way: published, waiting for a path, taken back from a dead one, resent.

A request is either *travelling* (published on a link), *waiting* for a usable path, or *pausing* because its service is
busy or its node must not be sent more just now; PendingRequests knows which.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from servicebus.client.hosts import Connector, HostSelector
from servicebus.client.link import Link
from servicebus.client.nodes import Budgets
from servicebus.client.pending import PendingRequests
from servicebus.client.request import PendingRequest
from servicebus.client.request_errors import (
    defect,
    interrupted,
    out_of_paths,
    out_of_time,
    refused_again,
    too_large,
)
from servicebus.client.request_state import RequestState
from servicebus.client.watch import Canceller
from servicebus.configuration import Configuration
from servicebus.errors import EnvelopeError, ServiceBusError, ServiceBusy
from servicebus.policy.retry_budget import busy_pause_s
from servicebus.transport.loop import EventLoop
from servicebus.wire.envelope import CALL, MESSAGE
from servicebus.wire.events import EVENTS

if TYPE_CHECKING:
    from servicebus.client.outbox import Outbox

_BUSY_RETRY_S = 0.05
"""For who is busy and does not say for how long."""
_HELD_S = 0.2
"""How often a call that is held back asks whether it may go."""
_PROBE_S = 0.25
"""How often the oldest message that waits for a node is tried: its queue may have been declared, or have room."""
_PROBES_AT_ONCE = 100
"""So many nodes at one tick, the others at the next ones."""
_LOOKED_AT = 8
"""So many of a node's oldest messages are looked at: the first may be too large for the broker that is left."""


class RequestScheduler:
    """Belongs to the engine's thread."""

    def __init__(
        self,
        loop: EventLoop,
        config: Configuration,
        links: Sequence[Link],
        pending: PendingRequests,
        selector: HostSelector,
        connector: Connector,
        budgets: Budgets,
        canceller: Canceller,
    ):
        self.outbox: Outbox | None = None
        self.keeps_events_alone = False
        """The outbox is that of a worker, for what its services have published."""
        self._loop = loop
        self._path_wait_s = config.path_wait
        self._links = links
        self._pending = pending
        self._selector = selector
        self._connector = connector
        self._budgets = budgets
        self._canceller = canceller
        self.busy = 0
        """How often a service was too busy."""
        self._probes: dict[str, float] = {}
        """Nodes that messages wait for, and when the next one is tried, in that order."""

    def each(self, requests: Iterable[PendingRequest], handle: Callable[[PendingRequest], None]) -> None:
        """``handle()`` each of *requests*; what it raises for one ends that one alone."""
        for request in requests:
            try:
                handle(request)
            except Exception as error:
                self.give_up(request, error, handle)

    def give_up(self, request: PendingRequest, error: Exception, handle: Callable[..., object]) -> None:
        """*handle* has raised for *request*: a defect, of ours or of what came in. It ends here."""
        self._loop.failed(handle, error)
        self._pending.finish(request)
        request.fail(defect(request, error))

    def accept(self, request: PendingRequest, now: float) -> None:
        """A new request of a caller's, or one whose taking was interrupted."""
        if request.state is not RequestState.NEW:
            self._pending.finish(request)
            request.begins_again()
        if self.outbox is not None and request.kind is MESSAGE and self.outbox.holds(request.address.node):
            self.outbox.keep(request)  # behind those that were sent before it
            return
        self._pending.deadlines.add(request, request.deadline)
        self.route(request, now)

    def begin(self, request: PendingRequest, now: float) -> None:
        """Take *request* on its way, until its deadline."""
        self._pending.deadlines.add(request, request.deadline)
        self.route(request, now)

    def has_way(self, request: PendingRequest, now: float) -> bool:
        """Whether *request* could be published now."""
        return self._selector.choose(request, now) is not None

    def route(self, request: PendingRequest, now: float) -> None:
        """Publish *request* on the best path there is, or let it wait for one."""
        if request.is_done:
            return
        link = self._selector.choose(request, now)
        if link is None:
            if request.pinned is None and all(each.refuses(request, now) for each in self._links):
                request.fail(refused_again(request, too_large(request, self._links, now)))
            else:
                self.wait(request, now)
            return
        try:
            link.publish(request, now)
        except EnvelopeError as error:
            request.fail(refused_again(request, error))
            return
        except Exception as error:
            self.give_up(request, error, link.publish)
            return
        self._pending.in_flight[request.id] = request

    def wait(self, request: PendingRequest, now: float) -> None:
        """Let *request* wait for a path."""
        if request.is_from_outbox:  # it waits there
            request.fail(out_of_paths(request, self._links))
            return
        is_another = request.waits(now, self._path_wait_s)
        end = self._wait_end(request.waiting_since or now)
        if is_another or end <= now:
            self._pending.waits.add(request, max(end, now))
        self._pending.wait(request)
        for link in self._links:
            link.watch(request.address.node)  # a dead path is probed while a request waits for it
        if request.kind is MESSAGE:
            self._probes.setdefault(request.address.node, now + _PROBE_S)
        if request.pinned is not None:
            request.pinned.connect(now)
        else:
            self._connector.connect_more(request.reverse)

    def retry_waiting(self, now: float, node: str | None = None) -> None:
        """Something has become better, for *node* or for all: look again for what waits."""
        waiting = self._pending.waiting if node is None else self._pending.waiting_for(node)
        self._route_waiting(list(waiting.values()), now)
        if self.outbox is not None:
            self.outbox.try_again(now)

    def probe(self, now: float) -> None:
        """Try the oldest message of each node whose turn it is. To be called at every tick.

        No event says that a queue was declared, or has room again. While no link is usable nothing is tried: the next
        one that comes up tries all.
        """
        if not self._probes or not any(link.is_usable for link in self._links):
            return
        for node, due in list(islice(self._probes.items(), _PROBES_AT_ONCE)):
            if due > now:
                return
            del self._probes[node]
            if self._pending.messages_for(node):
                self._probes[node] = now + _PROBE_S
                self.go_on(node, now, 1)

    def go_on(self, node: str, now: float, count: int) -> None:
        """Publish up to *count* of the messages that wait for *node*, as far as there is a way for them."""
        oldest = list(islice(self._pending.messages_for(node).values(), _LOOKED_AT))
        ready = [request for request in oldest if self._selector.choose(request, now) is not None]
        self._route_waiting(ready[:count], now)

    def _route_waiting(self, requests: Iterable[PendingRequest], now: float) -> None:
        def look_again(request: PendingRequest) -> None:
            if self._pending.leave(request):
                request.resumed()
                self.route(request, now)
                if request.attempts and request.link is not None:
                    self._note_failover(request.attempts[-1][0], request.link)

        self.each(requests, look_again)

    def _note_failover(self, host_name: str, to: Link) -> None:
        """A request that came back from that host has waited, and goes on over another one."""
        for link in self._links:
            link.losses.failovers += link is not to and link.host.name == host_name

    def _wait_end(self, since: float) -> float:
        return since + self._path_wait_s

    # -- coming back from where it was published -----------------------------------------------------------------------

    def take_back(
        self, request: PendingRequest, link: Link, why: str, now: float, reason: str, is_nodes_fault: bool = False
    ) -> None:
        """*request* comes back from *link*: resend it over the next one, under the same id.

        Args:
            why: for the error, if it comes to one; *reason*: the same in one of a few words, for the counts.
        """
        if request.is_done:
            self._pending.in_flight.pop(request.id, None)
            return
        if request.link is None:
            return  # of a message that was published twice, because its thread was interrupted
        link.losses.came_back(reason, request.published_at, now)
        if reason == "connection-lost" and link.refuses(request, now):
            request.not_run()  # it is what the broker has closed the channel for
        request.tried(link.host.name, why)
        if request.hedge is not None:
            path = request.path_on(link)
            if path is not None:
                path.outstanding.pop(request.id, None)
            request.lost(link)
            return
        self._pending.in_flight.pop(request.id, None)
        request.lost(link)
        if request.kind is CALL and request.maybe_ran:
            if not request.resend:
                request.fail(interrupted(request, self._links, f"{link.host.name} {why}"))
                return
            if is_nodes_fault and not self._may_go_again(request, now):
                self._hold(request, now)
                return
        self.route(request, now)
        link.losses.failovers += request.link not in (None, link)

    def pause(self, request: PendingRequest, busy: ServiceBusy) -> None:
        """Its service cannot take *request* now: ask again in a while; it is on no path now."""
        self.busy += 1
        request.paused(busy.reason)
        self._pending.paused[request.id] = request
        self._pause(request, busy.retry_after_s or _BUSY_RETRY_S)

    def _pause(self, request: PendingRequest, hint_s: float) -> None:
        pause_s = busy_pause_s(hint_s, request.refusals, random.random())
        self._loop.call_later(pause_s, lambda: self._ask_again(request, hint_s))

    def _ask_again(self, request: PendingRequest, hint_s: float) -> None:
        if request.state is not RequestState.PAUSED:
            return
        now = time.monotonic()
        if not self._budgets.may_ask_again(request.address.node, now):
            self._pause(request, hint_s)
            return
        del self._pending.paused[request.id]
        request.resumed()
        self.route(request, now)

    def _may_go_again(self, request: PendingRequest, now: float) -> bool:
        """The first time is a failover and always free; a call that loses one node's path after the other is not."""
        return request.failed_over() == 1 or self._budgets.may_resend(request.address.node, now)

    def _hold(self, request: PendingRequest, now: float) -> None:
        request.held(now)
        self._pending.paused[request.id] = request
        self._loop.call_later(_HELD_S, lambda: self._let_go(request))

    def _let_go(self, request: PendingRequest) -> None:
        if request.state is not RequestState.HELD or request.held_since is None:
            return
        now = time.monotonic()
        if self._budgets.may_resend(request.address.node, now):
            del self._pending.paused[request.id]
            request.resumed()
            self.route(request, now)
        elif now - request.held_since < self._path_wait_s:
            self._loop.call_later(_HELD_S, lambda: self._let_go(request))
        else:
            self._pending.finish(request)
            tried = ", ".join(f"{host} {what}" for host, what in request.attempts)
            why = f"{tried}; not sent again: too many calls were lost with their paths to this node"
            request.fail(interrupted(request, self._links, why))

    # -- the end of waiting -------------------------------------------------------------------------------------------

    def end_overdue(self, now: float) -> None:
        """End what has run out of time."""

        def end(request: PendingRequest) -> None:
            if request.deadline > now:
                return  # a stream that has begun
            self._canceller.cancel(request)
            self._pending.give_up(request)
            self.end(request, out_of_time(request, self._links, now))

        self.each(self._pending.deadlines.expired(now), end)
        self._pending.deadlines.forget_done(len(self._pending))

    def end_waits(self, now: float) -> None:
        """End what has waited for a path for too long."""

        def look(request: PendingRequest) -> None:
            since = request.waiting_since
            if since is not None and self._wait_end(since) <= now and request.id in self._pending.waiting:
                self.end(request, out_of_paths(request, self._links))
                if request.kind is MESSAGE:
                    self._queue_behind(request)

        self.each(self._pending.waits.expired(now), look)
        self._pending.waits.forget_done(len(self._pending))

    def end(self, request: PendingRequest, error: ServiceBusError) -> None:
        """No broker has taken *request*: into the outbox with it, or else *error* is its end."""
        self._pending.finish(request)
        if request.is_done:
            return
        if self.outbox is not None and self._is_kept(request) and not request.is_from_outbox:
            self.outbox.keep(request, error)
        else:
            request.fail(error)

    def _is_kept(self, request: PendingRequest) -> bool:
        return request.kind is MESSAGE and (not self.keeps_events_alone or request.address.node == EVENTS)

    def _queue_behind(self, first: PendingRequest) -> None:
        """What waits for the same node was sent later than *first*, and must not overtake it."""
        if self.outbox is None or not self._is_kept(first):
            return
        for request in list(self._pending.messages_for(first.address.node).values()):
            self.end(request, out_of_paths(request, self._links))
