"""Dead letters: look at them, send them back to the node's queue, or drop them; on one broker after the other.

A dead letter that goes back is published to the node's queue of messages, an event to that of its subscription, and
acked only after the broker has confirmed that. Whatever is killed in between, it is in one of the two queues, or in
both under one id, which the node runs once. A broker that cannot be reached, or is lost on the way, is reported; the
others go on.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from servicebus.configuration import BrokerHost, Configuration
from servicebus.errors import TransportError
from servicebus.operations.dead_letter import DeadLetter, RequeueCheck, RequeueStatus
from servicebus.operations.filters import Filter
from servicebus.operations.queue_scan import HOLD_S, IN_FLIGHT, QueueScan
from servicebus.operations.sending import Sending
from servicebus.operations.session import Session, on_each_broker
from servicebus.transport.interface import Delivery
from servicebus.wire.address import dead_queue, messages_queue

__all__ = ["BrokerReport", "DeadLetters", "Found"]


@dataclass(slots=True)
class BrokerReport:
    """What was found and done on one broker."""

    host: str
    exists: bool = False
    """Whether there is a queue of dead letters at all."""
    total: int = 0
    looked_at: int = 0
    matched: int = 0
    done: int = 0
    """Sent back, dropped, or shown; with a dry run: would be."""
    resealed: int = 0
    """Of those, the stale ones, which went back because the operator said so."""
    stays: Counter[str] = field(default_factory=Counter)
    """Letters that matched and cannot go back as they are, by the reason."""
    left: int = 0
    """Dead letters that are there afterwards."""
    error: TransportError | None = None

    def restart(self) -> None:
        """The scan will see again what it has not taken."""
        self.looked_at = self.matched = self.done
        self.stays.clear()


@dataclass(frozen=True, slots=True)
class Found:
    """A dead letter that matches, its broker, and what would become of it if it went back."""

    broker: str
    dead_letter: DeadLetter
    status: RequeueStatus
    why: str


OnProgress = Callable[[BrokerReport], None]
_Visit = Callable[[QueueScan, Delivery, DeadLetter], bool]
"""Says whether it took the letter."""


class DeadLetters:
    """The dead letters of one node.

    Args:
        hosts: the brokers to go to, one after the other.
        on_progress: called after every letter.
        stopping: once it is set, no further letter is looked at.
        clock: Unix time.
    """

    def __init__(
        self,
        config: Configuration,
        node: str,
        hosts: Sequence[BrokerHost],
        *,
        on_progress: OnProgress = lambda _report: None,
        stopping: threading.Event | None = None,
        clock: Callable[[], float] = time.time,
    ):
        self._config = config
        self._node = node
        self._hosts = hosts
        self._on_progress = on_progress
        self.stopping = stopping or threading.Event()
        self._clock = clock
        self._check = RequeueCheck(config, node)

    def look(self, wanted: Filter, see: Callable[[Found], bool]) -> list[BrokerReport]:
        """Show every dead letter that matches to *see*, the oldest of each broker first, until it says False."""
        is_enough = False

        def work(session: Session, report: BrokerReport) -> None:
            nonlocal is_enough
            if is_enough:
                return

            def visit(_scan: QueueScan, _delivery: Delivery, letter: DeadLetter) -> bool:
                nonlocal is_enough
                report.done += 1
                is_enough = not see(Found(report.host, letter, *self._check.status(letter, self._clock())))
                return False

            # Looking takes no time worth renewing for, and must show nothing twice.
            self._scan(session, report, wanted, visit, lambda: is_enough, hold_s=float("inf"))

        return self._on_each_broker(work)

    def drop(self, wanted: Filter, *, limit: int | None = None) -> list[BrokerReport]:
        """Drop every dead letter that matches; *limit* of them at most."""
        reports: list[BrokerReport] = []

        def is_enough() -> bool:
            return limit is not None and sum(report.done for report in reports) >= limit

        def work(session: Session, report: BrokerReport) -> None:
            reports.append(report)

            def visit(scan: QueueScan, delivery: Delivery, _letter: DeadLetter) -> bool:
                scan.channel.ack(delivery)
                report.done += 1
                return True

            self._scan(session, report, wanted, visit, is_enough)

        return self._on_each_broker(work)

    def requeue(
        self,
        wanted: Filter,
        *,
        limit: int | None = None,
        per_s: float | None = None,
        reseal: bool = False,
        dry_run: bool = False,
        on_sent: Callable[[str, str], None] = lambda _id, _queue: None,
    ) -> list[BrokerReport]:
        """Send every letter that matches back to the node, with a ticket; its attempts are counted from 1 again.

        Args:
            limit: at most so many.
            per_s: so many a second.
            reseal: also those of which the node cannot know whether they were executed since.
            on_sent: told of each that is on its way: its id, and the queue it goes to.
        """
        reports: list[BrokerReport] = []
        pace = _Pace(per_s, self.stopping)

        def is_enough() -> bool:
            return limit is not None and sum(report.done for report in reports) >= limit

        def work(session: Session, report: BrokerReport) -> None:
            reports.append(report)
            sending = Sending(session, messages_queue(self._node), IN_FLIGHT)  # but for events

            def visit(scan: QueueScan, delivery: Delivery, letter: DeadLetter) -> bool:
                status = self._status_to_go(report, letter, reseal)
                if status is None or not (dry_run or pace.wait()):
                    return False
                report.done += 1
                report.resealed += status is RequeueStatus.STALE
                if dry_run:
                    return False
                found, queue = self._check.with_ticket(letter, self._clock()), self._check.queue_of(letter)
                sending.send(scan.channel, delivery, found.headers, queue)
                on_sent(letter.id, queue)
                return True

            hold_s = float("inf") if dry_run else HOLD_S  # as for look()
            try:
                self._scan(session, report, wanted, visit, is_enough, settle=sending.wait, hold_s=hold_s)
            finally:
                report.done -= sending.unsettled

        return self._on_each_broker(work)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _status_to_go(self, report: BrokerReport, letter: DeadLetter, reseal: bool) -> RequeueStatus | None:
        """The status of *letter* if it goes back; else None, and *report* says why not."""
        status, why = self._check.status(letter, self._clock())
        if status is not RequeueStatus.GOOD and not (reseal and status is RequeueStatus.STALE):
            report.stays[f"{status}: {why}" + _hint(status)] += 1
            return None
        return status

    def _on_each_broker(self, work: Callable[[Session, BrokerReport], None]) -> list[BrokerReport]:
        reports = {host.name: BrokerReport(host.name) for host in self._hosts}
        failed = on_each_broker(
            self._hosts, self._config, lambda session, host: work(session, reports[host.name]), purpose="dead letters"
        )
        for name, error in failed.items():
            reports[name].error = error
        return list(reports.values())

    def _scan(
        self,
        session: Session,
        report: BrokerReport,
        wanted: Filter,
        visit: _Visit,
        is_enough: Callable[[], bool],
        *,
        settle: Callable[[], None] = lambda: None,
        hold_s: float = HOLD_S,
    ) -> None:
        def renew() -> None:
            settle()
            report.restart()

        with QueueScan(session, dead_queue(self._node), before_renewal=renew, hold_s=hold_s) as scan:
            report.exists, report.total, report.left = scan.exists, scan.total, scan.total
            if is_enough() or self.stopping.is_set():  # by what other brokers had
                return
            for delivery in scan:
                letter = self._check.read(delivery)
                report.looked_at += 1
                is_taken = False
                if self._matches(wanted, letter):
                    report.matched += 1
                    is_taken = visit(scan, delivery, letter)
                if not is_taken:
                    scan.keep(delivery)
                self._on_progress(report)
                if is_enough() or self.stopping.is_set():
                    break
            settle()
        report.left = scan.left

    def _matches(self, wanted: Filter, letter: DeadLetter) -> bool:
        now = self._clock()
        if not wanted.matches(letter, now):
            return False
        return not wanted.statuses or self._check.status(letter, now)[0] in wanted.statuses


def _hint(status: RequeueStatus) -> str:
    return "; --reseal sends it back all the same" if status is RequeueStatus.STALE else ""


class _Pace:
    """So many a second at most, evenly; what was late is not made up for."""

    def __init__(self, per_s: float | None, stopping: threading.Event):
        self._gap_s = 0.0 if per_s is None else 1 / per_s
        self._next_at = 0.0
        self._stopping = stopping

    def wait(self) -> bool:
        """False: it is stopping, and the next one does not go any more."""
        if not self._gap_s:
            return True
        now = time.monotonic()
        if self._stopping.wait(max(0.0, self._next_at - now)):
            return False
        self._next_at = max(now, self._next_at) + self._gap_s
        return True
