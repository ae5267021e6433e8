"""What a Sender keeps of each node: a Path over each broker, what the node can bear of calls that are sent again
(Budgets), and when all of it is forgotten (IdleNodes)."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from servicebus.errors import EnvelopeError
from servicebus.policy.liveness import PingClock
from servicebus.policy.paths import Health
from servicebus.policy.retry_budget import RetryBudget

if TYPE_CHECKING:
    from servicebus.client.link import Link
    from servicebus.client.request import PendingRequest
    from servicebus.protocol.interface import SenderProtocol

SPARE_AFTER_S = 60.0
"""A connection to a less preferred broker is closed after being unused for so long."""


class Path:
    """One (broker, node): the calls that are outstanding on it, and what is known of its health.

    Belongs to the engine's thread.
    """

    __slots__ = (
        "answered",
        "asked_at",
        "calls",
        "clock",
        "doubt",
        "given_up_since",
        "health",
        "is_proven",
        "lacks_queue_until",
        "link",
        "link_bytes_at_ping",
        "missed",
        "node",
        "outstanding",
        "probe_at",
        "protocol",
        "shift_ms",
        "used_at",
    )

    def __init__(self, link: Link, node: str, clock: PingClock):
        self.link = link
        self.node = node
        self.clock = clock
        self.protocol: SenderProtocol = link.newest
        """The version that the node speaks, as far as is known."""
        self.health = Health()
        self.outstanding: dict[str, PendingRequest] = {}
        """In the order of publishing, so the first is the oldest."""
        self.given_up_since = 0.0
        """When the first of those was published that no caller waits for any more, since anything was heard."""
        self.used_at = clock.heard_at
        self.probe_at = 0.0
        self.lacks_queue_until = 0.0
        self.link_bytes_at_ping = -1
        self.shift_ms = 0
        """By how much the node's clock is ahead of ours, if it has said so."""
        self.asked_at = 0.0
        """When it was asked last which of its calls the node has answered."""
        self.missed: set[str] = set()
        """Calls that the node says it has answered; no answer has come yet."""
        self.calls = 0
        """Published here, ever."""
        self.answered = 0
        """Of them, answered by their service, ever."""
        self.is_proven = False
        """An answer of the node over it was verified, once: both sides have a secret in common."""
        self.doubt: EnvelopeError | None = None
        """Why answers over this path are not believed, if any came."""

    def __repr__(self) -> str:
        return f"<Path {self.link.host.name}->{self.node} outstanding={len(self.outstanding)} {self.health!r}>"

    def oldest(self) -> float | None:
        """When the oldest request was published that was not answered.

        Those that were given up count: were calls with limits shorter than ``path_ping_after`` forgotten with their
        deadlines, a Sender that makes no others would never ask whether the path is alive.
        """
        outstanding = next((request.published_at for request in self.outstanding.values()), None)
        if self.given_up_since <= self.clock.heard_at:
            return outstanding
        return self.given_up_since if outstanding is None else min(self.given_up_since, outstanding)

    def open_since(self, then: float, limit: int) -> list[str]:
        """Ids of calls that were published before *then* and are not answered: up to *limit*, any of them."""
        ids = []
        for id, request in self.outstanding.items():
            if request.published_at is not None and request.published_at > then:
                break
            ids.append(id)
        return ids if len(ids) <= limit else random.sample(ids, limit)

    def never_came(self, answered: Iterable[str]) -> list[str]:
        """The node says that it has *answered* these; those whose answers are lost.

        What came between its word and ours does not count: it must have been said twice.
        """
        waiting = self.outstanding.keys() & set(answered)
        lost = self.missed & waiting
        self.missed = waiting - lost
        return list(lost)

    def give_up(self, request: PendingRequest) -> None:
        """No caller waits for *request* any more; it was not answered, and that says something about the path."""
        is_first = self.given_up_since <= self.clock.heard_at
        if self.outstanding.pop(request.id, None) is not None and is_first and request.published_at is not None:
            self.given_up_since = request.published_at

    def lacks_queue(self, now: float) -> bool:
        """A message came back a moment ago: the broker has no queue for the node's messages, or refused one (nack)."""
        return now < self.lacks_queue_until

    def revive(self, now: float) -> None:
        """The link is new: nothing that was known of the node behind the old one holds any more."""
        self.protocol = self.link.newest
        self.lacks_queue_until = 0.0
        self.doubt = None
        self.shift_ms = 0
        self.heard(now)

    def heard(self, now: float) -> None:
        self.clock.heard(now)
        self.health.recover(now)


RESENDS_PER_CALL = 0.1
RESENDS_FLOOR = 20
SUSPECTED_PER_CALL = 0.1
SUSPECTED_FLOOR = 100
"""A silent broker holds what a program has in flight. Where none is silent, this bounds the second copies."""
BUSY_PER_ANSWER = 2.0
"""A service that answers one call has made room for one. Two, so that the traffic grows again after a standstill."""
BUSY_FLOOR = 20


