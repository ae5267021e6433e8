"""GrowingRequeue: dead letters go back in growing batches, and the next one waits until the last one is through.

A first batch of one shows whether the cause is gone before a hundred thousand show that it is not. After each batch it
looks at the queues of the node, until they hold no more than before and no dead letter has come for a moment. Letters
that went back and are dead again stop it, of this batch or an earlier one, and so do those that still wait when
``wait_s`` is over: for a worker, or for their next attempt by the retry schedule. What fails long after a worker has
taken it is seen with a later batch, or not if there is none.

Only letters go back that were dead before it began, so none goes back twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from servicebus.configuration import BrokerHost, Configuration
from servicebus.operations.dead_letters import BrokerReport, DeadLetters, Found
from servicebus.operations.filters import Filter
from servicebus.operations.session import Session, on_each_broker
from servicebus.policy.retry_schedule import DELAY_TIERS_S
from servicebus.wire.address import dead_queue, delay_queue, messages_queue
from servicebus.wire.printable import counted

__all__ = ["GrowingReport", "GrowingRequeue"]

FIRST = 1
GROWTH = 4
MOST = 5000
_LOOK_S = 0.3
_QUIET_S = 1.0
"""For so long the queues must hold no more than before until a batch counts as through."""
_NAMED = 5
_ASKED = "it was asked to stop"


@dataclass(slots=True)
class GrowingReport:
    """What became of it."""

    brokers: dict[str, BrokerReport] = field(default_factory=dict)
    """Of all batches together, by the names of the brokers."""
    batches: list[int] = field(default_factory=list)
    """How many went back in each."""
    stopped: str = ""
    """Why it did not go on; "" if all that matched went back."""

    @property
    def done(self) -> int:
        """Letters that went back."""
        return sum(self.batches)

    def add(self, reports: Sequence[BrokerReport]) -> None:
        """Those of one more batch."""
        for report in reports:
            before = self.brokers.get(report.host)
            if before is not None:
                done, resealed = before.done + report.done, before.resealed + report.resealed
                matched = before.done + report.matched
                report = replace(report, total=before.total, matched=matched, done=done, resealed=resealed)
            self.brokers[report.host] = report
        self.batches.append(sum(report.done for report in reports))


@dataclass(frozen=True, slots=True)
class _Depths:
    """What waits for the node, and what is dead, on all brokers."""

    waiting: int
    dead: int


class GrowingRequeue:
    """For the dead letters of one node.

    Args:
        dead_letters: of *node* on *hosts*.
        wait_s: how long one batch may take until the queues of the node hold no more than before it.
        on_batch: told of each batch that was sent, before its outcome is waited for.
        is_stopped: asked after each batch, and while its outcome is waited for.
    """

    def __init__(
        self,
        dead_letters: DeadLetters,
        config: Configuration,
        node: str,
        hosts: Sequence[BrokerHost],
        *,
        wait_s: float = 120.0,
        on_batch: Callable[[GrowingReport], None] = lambda _report: None,
        is_stopped: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.time,
    ):
        self._dead_letters = dead_letters
        self._config = config
        self._node = node
        self._hosts = hosts
        self._wait_s = wait_s
        self._on_batch = on_batch
        self._is_stopped = is_stopped
        self._clock = clock
        self._dead = 0
        """Dead letters when it looked last. More by the next batch may be of an earlier one, which a worker had."""
        self._queues = {messages_queue(node), *(delay_queue(node, tier) for tier in DELAY_TIERS_S)}

    def run(
        self, wanted: Filter, *, limit: int | None = None, per_s: float | None = None, reseal: bool = False
    ) -> GrowingReport:
        """Send back what matches; arguments as of ``DeadLetters.requeue()``."""
        report, size, started_at = GrowingReport(), FIRST, self._clock()
        sent: dict[str, None] = {}

        def on_sent(id: str, queue: str) -> None:
            sent[id] = None
            self._queues.add(queue)

        while not report.stopped:
            left = size if limit is None else min(size, limit - report.done)
            if left <= 0:
                break
            before, sent_before = self._depths(), len(sent)
            self._dead = self._dead if report.batches else before.dead
            told = self._dead_letters.requeue(
                self._dead_since(wanted, started_at), limit=left, per_s=per_s, reseal=reseal, on_sent=on_sent
            )
            report.add(told)
            self._on_batch(report)
            if any(each.error is not None for each in told):
                report.stopped = "a broker was lost, or could not be reached"
            elif len(sent) > sent_before:
                report.stopped = self._outcome(sent, len(sent) - sent_before, before, started_at)
            if self._is_stopped() and not report.stopped:
                report.stopped = _ASKED
            if report.batches[-1] < left:
                break
            size = min(size * GROWTH, MOST)
        return report

    def _dead_since(self, wanted: Filter, started_at: float) -> Filter:
        """*wanted*, without what has died since it began."""
        since_s = self._clock() - started_at
        return replace(wanted, youngest_s=max(since_s, wanted.youngest_s or 0.0)) if since_s >= 1 else wanted

    def _depths(self) -> _Depths:
        waiting = dead = 0

        def work(session: Session, _host: BrokerHost) -> None:
            nonlocal waiting, dead
            for name in self._queues:
                facts = session.facts(name)
                waiting += facts.ready if facts is not None else 0
            facts = session.facts(dead_queue(self._node))
            dead += facts.ready if facts is not None else 0

        on_each_broker(self._hosts, self._config, work, purpose="dead letters")
        return _Depths(waiting, dead)

    def _outcome(self, sent: Mapping[str, None], batch: int, before: _Depths, began_at: float) -> str:
        """Wait until the last *batch* of *sent* is through; why it should not go on, or ""."""
        due_at = time.monotonic() + self._wait_s
        dead, through_since = self._dead - batch, None
        while True:
            depths, now = self._depths(), time.monotonic()
            if depths.dead > dead and (again := self._dead_again(sent, batch, began_at)):
                return again
            is_through = depths.waiting <= before.waiting
            if not is_through or through_since is None or depths.dead != dead:
                through_since = now if is_through else None
            elif now - through_since >= _QUIET_S:
                return ""
            dead = self._dead = depths.dead
            if self._is_stopped():
                return _ASKED
            if now >= due_at:
                late = f"{self._wait_s:g} s after the last batch of {batch} the node is not through"
                return f"{late}: {_waits(depths, before)}"
            time.sleep(_LOOK_S)

    def _dead_again(self, sent: Mapping[str, None], batch: int, began_at: float) -> str:
        """Which of those that went back failed again, and why; "" if none of them did."""
        found: list[Found] = []

        def see(letter: Found) -> bool:
            if letter.dead_letter.time >= int(began_at) - 1:
                found.append(letter)
            return True

        self._dead_letters.look(Filter(ids=frozenset(sent)), see)
        if not found:
            return ""
        are_last = {each.dead_letter.id for each in found} <= set(list(sent)[-batch:])
        of = f"the last {batch}" if are_last else f"{len(sent)} that went back"
        reasons = dict.fromkeys(f"{each.dead_letter.reason}: {each.dead_letter.detail}" for each in found)
        names = ", ".join(each.dead_letter.id for each in found[:_NAMED])
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        count = f"{len(found)} of {of} failed again"
        return f"{count} ({'; '.join(list(reasons)[:3])}): {names}{more}"


def _waits(depths: _Depths, before: _Depths) -> str:
    more = depths.waiting - before.waiting
    if more > 0:
        return f"{counted(more, 'message')} more than before wait for a worker, or for their next attempt"
    return "dead letters come and go"
