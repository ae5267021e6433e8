"""Every unfinished request of a Sender: by where it is, and by when something is due."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from servicebus.client.request import PendingRequest
from servicebus.wire.envelope import MESSAGE

if TYPE_CHECKING:
    from servicebus.client.link import Link
    from servicebus.client.nodes import Path


_SLACK = 1024


class Deadlines:
    """Requests by due time; those that are done leave without being asked. Belongs to the engine's thread.

    Most requests of a program have the same limit, so that each ends after the one before: these stand in line, and
    only the others in a heap.
    """

    def __init__(self) -> None:
        self._line: deque[tuple[float, PendingRequest]] = deque()
        self._heap: list[tuple[float, int, PendingRequest]] = []
        self._order = itertools.count()

    def __len__(self) -> int:
        return len(self._line) + len(self._heap)

    def add(self, request: PendingRequest, due: float) -> None:
        line = self._line
        if not line or line[-1][0] <= due:
            line.append((due, request))
        else:
            heapq.heappush(self._heap, (due, next(self._order), request))

    def expired(self, now: float) -> Iterator[PendingRequest]:
        """Take out the unfinished requests whose due time is not after *now*."""
        line, heap = self._line, self._heap
        while line and (line[0][0] <= now or line[0][1].is_done):
            request = line.popleft()[1]
            if not request.is_done:
                yield request
        while heap and (heap[0][0] <= now or heap[0][2].is_done):
            request = heapq.heappop(heap)[2]
            if not request.is_done:
                yield request

    def forget_done(self, unfinished: int) -> None:
        """Drop what is done, now and then: answered requests would else stay in memory until their deadline."""
        # Asked each of them, since a request may be known here only: its thread was interrupted as it moved it.
        if not unfinished or len(self) > 2 * unfinished + _SLACK:
            self._line = deque(entry for entry in self._line if not entry[1].is_done)
            self._heap = [entry for entry in self._heap if not entry[2].is_done]
            heapq.heapify(self._heap)


class PendingRequests:
    """Requests by their ids, in the order in which they came to where they are. Belongs to the engine's thread."""

    def __init__(self) -> None:
        self.in_flight: dict[str, PendingRequest] = {}
        """Published on a link."""
        self.waiting: dict[str, PendingRequest] = {}
        """For a usable path. Changed by ``wait()`` and ``leave()`` only."""
        self.paused: dict[str, PendingRequest] = {}
        """Answered "busy", and asked again in a moment."""
        self.deadlines = Deadlines()
        self.waits = Deadlines()
        """Those that wait, until when; some have found a path since."""
        self._by_node: dict[str, dict[str, PendingRequest]] = {}
        self._messages: dict[str, dict[str, PendingRequest]] = {}
        self._pinned: dict[str, PendingRequest] = {}

    def __len__(self) -> int:
        return len(self.in_flight) + len(self.waiting) + len(self.paused)

    def __repr__(self) -> str:
        counts = f"in_flight={len(self.in_flight)} waiting={len(self.waiting)} paused={len(self.paused)}"
        return f"<PendingRequests {counts}>"

    def find(self, wire_id: str) -> PendingRequest | None:
        """The unfinished request with that id."""
        return self.in_flight.get(wire_id) or self.waiting.get(wire_id) or self.paused.get(wire_id)

    # What waits is kept by node as well: an event of one node must not cost a look at all that wait for others. A
    # thread may be interrupted between two steps: what stands in a line is always in ``waiting``, too.

    def wait(self, request: PendingRequest) -> None:
        """*request* waits for a path, behind those that wait already."""
        self.waiting[request.id] = request
        for lines in self._lines(request):
            lines.setdefault(request.address.node, {})[request.id] = request
        if request.pinned is not None:
            self._pinned[request.id] = request

    def leave(self, request: PendingRequest) -> bool:
        """*request* does not wait any more; False if it did not."""
        if request.id not in self.waiting:
            return False
        self._pinned.pop(request.id, None)
        node = request.address.node
        for lines in self._lines(request):
            line = lines.get(node, {})
            line.pop(request.id, None)
            if not line:
                lines.pop(node, None)
        del self.waiting[request.id]
        return True

    def is_awaited(self, node: str) -> bool:
        """Whether any request waits for a path to *node*."""
        return node in self._by_node

    def waiting_for(self, node: str) -> Mapping[str, PendingRequest]:
        """What waits for a path to *node*, the oldest first."""
        return self._by_node.get(node, {})

    def messages_for(self, node: str) -> Mapping[str, PendingRequest]:
        """The messages among them."""
        return self._messages.get(node, {})

    def pinned_to(self, link: Link) -> list[PendingRequest]:
        """What waits for *link* and no other."""
        return [request for request in self._pinned.values() if request.pinned is link]

    def _lines(self, request: PendingRequest) -> tuple[dict[str, dict[str, PendingRequest]], ...]:
        return (self._by_node, self._messages) if request.kind is MESSAGE else (self._by_node,)

    def finish(self, request: PendingRequest) -> None:
        """Strike *request* off."""
        self.in_flight.pop(request.id, None)
        if request.id in self.waiting:
            self.leave(request)
        self.paused.pop(request.id, None)
        if request.path is not None:
            request.path.outstanding.pop(request.id, None)
        if request.hedge is not None:
            request.hedge.outstanding.pop(request.id, None)

    def answered(self, request: PendingRequest, path: Path | None) -> None:
        """Strike *request* off: its service has answered it over *path*."""
        self.finish(request)
        if path is not None:
            path.answered += 1

    def give_up(self, request: PendingRequest) -> None:
        """Strike *request* off unanswered: its caller or its deadline says so."""
        for path in (request.path, request.hedge):
            if path is not None:
                path.give_up(request)
        self.finish(request)

    def take_all(self) -> list[PendingRequest]:
        """Strike everybody off."""
        everybody = [*self.in_flight.values(), *self.waiting.values(), *self.paused.values()]
        for requests in (self.in_flight, self.waiting, self.paused, self._by_node, self._messages, self._pinned):
            requests.clear()
        return everybody