class Budgets:
    """Three budgets per node. Belongs to the engine's thread.

    Calls are counted where they are published, by an attribute of their path; here the counts are looked at once a
    second, so that an ordinary call costs nothing.
    """

    def __init__(self, links: Sequence[Link]):
        self.denied = 0
        """How often a call had to be held back."""
        self._links = links
        self._nodes: dict[str, tuple[RetryBudget, RetryBudget, RetryBudget]] = {}

    def may_resend(self, node: str, now: float) -> bool:
        """Whether a call that *node* may have run already may be sent to it once more."""
        return self._said(self._of(node)[0].take(now, self._calls(node)))

    def may_hedge(self, node: str, now: float) -> bool:
        """Whether a call to *node* may travel over a second path as well, since its first one is suspect."""
        return self._of(node)[1].take(now, self._calls(node))

    def may_ask_again(self, node: str, now: float) -> bool:
        """Whether a call that *node* was too busy for may ask again."""
        return self._said(self._of(node)[2].take(now, self._answered(node)))

    def observe(self, node: str, now: float) -> None:
        """To be called once a second for each node that is in use."""
        resends, hedges, busy = self._of(node)
        resends.observe(now, self._calls(node))
        hedges.observe(now, self._calls(node))
        busy.observe(now, self._answered(node))

    def is_in_use(self, node: str, now: float) -> bool:
        """Whether calls to *node* were sent again lately, so that others may have to wait."""
        return any(budget.is_in_use(now) for budget in self._nodes.get(node, ()))

    def forget(self, node: str) -> None:
        """*node* is not in use, and its paths are forgotten: they are what its calls were counted by."""
        self._nodes.pop(node, None)

    def _of(self, node: str) -> tuple[RetryBudget, RetryBudget, RetryBudget]:
        found = self._nodes.get(node)
        if found is None:
            found = self._nodes[node] = (
                RetryBudget(RESENDS_PER_CALL, RESENDS_FLOOR),
                RetryBudget(SUSPECTED_PER_CALL, SUSPECTED_FLOOR),
                RetryBudget(BUSY_PER_ANSWER, BUSY_FLOOR),
            )
        return found

    def _said(self, may: bool) -> bool:
        self.denied += not may
        return may

    def _calls(self, node: str) -> int:
        return sum(link.paths[node].calls for link in self._links if node in link.paths)

    def _answered(self, node: str) -> int:
        return sum(link.paths[node].answered for link in self._links if node in link.paths)


KEPT_S = 600.0
"""A node is forgotten between one and two of these after its last use. What is known of it is old by then: dead paths
are probed for ``SPARE_AFTER_S`` only."""
_LOOK_S = 1.0
_FORGOTTEN_AT_ONCE = 500
"""So many nodes at one tick, the others at the next ones."""


class IdleNodes:
    """Keeps ticks and memory small for a Sender that talks to ever new nodes. Belongs to the engine's thread.

    Args:
        is_awaited: whether a request waits for a path to a node.
    """

    def __init__(self, links: Sequence[Link], budgets: Budgets, is_awaited: Callable[[str], bool]):
        self._links = links
        self._budgets = budgets
        self._is_awaited = is_awaited
        self._looked_at = 0.0
        self._due: OrderedDict[str, float] = OrderedDict()
        """Every node, and when it is seen whether it is still in use; in that order."""

    def __repr__(self) -> str:
        return f"<IdleNodes {len(self._due)} known>"

    def look(self, now: float) -> None:
        """To be called at every tick."""
        if now - self._looked_at >= _LOOK_S:
            self._looked_at = now
            self._look_at_active(now)
        self._forget(now)

    def _look_at_active(self, now: float) -> None:
        # First the budgets: a path that leaves here is not counted again before something is published on it.
        for node in {node for link in self._links for node in link.active}:
            self._budgets.observe(node, now)
            self._due.setdefault(node, now + KEPT_S)
        for link in self._links:
            for path in [path for path in link.active.values() if self._is_quiet(path, now)]:
                del link.active[path.node]

    def _is_quiet(self, path: Path, now: float) -> bool:
        """Whether a tick would find nothing to do for *path*, until it is used again."""
        if path.outstanding or path.clock.pinged_at is not None or path.oldest() is not None or path.health.is_suspect:
            return False
        if path.health.is_healthy and path.protocol is path.link.newest:
            return True
        return now - path.used_at >= SPARE_AFTER_S and not self._is_awaited(path.node)

    def _forget(self, now: float) -> None:
        for _ in range(_FORGOTTEN_AT_ONCE):
            node, due = next(iter(self._due.items()), ("", now + 1))
            if due > now:
                return
            if self._is_in_use(node, now):
                self._due[node] = now + KEPT_S
                self._due.move_to_end(node)
                continue
            del self._due[node]
            self._budgets.forget(node)
            for link in self._links:
                link.paths.pop(node, None)

    def _is_in_use(self, node: str, now: float) -> bool:
        # Over any broker: that the path over another one is dead matters as long as the node is called.
        if self._is_awaited(node) or self._budgets.is_in_use(node, now):
            return True
        paths = [link.paths[node] for link in self._links if node in link.paths]
        return any(node in path.link.active or now - path.used_at < KEPT_S for path in paths)
