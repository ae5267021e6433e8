"""Settler: what becomes of deliveries: executed or refused, then answered or stored elsewhere, and acked.

It lives as long as the worker, over all connections to the broker. A *generation* is one pair of them: what an older
one delivered is not acked any more, because its tags are void and the broker delivers it anew.

What one turn of the loop brought, deliveries and outcomes, goes to the journal together at its end. When the journal
cannot be asked or told, it waits, but for calls that were run: these are answered (``holding.py``). When it turns out
to be damaged, no waiting helps: what is finished is answered and acked, nothing more is begun, and the worker ends, so
that the next one can set the file aside.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from functools import partial

from servicebus.errors import JournalUnavailable
from servicebus.protocol.interface import AgentProtocol
from servicebus.runtime.copy_store import CopyStore
from servicebus.runtime.dispatcher import Dispatcher
from servicebus.runtime.holding import Turned
from servicebus.runtime.job import Outcome, Settlement
from servicebus.runtime.journal.interface import Damaged
from servicebus.runtime.journal_outage import JournalOutage
from servicebus.runtime.overflow_buffer import OverflowBuffer
from servicebus.runtime.publisher import Publisher
from servicebus.runtime.reception import Arrival
from servicebus.transport.interface import Delivery
from servicebus.transport.loggers import get_logger
from servicebus.transport.ratelimitedlog import RateLimitedLog
from servicebus.transport.sharedloop import SharedLoop, nothing
from servicebus.wire.envelope import CALL, MESSAGE, Kind

LOG = get_logger(__name__)

_ASK_AGAIN_S = 0.05
_TICK_S = 0.25
_IDLE_TICK_S = 1.0
"""No longer: to the others of the node it is our sign of life."""
_COMES_AGAIN_S = 2.0
"""What the broker gives out again after a reconnect to this worker has come by then."""


class Settler:
    """Belongs to the thread that turns the loop, but for ``post()``, ``hand_over()`` and ``start()``.

    Args:
        window: how many messages the broker hands out unacknowledged.
        on_tick: called once a second, or more often.
        on_damaged: called once, when the journal turns out to be damaged: the worker is to end.
    """

    def __init__(
        self,
        loop: SharedLoop,
        dispatcher: Dispatcher,
        host_name: str,
        window: int,
        on_damaged: Callable[[Damaged], None],
        on_tick: Callable[[], None] = nothing,
    ):
        self.delivered_at = 0.0
        """``time.monotonic()`` of the last call or message that came in."""
        self._loop = loop
        self._dispatcher = dispatcher
        self._refused = RateLimitedLog(LOG, host_name)
        self.outage = JournalOutage()
        self.copies = CopyStore(loop, host_name, dispatcher.counters, dispatcher.stored)
        self._on_damaged = on_damaged
        self._on_tick = on_tick
        self.is_damaged = False
        """The journal can be believed no more, and *on_damaged* was called."""
        self._generation: int | None = None
        self._publisher: Publisher | None = None
        self._posted: deque[Outcome] = deque()
        self._is_posted = False
        self._arrivals: list[Arrival] = []
        self._overflow = OverflowBuffer(window)
        self._brought_messages = False
        """Only messages wait at the buffer."""
        self._outcomes: list[Outcome] = []
        self._flushes = False
        self._held: list[Arrival] = []
        """To be begun later: another worker has the id, or the journal could not be asked."""
        self._is_asking_again = False

    def __repr__(self) -> str:
        return (
            f"<Settler gen={self._generation} outcomes={len(self._posted) + len(self._outcomes)} {self._dispatcher!r}>"
        )

    @property
    def counters(self) -> Counter[str]:
        return self._dispatcher.counters

    @property
    def has_unsettled(self) -> bool:
        """Something is not yet handed to the broker, or not confirmed by it."""
        is_unconfirmed = self._publisher is not None and self._publisher.unconfirmed > 0
        return bool(self._posted or self._outcomes) or is_unconfirmed

    @property
    def is_idle(self) -> bool:
        """Nothing that came in is unfinished."""
        return not (self._dispatcher.unfinished or self._arrivals or self._held or self.has_unsettled)

    def start(self) -> None:
        """Keep the journal's house, from any thread."""
        self._loop.post(self._tick)

    def begin(self, generation: int, publisher: Publisher) -> None:
        """A new pair of connections: claims of *generation* are settled from here on, over *publisher*."""
        self._generation, self._publisher = generation, publisher
        self.copies.begin(generation, publisher)
        self._loop.call_later(_COMES_AGAIN_S, lambda: self._give_up_storing(generation))

    def end(self) -> None:
        """The connections are gone: no claim can be settled until the next ones."""
        self._generation = self._publisher = None
        self.copies.end()
        self._held.clear()  # the broker delivers them anew
        self._overflow.clear()

    def give_up_copies(self) -> None:
        """The worker stops: what waits to be stored comes to the next one, which the journal is to let in."""
        self._dispatcher.give_up_storing(None)

    def _give_up_storing(self, generation: int) -> None:
        if generation == self._generation:
            self._dispatcher.give_up_storing(generation)

    def post(self, outcome: Outcome) -> None:
        """Hand over what a service made of a job, from any thread; one wake-up serves a whole batch."""
        self._posted.append(outcome)
        if not self._is_posted:
            self._is_posted = True
            self._loop.post(self._take_posted)

    def hand_over(self, outcome: Outcome, has_job: Callable[[], bool]) -> None:
        """``post()`` by a service's thread, which turns the loop itself while it has nothing else to do.

        So under load, too, one thread reads a batch, runs it, and answers it: two would fight for the interpreter. A
        loop that is lent, and nobody turns, is taken back soon if the next job takes long.
        """
        self._posted.append(outcome)
        if not self._is_posted:
            self._is_posted = True
            self._loop.submit(self._take_posted)
        if not has_job() and not self._loop.lead(nothing, has_job) and self._is_last(outcome):
            self._loop.follow(nothing, has_job)

    def recover(self, outcome: Outcome) -> None:
        """``post()`` for a thread that was interrupted, and may have handed over an outcome of this job before."""
        self._loop.post(partial(self._take_recovered, outcome))

    def _take_recovered(self, outcome: Outcome) -> None:
        self._take_posted()  # it may have been interrupted between an outcome and the call for it
        if self._dispatcher.is_running(outcome.job) and all(each.job is not outcome.job for each in self._outcomes):
            self._outcomes.append(outcome)

    def _is_last(self, outcome: Outcome) -> bool:
        """Nothing else runs. After a call, messages do not count: they may wait in another inbox for long."""
        is_call = outcome.job.incoming.kind is CALL
        unfinished = self._dispatcher.running_calls if is_call else self._dispatcher.unfinished
        return unfinished <= len(self._posted) + len(self._outcomes)

    # -- in ------------------------------------------------------------------------------------------------------------

    def take(
        self,
        delivery: Delivery,
        generation: int,
        protocol: AgentProtocol,
        lane: Kind,
        on_full: Callable[[], None] | None = None,
    ) -> None:
        """Have a delivery executed or refused; with *on_full*, call that instead of putting it aside."""
        self.delivered_at = time.monotonic()
        received = self._dispatcher.receive(delivery, generation, protocol, lane, on_full)
        if isinstance(received, Settlement):
            self.settle(received)
            return
        self._arrivals.append(received)
        if lane is MESSAGE:
            self._brought_messages = True
        self._flush_later()

    def _take_posted(self) -> None:
        self._is_posted = False
        while self._posted:
            self._outcomes.append(self._posted.popleft())
        self._flush_later()

    def _flush_later(self) -> None:
        if not self._flushes:
            self._flushes = True
            self._loop.flush_later(self)

    def _ask_again(self) -> None:
        self._is_asking_again = False
        self._arrivals, self._held = self._held + self._arrivals, []
        self._brought_messages = True
        if self._arrivals or self._outcomes:
            self._flush_later()

    # -- out -----------------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """The loop's turn is over: finish and begin what it brought."""
        self._flushes = False
        arrivals, self._arrivals = self._arrivals, []
        if self._brought_messages or self._overflow.waiting:
            self._brought_messages = False
            arrivals = self._let_overflow_wait(arrivals)
        outcomes, self._outcomes = self._outcomes, []
        turned = self._turn(outcomes, arrivals)
        for settlement in turned.settlements:
            self.settle(settlement)
        if turned.held:
            self._held += turned.held
        if (self._held or self._outcomes) and not self._is_asking_again:
            self._is_asking_again = True
            self._loop.call_later(_ASK_AGAIN_S, self._ask_again)

    def _turn(self, outcomes: list[Outcome], arrivals: list[Arrival]) -> Turned:
        """Have the dispatcher finish and begin them together; what raises for one of them costs that one alone."""
        try:
            turned = self._dispatcher.turn(outcomes, arrivals)
            if self.outage.reason:
                self.outage.over()
            return turned
        except Damaged as error:
            self._give_up_journal(error)
            return Turned(self._dispatcher.settle(outcomes), [])
        except JournalUnavailable as error:
            # Acked now, a message that is finished would be run again after our death, or never.
            self.outage.failed(error)
            self._refused.warning(f"{error}; what arrives and what is finished waits")
            self._outcomes += outcomes
            return self._dispatcher.hold(outcomes, arrivals, self.outage)
        except Exception as error:
            if len(outcomes) + len(arrivals) == 1:
                # The journal does not know its end: if it comes again, it is not run again.
                settlements = self._dispatcher.settle(outcomes)
                return Turned(settlements + [self._dispatcher.give_up(arrival, error) for arrival in arrivals], [])
        each = [self._turn([outcome], []) for outcome in outcomes] + [self._turn([], [arrival]) for arrival in arrivals]
        return Turned(
            [one for turned in each for one in turned.settlements], [one for turned in each for one in turned.held]
        )

    def _let_overflow_wait(self, arrivals: list[Arrival]) -> list[Arrival]:
        now = time.monotonic()
        try:
            admitted = self._overflow.admit(arrivals, now)
            for arrival in self._overflow.turn_away(now):
                self.settle(self._dispatcher.turn_away(arrival))
        except Exception as error:  # messages come again with the next connection; calls never wait there
            self._loop.failures.report("the overflow buffer", error)
            return [arrival for arrival in arrivals if arrival.incoming.kind is CALL]
        return admitted

    def _give_up_journal(self, error: Damaged) -> None:
        if not self.is_damaged:
            self.is_damaged = True
            self._on_damaged(error)

    def settle(self, settlement: Settlement) -> None:
        """Answer, store and ack, as far as the claims are of these connections; the others come again."""
        publisher, generation, reply = self._publisher, self._generation, settlement.reply
        try:
            if settlement.on_full is not None:
                settlement.on_full()
                return
            if publisher is None:
                return
            is_to_be_stored = settlement.copy is not None
            for claim in settlement.claims:
                if claim.generation != generation:
                    continue
                if is_to_be_stored:
                    self.copies.store(settlement, claim)
                    return
                # Reply first: a crash between the two costs a repeat, not an answer.
                try:
                    if reply is not None:
                        publisher.reply(claim, reply, settlement.job)
                except Exception as error:  # it cannot be answered, and is done with all the same
                    self._loop.failures.report("a reply", error)
                claim.delivery.channel.ack(claim.delivery.tag)
        except Exception as error:  # what is to be stored comes again
            self._loop.failures.report("a settlement", error)

    def _tick(self) -> None:
        self._loop.call_later(_IDLE_TICK_S if self.is_idle else _TICK_S, self._tick)
        self._loop.guarded(self._on_tick)
        if self._overflow.waiting:
            self._flush_later()
        if self.outage.may_be_over:
            self.outage.over()
        try:
            self._dispatcher.tick()
        except Damaged as error:
            self._give_up_journal(error)
        except JournalUnavailable as error:
            self.outage.failed(error)
            self._refused.warning(str(error))
