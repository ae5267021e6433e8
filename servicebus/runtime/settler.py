"""Settler: what becomes of deliveries: executed or refused, then answered, buried or put aside, and acked.

It lives as long as the worker, over all connections to the broker. A *generation* is one pair of them: what an older
one delivered is not acked any more, because its tags are void and the broker delivers it anew.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable

from servicebus.runtime.dialect import Dialect
from servicebus.runtime.dispatcher import Dispatcher
from servicebus.runtime.job import Claim, Outcome, Settlement
from servicebus.runtime.publisher import Publisher
from servicebus.transport.interface import Delivery
from servicebus.transport.loop import EventLoop
from servicebus.wire.envelope import Kind


class Settler:
    """Belongs to the I/O thread, but for ``post()``."""

    def __init__(self, loop: EventLoop, dispatcher: Dispatcher):
        self.delivered_at = 0.0
        """``time.monotonic()`` of the last call or message that came in."""
        self._loop = loop
        self._dispatcher = dispatcher
        self._generation: int | None = None
        self._publisher: Publisher | None = None
        self._outcomes: deque[Outcome] = deque()
        self._is_scheduled = False

    def __repr__(self) -> str:
        return f"<Settler gen={self._generation} outcomes={len(self._outcomes)} {self._dispatcher!r}>"

    @property
    def counters(self) -> Counter[str]:
        return self._dispatcher.counters

    @property
    def has_unsettled(self) -> bool:
        """Something is not yet handed to the broker, or not confirmed by it."""
        return bool(self._outcomes) or (self._publisher is not None and self._publisher.unconfirmed > 0)

    def begin(self, generation: int, publisher: Publisher) -> None:
        """A new pair of connections: claims of *generation* are settled from here on, over *publisher*."""
        self._generation, self._publisher = generation, publisher

    def end(self) -> None:
        """The connections are gone: no claim can be settled until the next ones."""
        self._generation = self._publisher = None

    def post(self, outcome: Outcome) -> None:
        """Hand over what a service made of a job, from any thread; one wake-up serves a whole batch."""
        self._outcomes.append(outcome)
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.post(self._settle_outcomes)

    def take(
        self,
        delivery: Delivery,
        generation: int,
        dialect: Dialect,
        lane: Kind,
        on_full: Callable[[], None] | None = None,
    ) -> None:
        """Have a delivery executed or refused; with *on_full*, call that instead of putting it aside."""
        self.delivered_at = time.monotonic()
        settlement = self._dispatcher.admit(delivery, generation, dialect, lane)
        if settlement is None:
            return
        if settlement.aside and on_full is not None:
            on_full()
        else:
            self.settle(settlement)

    def settle(self, settlement: Settlement) -> None:
        for claim in settlement.claims:
            if claim.generation == self._generation and self._publisher is not None:
                self._settle_claim(claim, settlement, self._publisher)

    def _settle_outcomes(self) -> None:
        self._is_scheduled = False
        while self._outcomes:
            self.settle(self._dispatcher.finished(self._outcomes.popleft()))

    def _settle_claim(self, claim: Claim, settlement: Settlement, publisher: Publisher) -> None:
        if settlement.burial is not None:
            publisher.bury(claim, settlement.burial, self._ack_once_stored(claim, settlement.buries))
        elif settlement.aside:
            publisher.put_aside(claim, self._ack_once_stored(claim))
        else:
            # Reply first: a crash between the two costs a repeat, not an answer.
            if settlement.reply is not None:
                publisher.reply(claim, settlement.reply)
            claim.delivery.channel.ack(claim.delivery.tag)

    def _ack_once_stored(self, claim: Claim, buries: str = "") -> Callable[[bool], None]:
        def stored(is_ack: bool) -> None:
            if is_ack and buries:
                self._dispatcher.buried(buries)
            if claim.generation != self._generation:
                return
            if is_ack:
                claim.delivery.channel.ack(claim.delivery.tag)
            else:
                claim.delivery.channel.reject(claim.delivery.tag, requeue=True)

        return stored
