"""The checker: reads a history, and says of each invariant whether it held; of what broke it, the whole history.

Two passes: the first judges (``operations``, ``invariants``, ``surroundings``), the second, only when something is
broken, collects the records of the offending operations.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tests.chaos.caller_invariants import asked_of_callers, broken_rights
from tests.chaos.event_invariants import broken_events, promised_events
from tests.chaos.history import Record, files, read_ops
from tests.chaos.invariants import SAID_NOT_RUN, Stalls, broken_by
from tests.chaos.operations import Fault, Story
from tests.chaos.pipeline_invariants import broken_pipelines, passes
from tests.chaos.story_reader import tell
from tests.chaos.surroundings import (
    false_dead,
    false_green,
    false_ready,
    left_children,
    left_over,
    miscounted_logs,
)

__all__ = ["INVARIANTS", "CheckResult", "Finding", "Offence", "check", "judge"]

INVARIANTS = {
    "I1": "confirmed = executed or dead",
    "I2": "executions per id <= 1",
    "I3": "none started after its deadline",
    "I4": "every call ended by its deadline + 250 ms",
    "I5": "no reply to a wrong call",
    "I6": "nothing forged executed",
    "I7": "queues empty, resources back to base",
    "I8": "log records written + counted lost = sent",
    "I9": "never green for over 10 s without a consumer",
    "I10": "a child of a service ends, and is no worker",
    "I11": "what was said not to run, or not stored, did not run",
    "I12": "each subscription gets each event once",
    "I13": "a stream has no gap, no double, and ends",
    "I14": "each stage of a pipeline gets each message once",
    "I15": "a caller is refused what it may not, nothing else",
    "I16": "never ready for over 10 s while nothing is consumed",
    "I17": "an agent lives, whatever brokers do",
}
SHOWN_PER_INVARIANT = 20


@dataclass
class Offence:
    """One thing that broke an invariant, with all that the history has on it."""

    text: str
    op: int | None = None
    t: float | None = None
    history: list[tuple[str, Record]] = field(default_factory=list)
    """(process, record), in the order of time."""
    faults: list[Fault] = field(default_factory=list)
    """Those that were active while it happened."""


@dataclass
class Finding:
    """What was found of one invariant."""

    name: str
    checked: int = 0
    """Of how many things it was asked. 0: this run says nothing about it."""
    broken: int = 0
    offences: list[Offence] = field(default_factory=list)
    """The first of them."""
    operations: Counter[str] = field(default_factory=Counter)
    """How many calls and how many messages broke it."""

    @property
    def rule(self) -> str:
        return INVARIANTS[self.name]

    def add(self, offence: Offence) -> None:
        self.broken += 1
        if len(self.offences) < SHOWN_PER_INVARIANT:
            self.offences.append(offence)


@dataclass
class CheckResult:
    story: Story
    findings: dict[str, Finding]

    @property
    def broken(self) -> list[Finding]:
        return [finding for finding in self.findings.values() if finding.broken]

    @property
    def unchecked(self) -> list[str]:
        """Invariants of which this run says nothing: a run that was to prove them has not."""
        return [name for name, finding in self.findings.items() if not finding.checked]

    @property
    def is_clean(self) -> bool:
        """No invariant is broken and the rig has not contradicted itself."""
        return not self.broken and not self.story.oddities


def check(folder: str | os.PathLike[str]) -> CheckResult:
    """Read the history in *folder* and judge it."""
    result = judge(tell(folder))
    _add_histories(result, folder)
    return result


def judge(story: Story) -> CheckResult:
    """The result on *story*, without the histories of what is broken."""
    findings = {name: Finding(name) for name in INVARIANTS}
    _count_checks(story, findings)
    stalls = Stalls(story)
    for operation in story.operations.values():
        if operation.kind in ("event", "plain") or operation.deliveries:
            continue
        broken = list(broken_by(operation, stalls))
        for name, text in broken:
            findings[name].add(Offence(text, operation.op))
        for name in {name for name, _ in broken}:
            findings[name].operations[operation.kind or "unexpected"] += 1
    for operation, name, text in (*broken_events(story), *broken_pipelines(story), *broken_rights(story)):
        findings[name].add(Offence(text, operation.op))
        findings[name].operations[operation.kind or "unexpected"] += 1
    for t, came in story.forged:
        findings["I6"].add(Offence(f"a service was given a forged request: {came}", t=t))
    for name, found in (
        ("I7", left_over(story)),
        ("I8", miscounted_logs(story)),
        ("I9", false_green(story)),
        ("I10", left_children(story)),
        ("I16", false_ready(story)),
        ("I17", false_dead(story)),
    ):
        for text, when in found:
            findings[name].add(Offence(text, t=when))
    return CheckResult(story, findings)


def _count_checks(story: Story, findings: dict[str, Finding]) -> None:
    for operation in story.operations.values():
        if operation.kind == "message":
            findings["I1"].checked += operation.is_acknowledged
        if operation.invoked_at is not None:
            findings["I4"].checked += 1
        if operation.kind == "call":
            findings["I5"].checked += operation.outcome == "ok"
        findings["I13"].checked += operation.stream is not None and operation.outcome is not None
        findings["I2"].checked += bool(operation.attempts)
        findings["I11"].checked += operation.error in SAID_NOT_RUN.get(operation.kind or "", ())
        findings["I6"].checked += bool(operation.attempts)
        if operation.deadline is not None:
            findings["I3"].checked += len(operation.attempts)
    promised = promised_events(story)
    findings["I12"].checked = sum(len(story.operations[op].subscribers) for op in promised)
    findings["I14"].checked = sum(
        len(passes(each)) for each in story.operations.values() if each.kind == "plain" and each.is_acknowledged
    )
    findings["I15"].checked = asked_of_callers(story)
    if story.base is not None and story.end is not None and story.lengths is not None:
        findings["I7"].checked = len(story.end) + len(story.lengths)
    findings["I8"].checked = sum(count for count, process in story.log_sent.values() if process.has_ended)
    findings["I9"].checked = sum(map(len, story.health.values()))
    findings["I10"].checked = len(story.children)
    findings["I17"].checked = sum(map(len, story.agents.values()))
    findings["I16"].checked = findings["I9"].checked + findings["I17"].checked


def _add_histories(result: CheckResult, folder: str | os.PathLike[str]) -> None:
    offences = [offence for finding in result.broken for offence in finding.offences]
    ops = {offence.op for offence in offences if offence.op is not None}
    found = _records_of(ops, folder) if ops else {}
    for offence in offences:
        if offence.op is not None:
            offence.history = found[offence.op]
        offence.faults = list(_active(result.story.faults.values(), offence))


def _records_of(ops: set[int], folder: str | os.PathLike[str]) -> dict[int, list[tuple[str, Record]]]:
    found: dict[int, list[tuple[str, Record]]] = defaultdict(list)
    for path in files(folder):
        for record in read_ops(path, ops):
            found[record["op"]].append((path.stem, record))
    for history in found.values():
        history.sort(key=lambda entry: entry[1]["t"])
    return found


def _active(faults: Iterable[Fault], offence: Offence) -> Iterator[Fault]:
    times = [record["t"] for _, record in offence.history if record["what"] != "dead"]
    if offence.t is not None:
        times.append(offence.t)
    if not times:
        return
    # A fault that was over a moment before may be the reason: what it broke is still healing.
    begin, end = min(times) - 5.0, max(times)
    for fault in faults:
        if fault.begun_at <= end and (fault.ended_at is None or fault.ended_at >= begin):
            yield fault
