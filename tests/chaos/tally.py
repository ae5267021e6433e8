"""What a run comes to in numbers: the words of Jepsen's queue checker, outcomes, latencies, faults, invariants.

A Tally is plain values, so that one run can be kept as JSON and be shown beside another.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path

from tests.chaos.checker import CheckResult
from tests.chaos.invariants import is_again_after_kill
from tests.chaos.operations import Operation, Story

__all__ = ["OUTCOMES", "PERCENTILES", "WORDS", "Tally", "load", "percentile", "save", "tally"]

WORDS = (
    "attempted", "acknowledged", "executed", "dead letters", "lost", "lost after an error", "duplicated", "unexpected",
    "recovered", "again after a kill",
)  # fmt: skip

OUTCOMES = {
    "ok": "ok",
    "fault": "fault of the service",
    "CallInterrupted": "CallInterrupted",
    "ServiceBusy": "busy",
    "CallTimeout": "timeout",
    "NoBrokerAvailable": "no broker",
    "NodeUnavailable": "node away",
    "never ended": "never ended",
}
"""Errors by their names; what is not here is shown under its own."""

_STREAM_ENDS = {"ok": "whole", "left": "left by their readers", "fault": "fault of the service"}

PERCENTILES = (50.0, 90.0, 99.0, 99.9, 100.0)


@dataclass
class Tally:
    system: str
    calls: dict[str, int] = field(default_factory=dict)
    messages: dict[str, int] = field(default_factory=dict)
    events: dict[str, int] = field(default_factory=dict)
    """Events, and what became of them at those who subscribe."""
    streams: dict[str, int] = field(default_factory=dict)
    pipelines: dict[str, int] = field(default_factory=dict)
    """Plain messages, and what became of them at the stages that they pass."""
    callers: dict[str, int] = field(default_factory=dict)
    """What named callers did that they may, or may not."""
    outcomes: dict[str, int] = field(default_factory=dict)
    """Calls by how they ended."""
    sends: dict[str, int] = field(default_factory=dict)
    """Messages by what send() said."""
    latencies: dict[str, list[float]] = field(default_factory=dict)
    """Seconds at PERCENTILES: of calls that were answered, until a send was confirmed, until a message was executed."""
    faults: dict[str, int] = field(default_factory=dict)
    invariants: dict[str, tuple[int, int]] = field(default_factory=dict)
    """By name: of how many things it was asked, and how often it was broken."""
    seconds: float = 0.0
    """From the first operation to the end of the last."""
    facts: dict[str, str] = field(default_factory=dict)
    """What else the reader should know: seed, machine, versions."""


def tally(system: str, result: CheckResult, **facts: str) -> Tally:
    story = result.story
    calls = [o for o in story.operations.values() if o.kind == "call"]
    messages = [o for o in story.operations.values() if o.kind == "message"]
    unknown = Counter(
        "unexpected" for o in story.operations.values() if o.invoked_at is None and (o.attempts or o.dead)
    )  # nobody can say whether it was a call
    ended = [max(o.ended_at, o.taken_at) for o in story.operations.values()]
    found = Tally(
        system=system,
        calls=_words(calls, result.findings["I2"].operations["call"]),
        messages=_words(messages, result.findings["I2"].operations["message"]),
        events=_events(result),
        streams=_streams(story),
        pipelines=_pipelines(result),
        callers=_callers(story),
        outcomes=dict(Counter(_outcome(o) for o in calls)),
        sends=dict(Counter(_taken(o) for o in messages)),
        latencies=_latencies(calls, messages),
        faults=dict(sorted(Counter(fault.kind for fault in story.faults.values()).items())),
        invariants={name: (finding.checked, finding.broken) for name, finding in result.findings.items()},
        seconds=round(max(ended) - story.started_at, 1) if ended else 0.0,
        facts=facts,
    )
    found.messages["unexpected"] = unknown["unexpected"] + len(story.forged)
    return found


def _events(result: CheckResult) -> dict[str, int]:
    events = [o for o in result.story.operations.values() if o.kind == "event"]
    deliveries = [each for event in events for each in event.deliveries.values()]
    found = {
        "published by senders": sum(o.told_by is None for o in events),
        "published by services": sum(o.told_by is not None for o in events),
        "to be executed": result.findings["I12"].checked,
        "executed": sum(each.is_done for each in deliveries),
        "dead letters": sum(each.dead > 0 for each in deliveries),
        "again after a kill": sum(map(_was_again_after_kill, deliveries)),
    }
    return found if events else {}


def _streams(story: Story) -> dict[str, int]:
    streams = [o for o in story.operations.values() if o.stream is not None]
    found = Counter(_STREAM_ENDS.get(o.outcome or "", o.error or "never ended") for o in streams)
    found["items"] = sum(last - first + 1 for o in streams if o.stream for first, last in o.stream.runs)
    found["went on over another path"] = sum(o.outcome == "ok" and len(o.attempts) > 1 for o in streams)
    return {"asked for": len(streams), **found} if streams else {}


def _pipelines(result: CheckResult) -> dict[str, int]:
    messages = [o for o in result.story.operations.values() if o.kind == "plain"]
    deliveries = [each for message in messages for each in message.deliveries.values()]
    found = {
        "published": len(messages),
        "confirmed": sum(o.is_acknowledged for o in messages),
        "moved by the bridge": sum(o.moved_by is not None for o in messages),
        "stages executed": sum(each.is_done for each in deliveries),
        "dead letters": sum(each.dead > 0 for each in deliveries),
        "again after a kill": sum(map(_was_again_after_kill, deliveries)),
    }
    return found if messages else {}


def _callers(story: Story) -> dict[str, int]:
    asked = [o for o in story.operations.values() if o.may is not None]
    found = {
        "may": sum(bool(o.may) for o in asked),
        "may, and was answered or confirmed": sum(bool(o.may) and o.is_acknowledged for o in asked),
        "may not": sum(not o.may for o in asked),
        "may not, and was told so": sum(not o.may and (o.error == "PermissionDenied" or _is_denied(o)) for o in asked),
    }
    return found if asked else {}


def _is_denied(operation: Operation) -> bool:
    return any(each.refusal for each in (operation, *operation.deliveries.values()))


def _words(operations: list[Operation], duplicated: int) -> dict[str, int]:
    return {
        "attempted": len(operations),
        "acknowledged": sum(o.is_acknowledged for o in operations),
        "executed": sum(_is_executed(o) for o in operations),
        "dead letters": sum(o.dead > 0 for o in operations),
        "lost": sum(map(_is_lost, operations)),
        "lost after an error": sum(_is_lost(o) and any(a.result == "failed" for a in o.attempts) for o in operations),
        "duplicated": duplicated,
        "unexpected": 0,
        "recovered": sum(_is_executed(o) and not o.is_acknowledged and o.outcome != "fault" for o in operations),
        "again after a kill": sum(_was_again_after_kill(o) for o in operations if o.kind == "message"),
    }  # fmt: skip


def _is_executed(operation: Operation) -> bool:
    """For a call, the service's own error is a result as well."""
    if operation.kind == "call":
        return any(attempt.result in ("done", "failed") for attempt in operation.attempts)
    return operation.is_done


