"""ServiceMeter: counts what becomes of one service's requests, and times their waiting and their running.

It stands around what a service thread is made of, so a worker without metrics has nothing of it: ``noted()`` puts a
TimedStart in the place of what the job calls when it starts, and the outcome finds that there again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from threading import Lock
from typing import Any, ParamSpec, TypeVar

from servicebus.observability.histograms import Histogram, Outcomes
from servicebus.observability.reports import Entry
from servicebus.runtime.job import DONE, Job, JobResult, Outcome
from servicebus.runtime.registration import Service
from servicebus.runtime.service_thread import ServiceThread

__all__ = ["ServiceMeter", "ServiceMeters", "kind_of", "measured", "start_of"]

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")

_OK = "ok"


class TimedStart:
    """Called immediately before the service runs, in its thread."""

    __slots__ = ("begun_at", "is_over", "meter", "put_at", "started")

    def __init__(self, meter: ServiceMeter, started: Callable[[], None]):
        self.meter = meter
        self.started = started
        self.put_at = time.monotonic()
        self.begun_at = 0.0
        self.is_over = False

    def __call__(self) -> None:
        self.begun_at = time.monotonic()
        self.meter.begun()
        self.started()


class ServiceMeter:
    """For the I/O thread, which puts jobs into the inbox, and for the service's threads."""

    def __init__(self, kind: str, service: str):
        self._key = f"{kind} {service}"
        self._outcomes = Outcomes()
        self._waits = Histogram()
        self._runs = Histogram()
        self._running = 0
        self._counting = Lock()  # several threads may serve one service, and `+=` is not one step
        self.changes = 0
        """It grows with whatever is counted."""

    def __repr__(self) -> str:
        return f"<ServiceMeter {self._key} {self._outcomes.counts}>"

    def noted(self, job: Job) -> None:
        """*job* is accepted; called again for one that is put in again."""
        if start_of(job, TimedStart) is None:
            job.started = TimedStart(self, job.started)
            self.changes += 1

    def begun(self) -> None:
        with self._counting:
            self._running += 1

    def ended(self, start: TimedStart, outcome: Outcome) -> None:
        now = time.monotonic()
        name = _name(outcome)
        with self._counting:
            if start.is_over:  # handed over a second time, because its thread was interrupted
                return
            start.is_over = True
            self.changes += 1
            self._outcomes.add(name)
            if start.begun_at:
                self._running -= 1
                self._waits.add(start.begun_at - start.put_at)
                self._runs.add(now - start.begun_at)

    def entry(self, backlog: int, capacity: int) -> Entry:
        """What was counted; *backlog* is how many are accepted and not finished, *capacity* how many there may be."""
        with self._counting:
            running = self._running
            counts = {
                "outcomes": self._outcomes.report(), "wait": self._waits.report(), "run": self._runs.report()
            }  # fmt: skip
        now = {"running": running, "waiting": max(0, backlog - running), "capacity": capacity}
        return Entry("service", self._key, counts, now)

    def summary(self) -> dict[str, Any]:
        """The same in short: how many have ended, how many of them failed, and their times in buckets of BOUNDS_S."""
        with self._counting:
            ended = sum(self._outcomes.counts.values())
            return {
                "ended": ended,
                "failed": ended - self._outcomes.counts.get(_OK, 0),
                "wait": self._waits.used(),
                "run": self._runs.used(),
            }


class ServiceMeters:
    """Of one worker. Former versions of a service count as the present one, a singleton as one wherever it runs."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], ServiceMeter] = {}

    def __repr__(self) -> str:
        return f"<ServiceMeters of {len(self._found)} services>"

    def __len__(self) -> int:
        return len(self._found)

    def watch(self, thread: ServiceThread) -> None:
        """Count what *thread* accepts; before its ``start()``."""
        at = kind_of(thread.service), thread.service.key
        meter = self._found.setdefault(at, ServiceMeter(*at))
        thread.note_accepted(meter.noted)

    def summary(self, kind: str, service: str) -> dict[str, Any]:
        """What was counted of one service in short; nothing of one that has had no thread here yet."""
        meter = self._found.get((kind, service))
        return {} if meter is None else meter.summary()

    def entry(self, number: int, threads: Iterable[ServiceThread]) -> Entry:
        """What was counted of service *number*; *threads* are the worker's."""
        at, meter = list(self._found.items())[number]
        own = [each for each in threads if (kind_of(each.service), each.service.key) == at]
        return meter.entry(sum(each.backlog for each in own), sum(each.capacity for each in own))


def start_of(job: Job, form: type[S]) -> S | None:
    """What of this *form* *job* calls when it starts: each may stand around another."""
    start: Any = job.started
    while start is not None and type(start) is not form:
        start = getattr(start, "started", None)
    return start


def kind_of(service: Service) -> str:
    """``call``, ``message``, ``event``, ``stream``, or ``plain`` for what other programs send."""
    if service.plain is not None:
        return "plain"
    if service.events:
        return "event"
    return "stream" if service.stream_method else service.kind.value


def measured(hand_over: Callable[P, R]) -> Callable[P, R]:
    """*hand_over*, whose first argument is an outcome: it is counted before."""

    def counted(*args: P.args, **kwargs: P.kwargs) -> R:
        outcome = args[0]
        assert isinstance(outcome, Outcome)
        start = start_of(outcome.job, TimedStart)
        if start is not None:
            start.meter.ended(start, outcome)
        return hand_over(*args, **kwargs)

    return counted


def _name(outcome: Outcome) -> str:
    """``ok``, or the kind of the failure: the name of the exception, or why it was not run."""
    if outcome.result is DONE:
        return _OK
    if outcome.fault is not None and outcome.result in (JobResult.FAILED, JobResult.NOT_RUN):
        return outcome.fault.type
    return outcome.result.value
