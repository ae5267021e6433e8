"""What is sent beside a request: a second copy over another broker, and the word that no one waits any more."""

from __future__ import annotations

import itertools
import os
import time

from servicebus.client.hosts import Connector, HostSelector
from servicebus.client.nodes import Budgets
from servicebus.client.path import Path
from servicebus.client.pending import PendingRequests
from servicebus.client.request import Request
from servicebus.transport.loop import EventLoop
from servicebus.wire.envelope import Kind, make_id


class Canceller:
    """Belongs to the engine's thread."""

    def __init__(self) -> None:
        self._incarnation = os.urandom(8).hex()
        self._count = itertools.count(1)

    def cancel(self, request: Request) -> None:
        """The caller of *request* has given up."""
        if request.kind is Kind.CALL:
            for path in (request.path, request.copy):
                if path is not None:
                    self.cancel_on(path, request)

    def cancel_on(self, path: Path, request: Request) -> None:
        """What *request* asks for is not needed from *path* any more."""
        if not path.link.is_usable:
            return
        wire_id = make_id(self._incarnation, next(self._count))
        said = path.protocol.encode_cancel(path.node, request.id, wire_id)
        if said is not None:
            outgoing, worth_s = said
            path.link.publish_control(outgoing, wire_id, int(worth_s * 1000))


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

    def watch(self, request: Request, after_s: float) -> None:
        """Send a copy of *request* if it is not answered *after_s* from now."""
        self._loop.call_later(after_s, lambda: self._hedge(request))

    def _hedge(self, request: Request) -> None:
        if request.is_done:
            return
        first = request.link if request.id in self._pending.travelling else None
        if first is None:  # on no path at all: the second one comes after the first
            self.watch(request, _LOOK_AGAIN_S)
            return
        now = time.monotonic()
        link = self._selector.choose_beside(request, first, now)
        if link is None:
            self._connector.prepare_another(first, now)
            self.watch(request, _LOOK_AGAIN_S)
        elif self._budgets.may_resend(request.address.node, now):
            link.publish_copy(request, now)
            self.hedged += 1