def _is_lost(operation: Operation) -> bool:
    return operation.is_acknowledged and not (_is_executed(operation) or operation.dead or operation.has_expired)


def _was_again_after_kill(operation: Operation) -> bool:
    attempts = sorted(operation.attempts, key=lambda attempt: attempt.started_at)
    return any(earlier.is_done and is_again_after_kill(earlier, later) for earlier, later in combinations(attempts, 2))


def _outcome(operation: Operation) -> str:
    if operation.outcome is None:
        return "never ended"
    return (operation.error or "error") if operation.outcome == "error" else operation.outcome


def _taken(operation: Operation) -> str:
    if operation.taken is None:
        return "never ended"
    return (operation.error or "refused") if operation.taken == "refused" else operation.taken


def _latencies(calls: list[Operation], messages: list[Operation]) -> dict[str, list[float]]:
    return {
        "call": percentiles(o.ended_at - (o.invoked_at or 0.0) for o in calls if o.outcome == "ok"),
        "send": percentiles(o.taken_at - (o.invoked_at or 0.0) for o in messages if o.is_acknowledged),
        "delivery": percentiles(
            done_at - (o.invoked_at or 0.0) for o in messages if (done_at := first_done_at(o)) is not None
        ),
    }


def first_done_at(operation: Operation) -> float | None:
    times = [a.finished_at for a in operation.attempts if a.is_done and a.finished_at is not None]
    return min(times, default=None)


def percentiles(values: Iterable[float]) -> list[float]:
    ordered = sorted(values)
    return [round(percentile(ordered, rank), 6) for rank in PERCENTILES] if ordered else []


def percentile(ordered: list[float], rank: float) -> float:
    """The nearest rank: a value that was really seen."""
    return ordered[max(0, -int(-len(ordered) * rank // 100) - 1)]


def save(found: Tally, path: Path) -> None:
    path.write_text(json.dumps(asdict(found), indent=1) + "\n")


def load(path: Path) -> Tally:
    values = json.loads(path.read_text())
    values["invariants"] = {name: (checked, broken) for name, (checked, broken) in values["invariants"].items()}
    return Tally(**values)
