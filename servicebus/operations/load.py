"""LoadGenerator: makes requests all the time, for a bench or a drill, and keeps what became of them.

Theory of operation. One thread begins the requests of all targets, and hears of their ends by a queue: the callbacks of
futures, which run in the thread that reads replies, only note the time. With a rate, a request counts from the moment
when it was due, not from when it could be begun: so a stall shows in each request that it has delayed (what is called
coordinated omission otherwise).
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from servicebus.observability.latencies import Latencies
from servicebus.wire.printable import counted, describe

__all__ = ["Begin", "LoadFigures", "LoadGenerator"]

Begin = Callable[[], "Future[Any]"]
"""Begins a request that ends by itself, within a limit. May raise: then it has failed."""

_AFTER_ERROR_S = 0.05
"""What fails at once is not asked again at once."""
_MARGIN_S = 5.0
_UNENDED = TimeoutError("it has not ended, long after its limit")
_TEXTS = 3
_TEXT_CHARS = 300


class LoadFigures:
    """What became of the requests to one target, in one phase."""

    def __init__(self) -> None:
        self.latencies = Latencies()
        """Of those that succeeded."""
        self.errors: Counter[str] = Counter()
        """By the name of the error's class."""
        self.texts: list[str] = []
        """Some of the errors in full, printable."""

    def __repr__(self) -> str:
        return f"<LoadFigures {self.latencies.count} done, {self.failed} failed>"

    @property
    def requests(self) -> int:
        """Those that succeeded, and those that failed."""
        return self.latencies.count + self.failed

    @property
    def failed(self) -> int:
        return self.errors.total()

    def add_error(self, error: BaseException) -> None:
        """Count a request that has failed."""
        self.errors[type(error).__name__] += 1
        text = describe(error)[:_TEXT_CHARS]
        if len(self.texts) < _TEXTS and text not in self.texts:
            self.texts.append(text)

    def merge(self, other: LoadFigures) -> None:
        """Count what *other* has counted, too."""
        self.latencies.merge(other.latencies)
        self.errors.update(other.errors)
        self.texts = list(dict.fromkeys([*self.texts, *other.texts]))[:_TEXTS]

    def report(self) -> dict[str, Any]:
        """Plain values."""
        return {**self.latencies.report(), "failed": self.failed, "errors": dict(self.errors), "texts": self.texts}


class LoadTarget:
    """Where requests go."""

    def __init__(self, name: str, begin: Begin, due_at: float):
        self.name = name
        self.begin = begin
        self.under_way = 0
        self.due_at = due_at


class _Ended(NamedTuple):
    """A request, and what became of it."""

    target: LoadTarget
    figures: LoadFigures
    since: float
    at: float
    error: BaseException | None


class LoadGenerator:
    """From ``start()`` to ``stop()``, once. Its methods are for one thread.

    Args:
        targets: what begins a request, by the name under which its figures are kept.
        in_flight: how many are under way to each target at most.
        per_s: how many are begun a second to each target; None: the next as soon as one has ended.
        limit_s: within which each request ends by itself.
    """

    def __init__(self, targets: Mapping[str, Begin], *, in_flight: int, per_s: float | None = None, limit_s: float):
        self._pause_s = 1 / per_s if per_s else 0.0
        apart_s = self._pause_s / max(1, len(targets))  # so that not all are asked at once
        self._targets = [LoadTarget(name, begin, k * apart_s) for k, (name, begin) in enumerate(targets.items())]
        self._in_flight = in_flight
        self._limit_s = limit_s
        self._ended: SimpleQueue[_Ended | None] = SimpleQueue()
        self._is_stopping = False
        self._phase = ""
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self.figures: dict[str, dict[str, LoadFigures]] = {}
        """By phase and target. A request counts in the phase in which it was begun."""

    def __repr__(self) -> str:
        return f"<LoadGenerator {counted(len(self._targets), 'target')}, {self._phase or 'not started'}>"

    def start(self, phase: str) -> None:
        """Begin; the first requests count in *phase*."""
        self.enter(phase)
        now = time.perf_counter()
        for target in self._targets:
            target.due_at += now
        self._thread.start()

    def enter(self, phase: str) -> None:
        """What is begun from now on counts in *phase*."""
        self.figures.setdefault(phase, {target.name: LoadFigures() for target in self._targets})
        self._phase = phase

    def stop(self) -> None:
        """Begin no more, and wait for the end of what is under way. Fine to do again, or before the start."""
        self._is_stopping = True
        self._ended.put(None)
        if self._thread.ident is not None:
            self._thread.join()

    # -- in the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._is_stopping:
            now = time.perf_counter()
            for target in self._targets:
                while target.due_at <= now and target.under_way < self._in_flight:
                    self._begin(target, now)
            free = [target.due_at for target in self._targets if target.under_way < self._in_flight]
            self._hear(min(free) - time.perf_counter() if free else None)
        give_up_at = time.perf_counter() + self._limit_s + _MARGIN_S
        while self._has_unended() and (left_s := give_up_at - time.perf_counter()) > 0:
            self._hear(left_s)
        for target in self._targets:
            for _ in range(target.under_way):
                self.figures[self._phase][target.name].add_error(_UNENDED)

    def _has_unended(self) -> bool:
        return any(target.under_way for target in self._targets)

    def _begin(self, target: LoadTarget, now: float) -> None:
        since = target.due_at if self._pause_s else now
        target.due_at += self._pause_s
        target.under_way += 1
        figures = self.figures[self._phase][target.name]
        try:
            future = target.begin()
        except Exception as error:  # whatever it is, the request has failed
            self._ended.put(_Ended(target, figures, since, now, error))
        else:
            future.add_done_callback(lambda future: self._note(future, target, figures, since))

    def _note(self, future: Future[Any], target: LoadTarget, figures: LoadFigures, since: float) -> None:
        """In the thread that reads replies."""
        at = time.perf_counter()
        error = CancelledError() if future.cancelled() else future.exception()
        self._ended.put(_Ended(target, figures, since, at, error))

    def _hear(self, timeout_s: float | None) -> None:
        """Wait until something has ended, at most so long, and count all that has."""
        try:
            ended = self._ended.get(timeout=None if timeout_s is None else max(0.0, timeout_s))
            while True:
                if ended is not None:
                    self._count(ended)
                ended = self._ended.get_nowait()
        except Empty:
            pass

    def _count(self, ended: _Ended) -> None:
        ended.target.under_way -= 1
        if ended.error is None:
            ended.figures.latencies.add(ended.at - ended.since)
            return
        ended.figures.add_error(ended.error)
        if not self._pause_s:
            ended.target.due_at = time.perf_counter() + _AFTER_ERROR_S
