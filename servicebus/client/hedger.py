"""Hedger: asks a second time, over another broker, when an answer takes long (``hedge_after``).

The copy has the same id, so that the journal joins the two where it is the same machine; the first answer wins.
"""

from __future__ import annotations

import time

from servicebus.client.budgets import Budgets
from servicebus.client.connector import Connector
from servicebus.client.request import Request
from servicebus.client.roster import Roster
from servicebus.client.router import Router
from servicebus.transport.loop import EventLoop

_LOOK_AGAIN_S = 0.05


class Hedger:
    """Belongs to the engine's thread."""

    def __init__(self, loop: EventLoop, roster: Roster, router: Router, connector: Connector, budgets: Budgets):
        self.hedged = 0
        self._loop = loop
        self._roster = roster
        self._router = router
        self._connector = connector
        self._budgets = budgets

    def watch(self, request: Request, after_s: float) -> None:
        """Send a copy of *request* if it is not answered *after_s* from now."""
        self._loop.call_later(after_s, lambda: self._hedge(request))

    def _hedge(self, request: Request) -> None:
        if request.is_done:
            return
        first = request.link if request.id in self._roster.travelling else None
        if first is None:  # on no path at all: the second one comes after the first
            self.watch(request, _LOOK_AGAIN_S)
            return
        now = time.monotonic()
        link = self._router.choose_beside(request, first, now)
        if link is None:
            self._connector.prepare_another(first, now)
            self.watch(request, _LOOK_AGAIN_S)
        elif self._budgets.may_resend(request.address.node, now):
            link.publish_copy(request, now)
            self.hedged += 1
