"""IdleNodes: which paths are looked at, and when a Sender forgets a node that it does not use any more."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from servicebus.client.budgets import Budgets
from servicebus.client.connector import SPARE_AFTER_S
from servicebus.client.link import Link
from servicebus.client.path import Path

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
        if path.outstanding or path.clock.pinged_at is not None or path.oldest() is not None:
            return False
        if path.trust.is_healthy and path.version is path.link.newest:
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
