"""Budgets: what each node can bear of calls that are sent again."""

from __future__ import annotations

from collections.abc import Sequence

from servicebus.client.link import Link
from servicebus.policy.retry_budget import RetryBudget

RESENDS_PER_CALL = 0.1
RESENDS_FLOOR = 20
BUSY_PER_ANSWER = 2.0
"""A service that answers one call has made room for one. Two, so that the traffic grows again after a standstill."""
BUSY_FLOOR = 20


class Budgets:
    """Two budgets per node. Belongs to the engine's thread.

    Calls are counted where they are published, by an attribute of their path; here the counts are looked at once a
    second, so that an ordinary call costs nothing.
    """

    def __init__(self, links: Sequence[Link]):
        self.denied = 0
        """How often a call had to be held back."""
        self._links = links
        self._nodes: dict[str, tuple[RetryBudget, RetryBudget]] = {}

    def may_resend(self, node: str, now: float) -> bool:
        """Whether a call that *node* may have run already may be sent to it once more."""
        return self._said(self._of(node)[0].take(now, self._calls(node)))

    def may_ask_again(self, node: str, now: float) -> bool:
        """Whether a call that *node* was too busy for may ask again."""
        return self._said(self._of(node)[1].take(now, self._answered(node)))

    def observe(self, node: str, now: float) -> None:
        """To be called once a second for each node that is in use."""
        resends, busy = self._of(node)
        resends.observe(now, self._calls(node))
        busy.observe(now, self._answered(node))

    def is_in_use(self, node: str, now: float) -> bool:
        """Whether calls to *node* were sent again lately, so that others may have to wait."""
        return any(budget.is_in_use(now) for budget in self._nodes.get(node, ()))

    def forget(self, node: str) -> None:
        """*node* is not in use, and its paths are forgotten: they are what its calls were counted by."""
        self._nodes.pop(node, None)

    def _of(self, node: str) -> tuple[RetryBudget, RetryBudget]:
        found = self._nodes.get(node)
        if found is None:
            found = RetryBudget(RESENDS_PER_CALL, RESENDS_FLOOR), RetryBudget(BUSY_PER_ANSWER, BUSY_FLOOR)
            self._nodes[node] = found
        return found

    def _said(self, may: bool) -> bool:
        self.denied += not may
        return may

    def _calls(self, node: str) -> int:
        return sum(link.paths[node].calls for link in self._links if node in link.paths)

    def _answered(self, node: str) -> int:
        return sum(link.paths[node].answered for link in self._links if node in link.paths)
