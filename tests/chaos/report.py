"""What a run came to, for people: tables that are plain text and reStructuredText at once, and the offending histories.

Several systems stand side by side in the same tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from tests.chaos.checker import INVARIANTS, CheckResult, Finding, Offence
from tests.chaos.history import Record
from tests.chaos.tally import OUTCOMES, PERCENTILES, WORDS, Tally

__all__ = ["offences", "tables"]

Row = Sequence[str]


def tables(tallies: Sequence[Tally]) -> str:
    """All tables of these runs, one column (or two) for each."""
    parts = [
        _facts(tallies),
        _titled("Calls and messages", _queue_table(tallies)),
        _titled("Events", _by_kind("events", tallies, [t.events for t in tallies], {})),
        _titled("Streams", _by_kind("streams", tallies, [t.streams for t in tallies], {})),
        _titled("Pipelines", _by_kind("plain messages", tallies, [t.pipelines for t in tallies], {})),
        _titled("Named callers", _by_kind("what they", tallies, [t.callers for t in tallies], {})),
        _titled("Calls by outcome", _by_kind("outcome", tallies, [t.outcomes for t in tallies], OUTCOMES)),
        _titled("Messages by what send() said", _by_kind("send()", tallies, [t.sends for t in tallies], {})),
        _titled("Latency", _latency_table(tallies)),
        _titled("Faults", _by_kind("fault", tallies, [t.faults for t in tallies], {}, total=True)),
        _titled("Invariants", _invariant_table(tallies)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def offences(result: CheckResult) -> str:
    """Every broken invariant with the histories that broke it; empty when nothing is."""
    zero = result.story.started_at
    lines = [f"The rig contradicts itself: {text}" for text in result.story.oddities[:20]]
    for finding in result.broken:
        lines += ["", *_finding_lines(finding, zero)]
    return "\n".join(lines).strip() + "\n" if lines else ""


def _facts(tallies: Sequence[Tally]) -> str:
    return "\n".join(
        f"* {tally.system}: {', '.join([f'{tally.seconds:,.0f} s', *(f'{k} {v}' for k, v in tally.facts.items())])}"
        for tally in tallies
    )


def _queue_table(tallies: Sequence[Tally]) -> str:
    header = ["operations", *(f"{kind}, {tally.system}" for tally in tallies for kind in ("calls", "messages"))]
    rows = [
        [word, *(_number(counts.get(word, 0)) for tally in tallies for counts in (tally.calls, tally.messages))]
        for word in WORDS
    ]
    return _table([header, *rows])


def _by_kind(
    header: str, tallies: Sequence[Tally], counts: Sequence[dict[str, int]], names: dict[str, str], total: bool = False
) -> str:
    seen = {key for count in counts for key in count}
    keys = [key for key in names if key in seen] + sorted(seen - names.keys())
    if not keys:
        return ""
    rows = [[names.get(key, key), *(_number(count.get(key, 0)) for count in counts)] for key in keys]
    if total:
        rows.append(["in all", *(_number(sum(count.values())) for count in counts)])
    return _table([[header, *(tally.system for tally in tallies)], *rows])


def _latency_table(tallies: Sequence[Tally]) -> str:
    header = ["latency", *("max" if rank == 100 else f"p{rank:g}" for rank in PERCENTILES)]
    labels = {"call": "call, until answered", "send": "send, until confirmed", "delivery": "message, until executed"}
    rows = [
        [f"{label}, {tally.system}", *map(_duration, tally.latencies[key])]
        for key, label in labels.items()
        for tally in tallies
        if tally.latencies.get(key)
    ]
    return _table([header, *rows]) if rows else ""


def _invariant_table(tallies: Sequence[Tally]) -> str:
    rows = [
        [f"{name} {rule}", *(_held(*tally.invariants.get(name, (0, 0))) for tally in tallies)]
        for name, rule in INVARIANTS.items()
    ]
    return _table([["invariant", *(tally.system for tally in tallies)], *rows])


def _held(checked: int, broken: int) -> str:
    if broken:
        return f"BROKEN: {broken:,}"
    return f"held ({checked:,} asked)" if checked else "not measured"


def _titled(title: str, table: str) -> str:
    return f"{title}\n{'~' * len(title)}\n\n{table}" if table else ""


def _table(rows: Sequence[Row]) -> str:
    """A simple table of reStructuredText; numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    rule = " ".join("=" * width for width in widths)
    lines = [rule, *(_line(row, widths) for row in rows), rule]
    lines.insert(2, rule)
    return "\n".join(lines)


def _line(row: Row, widths: Sequence[int]) -> str:
    return " ".join(
        [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
    ).rstrip()


def _number(count: int) -> str:
    return f"{count:,}"


def _duration(seconds: float) -> str:
    if seconds < 0.01:
        return f"{seconds * 1000:.1f} ms"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


# -- what broke ------------------------------------------------------------------------------------------------------


def _finding_lines(finding: Finding, zero: float) -> Iterator[str]:
    shown = len(finding.offences)
    of_them = f", the first {shown} of them" if shown < finding.broken else ""
    yield f"{finding.name} ({finding.rule}) is broken: {finding.broken:,}{of_them}"
    for offence in finding.offences:
        yield ""
        yield from _offence_lines(offence, zero)


def _offence_lines(offence: Offence, zero: float) -> Iterator[str]:
    where = f"op {offence.op}: " if offence.op is not None else ""
    when = f" (at {offence.t - zero:.3f} s)" if offence.t is not None else ""
    yield f"  {where}{offence.text}{when}"
    for process, record in offence.history:
        yield f"    {record['t'] - zero:11.6f}  {process:<32} {_record(record, zero)}"
    for fault in offence.faults:
        until = f"{fault.ended_at - zero:.1f}" if fault.ended_at is not None else "the end"
        yield f"    fault {fault.number}: {fault.kind} of {fault.target}, {fault.begun_at - zero:.1f} s to {until}"


def _record(record: Record, zero: float) -> str:
    if "deadline" in record:
        record = {**record, "deadline": f"{record['deadline'] - zero:.6f}"}
    facts: Iterable[str] = (f"{k}={v}" for k, v in record.items() if k not in ("t", "what", "op") and v is not None)
    return " ".join([record["what"], *facts])
