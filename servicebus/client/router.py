"""Router: the link that a request should travel over now."""

from __future__ import annotations

from collections.abc import Sequence

from servicebus.client.link import Link
from servicebus.client.request import Request
from servicebus.policy.paths import Candidate, choose
from servicebus.wire.envelope import MESSAGE


class Router:
    """Belongs to the engine's thread.

    Args:
        links: in order of preference.
    """

    def __init__(self, links: Sequence[Link], failback_after_s: float):
        self._links = links
        self._failback_after_s = failback_after_s

    def choose(self, request: Request, now: float) -> Link | None:
        """The best usable link for *request*; None if there is none now."""
        if request.pinned is not None:
            return request.pinned if request.pinned.is_usable else None
        links = self._links[::-1] if request.reverse else self._links
        if self._is_beyond_doubt(links[0], request, now):
            return links[0]
        return self._compare(links, request, now)

    def _is_beyond_doubt(self, first: Link, request: Request, now: float) -> bool:
        """Comparing it with others would come to the same: nothing has failed there, or there are no others."""
        path = first.paths.get(request.address.node)
        if path is None or not first.is_usable or len(request.body) > first.size_limit.tracked_bytes:
            return False
        if request.kind is MESSAGE and (path.lacks_queue(now) or (first.denials.known and first.denies(request, now))):
            return False
        if len(self._links) == 1:
            return path.trust.is_healthy
        return not (path.trust.failed or first.trust.failed)

    def _compare(self, links: Sequence[Link], request: Request, now: float) -> Link | None:
        node = request.address.node
        patience_s = self._failback_after_s
        is_message = request.kind is MESSAGE

        def look(link: Link) -> Candidate:
            path = link.path(node, now)
            return Candidate(
                is_usable=link.is_usable
                and not (is_message and path.lacks_queue(now))
                and not link.refuses(request, now)
                and not link.denies(request, now),
                is_trusted=link.trust.is_trusted(now, patience_s),
                path_is_healthy=path.trust.is_healthy,
                path_is_trusted=path.trust.is_trusted(now, patience_s),
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

    def choose_beside(self, request: Request, first: Link, now: float) -> Link | None:
        """Another link than *first* that is as good for a call, and whose node speaks what it was published in."""
        node = request.address.node
        for link in self._links:
            if link is not first and link.is_usable and not link.refuses(request, now):
                path = link.path(node, now)
                if path.trust.is_healthy and path.version is request.version:
                    return link
        return None
