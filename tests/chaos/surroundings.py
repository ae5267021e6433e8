"""I7 to I10, I16 and I17: what must hold for the world around the calls. Each yields sentences and the time of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import inf
from typing import TypeVar

from tests.chaos.operations import AgentSample, HealthSample, Story

__all__ = [
    "GREEN_FOR_S",
    "false_dead",
    "false_green",
    "false_ready",
    "left_children",
    "left_over",
    "log_counts",
    "miscounted_logs",
]

GREEN_FOR_S = 10.0
_UNSEEN_S = 5.0
"""Samples are taken every second. What was between two that are so far apart nobody knows: a member that was frozen
while it was asked kept all others from being asked."""

_SEEN_S = 30.0
"""After a worker was stopped, or an agent told to end, it may be seen so long: a new one has to start."""

Finding = tuple[str, float | None]
Sample = TypeVar("Sample", HealthSample, AgentSample, HealthSample | AgentSample)


def left_over(story: Story) -> Iterator[Finding]:
    """I7: at the end queues are empty, and sockets, threads, processes and queues are back to what they were."""
    for name, length in sorted((story.lengths or {}).items()):
        if length:
            yield f"{name} still holds {length}", None
    if story.base is None or story.end is None:
        return
    for name, before in sorted(story.base.items()):
        after = story.end.get(name)
        if after is None:
            yield f"{name} were counted before the run and not after it", None
        elif after > before:
            yield f"{name}: {before} before the run, {after} after it", None
    for name in sorted(story.end.keys() - story.base.keys()):
        yield f"{name} were counted after the run and not before it", None


def log_counts(story: Story) -> Iterator[tuple[str, int, int, int, bool]]:
    """For each source: records sent, written, counted lost, and whether its count is exact (it was not killed)."""
    written = _by_source(story.log_written)
    lost = _by_source(story.log_lost)
    for source, (sent, process) in sorted(story.log_sent.items()):
        yield source, sent, written[source], lost[source], process.has_ended


def miscounted_logs(story: Story) -> Iterator[Finding]:
    """I8: log records written + counted lost = sent.

    What a killed process had in its queue nobody counts, and it may have logged after its last word here: of such a
    process nothing can be asked.
    """
    for source, sent, written, lost, is_exact in log_counts(story):
        if is_exact and written + lost != sent:
            yield f"{source} logged {sent} records; {written} were written and {lost} counted lost", None


def _by_source(counts: dict[tuple[str, str], int]) -> Counter[str]:
    found: Counter[str] = Counter()
    for (source, _), count in counts.items():
        found[source] += count
    return found


def left_children(story: Story) -> Iterator[Finding]:
    """I10: a child that a service makes ends, however it leaves the service's code."""
    for t, how, has_ended in story.children:
        if not has_ended:
            yield f"a child that was to end ({how}) lived on", t


def false_green(story: Story) -> Iterator[Finding]:
    """I9: health is never green for over 10 s without a consumer."""
    for target, samples in sorted(story.health.items()):
        for begun_at in _stretches(samples, lambda sample: sample.green and sample.consumers == 0):
            yield f"{target} was green for over {GREEN_FOR_S:g} s while nobody consumed there", begun_at


def false_ready(story: Story) -> Iterator[Finding]:
    """I16: neither an agent nor a worker of it says for over 10 s that it is ready while nothing is consumed there."""
    said: dict[str, Sequence[HealthSample | AgentSample]] = {**story.health, **story.agents}
    for target, samples in sorted(said.items()):
        for begun_at in _stretches(samples, lambda sample: sample.ready and sample.consumers == 0):
            yield f"{target} was ready for over {GREEN_FOR_S:g} s while nothing was consumed there", begun_at


def false_dead(story: Story) -> Iterator[Finding]:
    """I17: no agent says that it does not live, nor gives no answer for over 10 s, whatever happens to brokers."""
    for node, samples in sorted(story.agents.items()):
        stopped = list(_faults_of(story, node, "worker-freeze"))
        for sample in samples:
            if sample.live is False and not _is_in(sample.t, stopped):
                yield f"{node} said that it does not live", sample.t
        rolled = list(_faults_of(story, node, "agent-rolled"))
        asked = [sample for sample in samples if not _is_in(sample.t, rolled)]
        for begun_at in _stretches(asked, lambda sample: sample.live is None):
            yield f"{node} did not answer for over {GREEN_FOR_S:g} s", begun_at


def _faults_of(story: Story, node: str, kind: str) -> Iterator[tuple[float, float]]:
    """From when to when those of *kind* at *node* can be seen."""
    for fault in story.faults.values():
        if fault.kind.startswith(kind) and fault.target.partition("@")[0] == node:
            yield fault.begun_at, inf if fault.ended_at is None else fault.ended_at + _SEEN_S


def _is_in(t: float, stretches: Iterable[tuple[float, float]]) -> bool:
    return any(begin <= t <= end for begin, end in stretches)


def _stretches(samples: Iterable[Sample], is_false: Callable[[Sample], bool]) -> Iterator[float]:
    """When each stretch of over 10 s began in which *is_false* held."""
    begun_at: float | None = None
    seen_at = 0.0
    told = False
    for sample in sorted(samples, key=lambda sample: sample.t):
        if not is_false(sample):
            begun_at, told = None, False
        elif begun_at is None or sample.t - seen_at > _UNSEEN_S:
            begun_at, told = sample.t, False
        elif sample.t - begun_at > GREEN_FOR_S and not told:
            told = True
            yield begun_at
        seen_at = sample.t
