"""DeadLetterJobs: what the console does with dead letters, in threads of their own, since 100,000 take a while.

Of one node one job runs at a time. What a look has found is kept, up to some letters of each group, so that pages show
it at once; it is as old as the look is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from servicebus.configuration import Configuration
from servicebus.errors import ConnectFailed, TransportError
from servicebus.operations.dead_counts import count_dead_letters
from servicebus.operations.dead_letter_facts import DeadLetterGroup, DeadLetterGroups
from servicebus.operations.dead_letters import BrokerReport, DeadLetters, Found
from servicebus.operations.filters import Filter
from servicebus.operations.growing_requeue import GrowingReport, GrowingRequeue
from servicebus.transport.loggers import get_logger
from servicebus.wire.printable import counted

LOG = get_logger(__name__)

__all__ = ["DeadCounts", "DeadLetterJob", "DeadLetterJobs", "DeadLook", "why"]

_KEPT_PER_GROUP = 20
_KEPT_BYTES = 32 * 1024 * 1024
_JOBS_SHOWN = 10
_SEARCHED = 200
_COUNT_EVERY_S = 5.0


@dataclass(frozen=True)
class DeadLook:
    """What one look at all dead letters of a node has found."""

    at: float
    """Unix time of its end."""
    groups: Sequence[DeadLetterGroup]
    kept: Mapping[str, Found]
    """Some of each group, by their ids."""
    brokers: Sequence[BrokerReport]

    def of_group(self, group: DeadLetterGroup) -> Sequence[Found]:
        """Those that are kept of it."""
        return self._kept_by_group.get(group[:3], ())

    @cached_property
    def _kept_by_group(self) -> dict[tuple[str, str, str], list[Found]]:
        """A page with 100 groups asks for each of them."""
        found: dict[tuple[str, str, str], list[Found]] = {}
        for each in self.kept.values():
            found.setdefault(_group(each), []).append(each)
        return found


@dataclass(eq=False)
class DeadLetterJob:
    """One thing that is done, or was."""

    node: str
    text: str
    user: str
    started_at: float = field(default_factory=time.time)
    ended_at: float | None = None
    progress: str = ""
    outcome: str = ""
    is_well: bool = True
    """False: a part of it was not done."""
    stopping: threading.Event = field(default_factory=threading.Event)
    """Set: it ends as soon as it can."""
    stopped_by: str | None = None

    def stop(self, user: str) -> None:
        """End it; *user* wants that."""
        self.stopped_by = user
        self.stopping.set()


Work = Callable[[DeadLetters, DeadLetterJob], None]


class DeadLetterJobs:
    """For any thread."""

    def __init__(self, config: Configuration):
        self._config = config
        self._lock = threading.Lock()
        self._jobs: dict[str, list[DeadLetterJob]] = {}
        self._looks: dict[str, DeadLook] = {}
        self._searched: dict[tuple[str, str], Found] = {}

    def jobs(self, node: str) -> list[DeadLetterJob]:
        """Those of *node*, the last one first; at most one of them runs."""
        with self._lock:
            return self._jobs.get(node, [])[::-1]

    def found(self, node: str) -> DeadLook | None:
        """What the last look has found; None if there was none yet."""
        return self._looks.get(node)

    def kept(self, node: str, id: str) -> Found | None:
        """One that the last look has kept, or a search has found."""
        look = self._looks.get(node)
        return (look.kept.get(id) if look is not None else None) or self._searched.get((node, id))

    def keep(self, node: str, found: Found) -> None:
        """What a search has found, to be shown."""
        with self._lock:
            self._searched[node, found.dead_letter.id] = found
            while len(self._searched) > _SEARCHED:
                del self._searched[next(iter(self._searched))]

    def stop(self, node: str, user: str) -> DeadLetterJob | None:
        """End the job of *node* that runs; None if there is none. What it has done stays done."""
        with self._lock:
            job = next((each for each in self._jobs.get(node, []) if each.ended_at is None), None)
        if job is not None:
            job.stop(user)
        return job

    def look(self, node: str, user: str) -> bool:
        """Begin to look at all of them. False: something runs."""
        return self._begin(DeadLetterJob(node, "look", user), self._look)

    def requeue(
        self, node: str, user: str, wanted: Filter, text: str, *, per_s: float | None, growing: bool, reseal: bool,
        lost: Collection[str] = (),
    ) -> bool:  # fmt: skip
        """Begin to send back what matches. False: something runs.

        Args:
            lost: brokers that cannot be reached. Growing batches are not begun there, since they would stop for that.
        """

        def work(dead_letters: DeadLetters, job: DeadLetterJob) -> None:
            if not growing:
                self._end(job, dead_letters.requeue(wanted, per_s=per_s, reseal=reseal), "went back")
                return

            def tell(report: GrowingReport) -> None:
                job.progress = f"{report.done} went back in {counted(len(report.batches), 'batch', 'batches')}"

            hosts = [host for host in self._config.hosts if host.name not in lost]
            dead_letters = DeadLetters(self._config, node, hosts, stopping=job.stopping)
            requeue = GrowingRequeue(
                dead_letters, self._config, node, hosts, on_batch=tell, is_stopped=job.stopping.is_set
            )
            report = requeue.run(wanted, per_s=per_s, reseal=reseal)
            self._end(job, list(report.brokers.values()), "went back")
            if lost:
                job.outcome, job.is_well = f"{job.outcome}; not on {', '.join(lost)}, which is lost", False
            if report.stopped and not job.stopping.is_set():
                job.outcome, job.is_well = f"{job.outcome}; stopped: {report.stopped}", False

        return self._begin(DeadLetterJob(node, text, user), work)

    def drop(self, node: str, user: str, wanted: Filter, text: str) -> bool:
        """Begin to drop what matches. False: something runs."""

        def work(dead_letters: DeadLetters, job: DeadLetterJob) -> None:
            self._end(job, dead_letters.drop(wanted), "dropped")

        return self._begin(DeadLetterJob(node, text, user), work)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _begin(self, job: DeadLetterJob, work: Work) -> bool:
        with self._lock:
            jobs = self._jobs.setdefault(job.node, [])
            if jobs and jobs[-1].ended_at is None:
                return False
            jobs.append(job)
            del jobs[:-_JOBS_SHOWN]
        threading.Thread(target=self._run, args=(job, work), name=f"dead-{job.node}", daemon=True).start()
        return True

    def _run(self, job: DeadLetterJob, work: Work) -> None:
        def tell(report: BrokerReport) -> None:
            if report.looked_at % 100 == 0:
                job.progress = f"{report.host}: {report.looked_at} of {report.total} looked at"

        def dead_letters(stopping: threading.Event | None) -> DeadLetters:
            return DeadLetters(self._config, job.node, self._config.hosts, on_progress=tell, stopping=stopping)

        try:
            work(dead_letters(job.stopping), job)
            if job.stopping.is_set():
                by = f" by {job.stopped_by}" if job.stopped_by else ""
                job.outcome, job.is_well = f"{job.outcome}; stopped{by}", False
            if work != self._look:
                well, outcome = job.is_well, job.outcome
                self._look(dead_letters(None), job)  # what is shown is what is left
                job.is_well, job.outcome = well, outcome
        except Exception as error:  # a defect of ours: the page must say that it has ended
            LOG.exception("dead letters of %s: %s has failed", job.node, job.text)
            job.outcome, job.is_well = f"unexpected {type(error).__name__}: {error}", False
        job.ended_at = time.time()

    def _look(self, dead_letters: DeadLetters, job: DeadLetterJob) -> None:
        groups, kept = DeadLetterGroups(), dict[str, Found]()
        counts: dict[tuple[str, str, str], int] = {}
        left = _KEPT_BYTES

        def see(found: Found) -> bool:
            nonlocal left
            groups.add(found)
            group = _group(found)
            counts[group] = counts.get(group, 0) + 1
            size = len(found.dead_letter.body)
            if counts[group] <= _KEPT_PER_GROUP and size <= left:
                kept[found.dead_letter.id] = found
                left -= size
            return True

        reports = dead_letters.look(Filter(), see)
        self._end(job, reports, "found")
        if not dead_letters.stopping.is_set():  # a part of them looks like all of them
            self._looks[job.node] = DeadLook(time.time(), groups.rows(), kept, reports)

    def _end(self, job: DeadLetterJob, reports: Sequence[BrokerReport], done: str) -> None:
        parts = [f"{sum(each.done for each in reports)} {done}"]
        for each in reports:
            parts += [f"{each.host}: {count} stay: {why}" for why, count in each.stays.most_common(3)]
            parts += [f"{each.host}: {why(each.error)}"] if each.error is not None else []
        job.outcome, job.is_well = "; ".join(parts), len(parts) == 1


def _group(found: Found) -> tuple[str, str, str]:
    return found.dead_letter.service, found.dead_letter.reason, found.status.value


def why(error: TransportError) -> str:
    """What *error* says beside the name of the broker, which stands there already."""
    return error.reason if isinstance(error, ConnectFailed) else str(error)


class DeadCounts:
    """How many dead letters each node has. Counted anew, in a thread, when somebody asks and the count is old."""

    def __init__(self, config: Configuration):
        self._config = config
        self._lock = threading.Lock()
        self._is_counting = False
        self._counted_at = float("-inf")
        self.counts: Mapping[str, Mapping[str, int]] = {}
        """By node and broker."""
        self.problems: Mapping[str, str] = {}
        """Why a broker could not be asked."""
        self.latest: dict[str, int] = {}
        """How many each broker had when it was asked last."""
        self.at: float | None = None
        """Unix time of the last count. A broker that is frozen is waited for before there is a new one."""

    @property
    def is_known(self) -> bool:
        return self._counted_at > float("-inf")

    def refresh(self, nodes: Sequence[str]) -> None:
        """Begin to count, unless that was done lately."""
        with self._lock:
            if self._is_counting or time.monotonic() - self._counted_at < _COUNT_EVERY_S:
                return
            self._is_counting = True
        threading.Thread(target=self._count, args=(nodes,), name="dead-counts", daemon=True).start()

    def _count(self, nodes: Sequence[str]) -> None:
        try:
            self.counts, failed = count_dead_letters(self._config, self._config.hosts, nodes)
            self.at = time.time()
            self.problems = {host: why(error) for host, error in failed.items()}
            for host in (each.name for each in self._config.hosts if each.name not in failed):
                self.latest[host] = sum(each.get(host, 0) for each in self.counts.values())
        finally:
            self._counted_at, self._is_counting = time.monotonic(), False
