"""What happens by the clock: deadlines, silent paths, ends of waits (LivenessTimer), and second attempts (Hedger)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

from servicebus.client.hosts import Connector, HostSelector
from servicebus.client.link import Link
from servicebus.client.nodes import Budgets, IdleNodes, Path
from servicebus.client.pending import PendingRequests
from servicebus.client.request import PendingRequest
from servicebus.client.scheduler import RequestScheduler
from servicebus.client.watch import LATE, PathWatch
from servicebus.transport.loop import EventLoop, Timer
from servicebus.wire.envelope import CALL

_BUSY_TICK_S = 0.05
_IDLE_TICK_S = 0.5


class LivenessTimer:
    """Ticks often while something is unfinished, seldom while a link is up, and else not at all.

    Belongs to the engine's thread.
    """

    def __init__(
        self,
        loop: EventLoop,
        links: Sequence[Link],
        pending: PendingRequests,
        scheduler: RequestScheduler,
        watch: PathWatch,
        connector: Connector,
        idle: IdleNodes,
        look_at_streams: Callable[[float], None],
    ):
        self._loop = loop
        self._links = links
        self._pending = pending
        self._scheduler = scheduler
        self._watch = watch
        self._connector = connector
        self._idle = idle
        self._look_at_streams = look_at_streams
        self._timer: Timer | None = None
        self._is_stopped = False
        self.is_busy = False
        """The next tick comes soon."""

    def set(self) -> None:
        """Something has begun: see to it that the next tick comes in time."""
        if self._is_stopped or self.is_busy:
            return
        is_idle = not (len(self._pending) or self._watch.is_waiting)
        if self._timer is not None:
            if is_idle:
                return
            self._timer.cancel()  # a request after a pause must not wait for an idle tick: its limit may be shorter
        self.is_busy = not is_idle
        self._timer = self._loop.call_later(_IDLE_TICK_S if is_idle else _BUSY_TICK_S, self._tick)

    def stop(self) -> None:
        self._is_stopped = True

    def _tick(self) -> None:
        self._timer, self.is_busy = None, False
        if self._is_stopped:
            return
        now = time.monotonic()
        outbox = self._scheduler.outbox
        for look in (
            self._scheduler.end_overdue,
            self._check_links,
            self._scheduler.probe,
            self._scheduler.end_waits,
            self._connector.look_after,
            self._idle.look,
            self._look_at_streams,
            *([outbox.tick] if outbox is not None else []),
        ):
            self._loop.guarded(partial(look, now))
        is_owed = outbox is not None and outbox.is_waiting
        if len(self._pending) or is_owed or any(link.is_up or link.is_wanted for link in self._links):
            self.set()

    def _check_links(self, now: float) -> None:
        for link in self._links:
            if link.is_up:
                self._loop.guarded(partial(self._watch.check, link, self._pending.is_awaited, now))


_LOOK_AGAIN_S = 0.05


class Hedger:
    """Belongs to the engine's thread."""

    def __init__(
        self, loop: EventLoop, pending: PendingRequests, selector: HostSelector, connector: Connector, budgets: Budgets
    ):
        self.hedged = 0
        self._loop = loop
        self._pending = pending
        self._selector = selector
        self._connector = connector
        self._budgets = budgets

    def watch(self, request: PendingRequest, after_s: float) -> None:
        """Send a copy of *request* if it is not answered *after_s* from now."""
        self._loop.call_later(after_s, lambda: self._hedge(request))

    def _hedge(self, request: PendingRequest) -> None:
        if request.is_done:
            return
        first = request.link if request.id in self._pending.in_flight else None
        if first is None:  # on no path at all: the second one comes after the first
            self.watch(request, _LOOK_AGAIN_S)
            return
        now = time.monotonic()
        link = self._selector.choose_beside(request, first, now)
        if link is None:
            self._connector.prepare_another(first, now)
            self.watch(request, _LOOK_AGAIN_S)
        elif self._budgets.may_resend(request.address.node, now):
            self._publish_beside(request, link, now)

    def prepare(self, path: Path, now: float) -> None:
        """*path* was pinged: have another one ready in case it is late."""
        self._connector.prepare_another(path.link, now)

    def hedge_all(self, path: Path, now: float) -> None:
        """*path* is suspect: what is outstanding there, and may be sent again, goes over another one as well."""
        for request in list(path.outstanding.values()):
            if request.path is not path or request.hedge is not None or not _may_be_hedged(request):
                continue
            link = self._selector.choose_beside(request, path.link, now)
            if link is None or not self._budgets.may_hedge(path.node, now):
                return  # nor would the others go; the next tick looks again
            request.failed_over()
            request.tried(path.link.host.name, LATE)
            path.link.losses.came_back("suspect", request.published_at, now)
            path.link.losses.failovers += 1
            # What raises for one keeps no other back, and is not tried again at every tick: it counts as hedged.
            self._loop.guarded(partial(self._publish_beside, request, link, now))

    def _publish_beside(self, request: PendingRequest, link: Link, now: float) -> None:
        link.publish(request, now, is_hedge=True)
        self.hedged += 1


def _may_be_hedged(request: PendingRequest) -> bool:
    """By a suspicion alone. Nodes of version 1 have no journal: they would run it twice."""
    assert request.link is not None
    is_newest = request.protocol is request.link.newest
    return is_newest and request.kind is CALL and request.resend and request.pinned is None and not request.stream
