"""I7 to I10: what must hold for the world around the calls. Each check yields sentences and the time of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from tests.chaos.operations import HealthSample, Story

__all__ = ["GREEN_FOR_S", "false_green", "left_children", "left_over", "log_counts", "miscounted_logs"]

GREEN_FOR_S = 10.0
_UNSEEN_S = 5.0
"""Samples are taken every second. What was between two that are so far apart nobody knows: a member that was frozen
while it was asked kept all others from being asked."""

Finding = tuple[str, float | None]


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
        begun_at: float | None = None
        seen_at = 0.0
        told = False
        for sample in sorted(samples, key=lambda sample: sample.t):
            if not _is_false(sample):
                begun_at, told = None, False
            elif begun_at is None or sample.t - seen_at > _UNSEEN_S:
                begun_at, told = sample.t, False
            elif sample.t - begun_at > GREEN_FOR_S and not told:
                told = True
                yield f"{target} was green for over {GREEN_FOR_S:g} s while nobody consumed there", begun_at
            seen_at = sample.t


def _is_false(sample: HealthSample) -> bool:
    return sample.green and sample.consumers == 0
