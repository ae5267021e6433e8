"""Which host a request travels over now (HostSelector), and which hosts a Sender is connected to (Connector)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from servicebus.client.link import Link
from servicebus.client.nodes import SPARE_AFTER_S
from servicebus.client.request import PendingRequest
from servicebus.configuration import Configuration
from servicebus.policy.paths import Candidate, choose, next_to_connect
from servicebus.transport.loop import EventLoop, Timer
from servicebus.wire.envelope import MESSAGE

_SILENT_STAGGER_S = 0.08
NO_SUBSCRIBER = "knows no subscriber of the event"
"""What is noted of a broker that has returned an event."""


class HostSelector:
    """Belongs to the engine's thread.

    Args:
        links: in order of preference.
    """

    def __init__(self, links: Sequence[Link], failback_after_s: float):
        self._links = links
        self._failback_after_s = failback_after_s

    def choose(self, request: PendingRequest, now: float) -> Link | None:
        """The best usable link for *request*; None if there is none now."""
        if request.pinned is not None:
            return request.pinned if request.pinned.is_usable else None
        links = self._links[::-1] if request.reverse else self._links
        first = links[0]
        path = first.paths.get(request.address.node)
        if path is None or not first.is_usable or request.size > first.size_limit.tracked_bytes:
            return self._compare(links, request, now)
        # Where nothing has failed, or there are no others, a comparison would come to the same.
        of_path, of_first = path.health, first.health
        if (of_path.failed or of_path.is_suspect or of_first.failed or of_first.is_suspect) and (
            len(links) > 1 or not of_path.is_healthy
        ):
            return self._compare(links, request, now)
        if request.kind is MESSAGE and (
            path.lacks_queue(now) or (first.denials.known and first.denies(request, now)) or request.attempts
        ):
            return self._compare(links, request, now)
        return first

    def _compare(self, links: Sequence[Link], request: PendingRequest, now: float) -> Link | None:
        node = request.address.node
        stable_after_s = self._failback_after_s
        is_message = request.kind is MESSAGE

        def look(link: Link) -> Candidate:
            path = link.path(node, now)
            return Candidate(
                is_usable=link.is_usable
                and not (is_message and (path.lacks_queue(now) or (link.host.name, NO_SUBSCRIBER) in request.attempts))
                and not link.refuses(request, now)
                and not link.denies(request, now),
                is_stable=link.health.restored(now, stable_after_s),
                path_is_healthy=path.health.is_healthy,
                path_is_stable=path.health.restored(now, stable_after_s),
                is_suspect=link.health.is_suspect or path.health.is_suspect,
            )

        found = choose(links, look)
        if found is None and is_message:
            # A message is safe in the durable queue of a broker whose agent is away just now; it only needs that queue.
            found = next((link for link in links if look(link).is_usable), None)
        return found

    def has_way_for_messages(self, node: str, now: float) -> bool:
        """Whether a message to *node* could be published now."""
        return any(
            link.is_usable
            and not link.path(node, now).lacks_queue(now)
            and not all(link.denials.why(now, is_delayed=each) for each in (False, True))
            for link in self._links
        )

    def choose_beside(self, request: PendingRequest, first: Link, now: float) -> Link | None:
        """Another link than *first* that is as good for a call, and whose node speaks what it was published in."""
        node = request.address.node
        for link in self._links:
            if link is not first and link.is_usable and not (link.health.is_suspect or link.refuses(request, now)):
                path = link.path(node, now)
                is_good = path.health.is_healthy and not path.health.is_suspect
                if is_good and path.protocol is request.protocol:
                    return link
        return None


class Connector:
    """Connects when a request waits, returns to preferred hosts, lets spare ones go. The engine's thread only.

    Args:
        is_awaited: whether any request waits for a path.
        is_owed: whether something is to be delivered that no caller waits for: no reason to hurry, nor to rest.
    """

    def __init__(
        self,
        loop: EventLoop,
        config: Configuration,
        links: Sequence[Link],
        is_awaited: Callable[[], bool],
        is_owed: Callable[[], bool],
    ):
        self._loop = loop
        self._config = config
        self._links = links
        self._is_awaited = is_awaited
        self._is_owed = is_owed
        self._timer: Timer | None = None

    def connect_more(self, reverse: bool = False) -> None:
        """Start the next connection that is wanted: one host after another, ``connect_stagger`` apart.

        A backoff is for those who have something else. While a request waits, it is cut short: the broker may have come
        back just now, and the one that carried the traffic meanwhile may have died.
        """
        now = time.monotonic()
        for link in self._links:
            if link.is_wanted and link.can_start:
                link.connect(now)
        if self._timer is not None or not self._is_awaited():
            return
        order = self._links[::-1] if reverse else self._links
        index, again_s = next_to_connect(
            [link.can_start or link.connections.can_hurry(now) for link in order],
            [link.connections.connecting_since for link in order],
            now,
            self._stagger_s(),
        )
        if index is not None:
            self._pass_over(order[:index])
            order[index].connect(now)
        if any(link.can_start or link.connections.is_pausing for link in order):
            self._timer = self._loop.call_later(again_s, lambda: self._connect_again(reverse))

    def _stagger_s(self) -> float:
        """For how long a host keeps the next one from being tried.

        A new Sender soon passes over those of which it has not heard a byte. One that was connected does not: when a
        broker comes back, it is slow, because of all that connect to it, and should not have all of them twice.
        """
        is_known = any(link.connections.opened or link.bytes_received for link in self._links)
        return self._config.connect_stagger if is_known else min(_SILENT_STAGGER_S, self._config.connect_stagger)

    def failed(self, link: Link, now: float) -> None:
        """*link* went down: is it to come back by itself, and does a request wait for another?"""
        link.is_wanted = self.is_in_use(now)
        self._forget_timer()  # what failed at once makes room for the next at once
        self.connect_more()

    def prepare_another(self, suspect: Link, now: float) -> None:
        """Connect to the next host while the suspect has time to answer, so that a failover finds it ready."""
        others = [link for link in self._links if link is not suspect]
        if not any(link.is_usable for link in others):
            for link in others:
                if link.can_start:
                    link.connect(now)
                    return

    def look_after(self, now: float) -> None:
        """Keep knocking at hosts that are preferred to the best one; close the ones that are spare."""
        best = self.best(now)
        if best is None:
            if self._is_owed():
                self._knock_everywhere(now)
            return
        rank = self._links.index(best)
        for index, link in enumerate(self._links):
            if index < rank and self.is_in_use(now):
                link.is_wanted = True
                if link.can_start:
                    link.connect(now)
            elif index > rank and is_spare(link, now):
                link.rest()

    def best(self, now: float) -> Link | None:
        """The link that the next request to any node would take; any thread may ask."""
        usable = [link for link in self._links if link.is_usable]
        for link in usable:
            if link.health.is_stable(now, self._config.failback_after):
                return link
        return usable[0] if usable else None

    def is_in_use(self, now: float) -> bool:
        """Something was published lately; an idle Sender does not knock at dead brokers for ever."""
        return self._is_owed() or any(link.used_at and now - link.used_at < 2 * SPARE_AFTER_S for link in self._links)

    def _knock_everywhere(self, now: float) -> None:
        for link in self._links:
            link.is_wanted = True
            if link.can_start:
                link.connect(now)

    def _connect_again(self, reverse: bool) -> None:
        self._timer = None
        self.connect_more(reverse)

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @staticmethod
    def _pass_over(links: Iterable[Link]) -> None:
        """A host that was too slow must prove itself before it is preferred again."""
        for link in links:
            link.is_wanted = True
            if not link.is_up and not link.health.failed:
                link.health.fail("too slow to connect")


def is_spare(link: Link, now: float) -> bool:
    """Connected, but neither used nor waited for since ``SPARE_AFTER_S``."""
    is_waited_for = bool(link.unconfirmed) or any(path.outstanding for path in link.active.values())
    used_at = max(link.used_at, link.connections.up_since or 0.0)
    return link.is_up and not is_waited_for and now - used_at > SPARE_AFTER_S
