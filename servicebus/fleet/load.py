"""ServiceLoad and WorkerLoad: how services are, as the workers of a node say it, and how fast their counts grow.

Workers count from their start. Rates and times come of the difference between two answers: rates of the last two, times
of what has ended within the last minute, as far as that was watched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from types import MappingProxyType
from typing import Any, NamedTuple

from servicebus.observability.histograms import BOUNDS_S, quantile_s

__all__ = ["LoadHistory", "ServiceLoad", "WorkerLoad", "merged", "read_load"]

_HALF_WINDOW_S = 30.0
"""Times are of what has ended for one to two of these."""
_MOST_SERVICES = 1000
_MOST_TEXTS = 20
_LISTED_KINDS = {"event": "message", "plain": "message"}

Counts = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ServiceLoad:
    """One service, at one worker or at several."""

    kind: str
    """``call``, ``message``, ``event``, ``stream``, or ``plain`` for what other programs send."""
    name: str
    backlog: int = 0
    """Accepted and not finished."""
    capacity: int = 0
    """How many are accepted at a time."""
    ended: int | None = None
    """Since the workers began; None if they do not count it: their file has no ``metrics``."""
    failed: int | None = None
    """How many of these."""
    per_s: float | None = None
    """How many end in a second; None if it is not known yet."""
    failed_per_s: float | None = None
    runs: Counts = ()
    """How long the service ran for those of the last minute, in buckets of BOUNDS_S."""
    waits: Counts = ()
    """How long they were in its inbox."""

    @property
    def listed_kind(self) -> str:
        """The kind under which a node lists it."""
        return _LISTED_KINDS.get(self.kind, self.kind)

    def run_ms(self, share: float) -> float | None:
        """How long the service ran at most for *share* of those of the last minute; None if none has ended."""
        return _ms(quantile_s(self.runs, share))

    def wait_ms(self, share: float) -> float | None:
        """How long they were in its inbox."""
        return _ms(quantile_s(self.waits, share))


class WorkerLoad(NamedTuple):
    """What one worker says, when it is asked for its load."""

    brokers: tuple[str, ...] = ()
    """The names of all brokers in the file of its node."""
    services: tuple[ServiceLoad, ...] = ()
    left_out: int = 0
    """How many services it has beside these."""
    problems: tuple[str, ...] = ()
    """Why it cannot serve all of them."""
    outbox: int = 0
    """Events of its services that wait for a broker."""
    journal: Mapping[str, int] = MappingProxyType({})
    """``unfinished`` and ``answers``: ids that are begun, answers that are kept. One journal for all its workers."""


def read_load(said: Any) -> WorkerLoad:
    """What a worker says. Raises AttributeError, KeyError, TypeError or ValueError: it says something else."""
    return WorkerLoad(
        tuple(str(name) for name in said.get("brokers", ())[:_MOST_TEXTS]),
        tuple(_read_service(each) for each in said["services"][:_MOST_SERVICES]),
        int(said.get("left_out", 0)),
        tuple(str(text) for text in said.get("problems", ())[:_MOST_TEXTS]),
        int(said.get("outbox", 0)),
        {name: int(said["journal"][name]) for name in ("unfinished", "answers") if name in said.get("journal", ())},
    )


def _read_service(said: Any) -> ServiceLoad:
    found = ServiceLoad(str(said["kind"]), str(said["name"]), int(said["backlog"]), int(said["capacity"]))
    if "ended" not in said:
        return found
    runs, waits = (tuple(map(int, said[name][: len(BOUNDS_S) + 1])) for name in ("run", "wait"))
    return replace(found, ended=int(said["ended"]), failed=int(said["failed"]), runs=runs, waits=waits)


def merged(loads: Iterable[ServiceLoad]) -> ServiceLoad:
    """One for all of *loads*, of which there is at least one, and which are those of one service."""
    parts = list(loads)
    if len(parts) == 1:
        return parts[0]
    return ServiceLoad(
        parts[0].kind,
        parts[0].name,
        sum(each.backlog for each in parts),
        sum(each.capacity for each in parts),
        _sum_known([each.ended for each in parts]),
        _sum_known([each.failed for each in parts]),
        _sum_known([each.per_s for each in parts]),
        _sum_known([each.failed_per_s for each in parts]),
        tuple(map(sum, zip_longest(*(each.runs for each in parts), fillvalue=0))),
        tuple(map(sum, zip_longest(*(each.waits for each in parts), fillvalue=0))),
    )


class _Sample(NamedTuple):
    """What one service had counted at one time."""

    at: float
    load: ServiceLoad


@dataclass(slots=True)
class _Samples:
    """Of one service at one worker: the last one, and two older ones, the elder of which times are counted from."""

    last: _Sample
    older: _Sample
    eldest: _Sample


class LoadHistory:
    """What one worker has said before."""

    def __init__(self) -> None:
        self._samples: dict[tuple[str, str], _Samples] = {}

    def __repr__(self) -> str:
        return f"<LoadHistory of {len(self._samples)} services>"

    def watched(self, load: WorkerLoad, at: float) -> WorkerLoad:
        """*load*, which came *at* that time, with rates and with times of the last minute in place of all times."""
        return load._replace(services=tuple(self._watched(each, at) for each in load.services))

    def _watched(self, load: ServiceLoad, at: float) -> ServiceLoad:
        if load.ended is None or load.failed is None:
            return load
        sample, key = _Sample(at, load), (load.kind, load.name)
        known = self._samples.get(key)
        if known is None:
            self._samples[key] = _Samples(sample, sample, sample)
            return replace(load, runs=(), waits=())
        before, passed_s = known.last.load, at - known.last.at
        eldest = known.eldest.load
        found = replace(load, runs=_grown(eldest.runs, load.runs), waits=_grown(eldest.waits, load.waits))
        if passed_s > 0 and before.ended is not None and before.failed is not None:
            per_s, failed_per_s = (load.ended - before.ended) / passed_s, (load.failed - before.failed) / passed_s
            found = replace(found, per_s=per_s, failed_per_s=failed_per_s)
        known.last = sample
        if at - known.older.at >= _HALF_WINDOW_S:
            known.eldest, known.older = known.older, sample
        return found


def _grown(before: Counts, now: Counts) -> Counts:
    return tuple(max(0, count - was) for count, was in zip_longest(now, before, fillvalue=0))


def _sum_known(values: Sequence[Any]) -> Any:
    known = [each for each in values if each is not None]
    return sum(known) if known else None


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000
