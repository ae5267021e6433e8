"""How ``servicebus dead`` shows dead letters, which any client may have written: all is escaped."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from servicebus.cli.exit_codes import exit_code_of
from servicebus.operations.dead_letter import RequeueStatus
from servicebus.operations.dead_letter_facts import DeadLetterGroups, facts, shown_facts, trace_of
from servicebus.operations.filters import show_age
from servicebus.wire.printable import counted, printable

if TYPE_CHECKING:
    from servicebus.operations.dead_letters import BrokerReport, Found

_LATEST_S = 99_999_999_999
"""In the year 5138, in every time zone."""
_COLUMNS = ("ID", "TIME", "AGE", "SERVICE", "REASON", "TRIED", "BROKER", "NOTE")

Row = Sequence[str]

__all__ = ["Summary", "as_list", "as_result", "as_show", "document_of", "facts", "shown_facts"]


def document_of(node: str, reports: Sequence[BrokerReport]) -> dict[str, Any]:
    """What every command says with ``--json``."""
    return {"node": node, "brokers": [_report_facts(report) for report in reports]}


def _report_facts(report: BrokerReport) -> dict[str, Any]:
    said: dict[str, Any] = {
        "host": report.host,
        "exists": report.exists,
        "total": report.total,
        "matched": report.matched,
        "done": report.done,
        "resealed": report.resealed,
        "left": report.left,
        "stays": dict(report.stays),
        "error": None,
    }
    if report.error is not None:
        said["error"] = {"message": str(report.error), "exit_code": int(exit_code_of(report.error))}
    return said


def as_list(found: Sequence[Found], reports: Sequence[BrokerReport], *, is_cut: bool) -> str:
    """One line per dead letter, and one per broker."""
    now = time.time()
    lines = _aligned([_COLUMNS, *(_row(each, now) for each in found)]) if found else []
    if is_cut:
        lines.append(f"({len(found)} shown, there may be more; --limit 0 shows all)")
    return "\n".join([*lines, *_totals(reports, is_cut=is_cut)])


def _row(found: Found, now: float) -> Row:
    letter = found.dead_letter
    return (
        letter.id,
        _moment(letter.time),
        show_age(letter.age_s(now)),
        printable(letter.service),
        printable(letter.reason),
        str(letter.attempts or "?"),
        found.broker,
        _note(found),
    )


def _note(found: Found) -> str:
    if found.status is RequeueStatus.GOOD:
        return ""
    way_out = " (--reseal)" if found.status is RequeueStatus.STALE else ""
    return f"{found.status}{way_out}: {printable(found.why)}"


def _totals(reports: Sequence[BrokerReport], *, is_cut: bool) -> list[str]:
    lines = []
    for report in reports:
        if report.error is None:
            match = "" if is_cut else f", {report.matched} of them match{'es' if report.matched == 1 else ''}"
            lines.append(f"{report.host}: {counted(report.total, 'dead letter')}{match}")
    return lines


def as_result(reports: Sequence[BrokerReport], done: str) -> str:
    """What was done on each broker, and what stays and why."""
    lines = []
    for report in reports:
        sealed = f" ({report.resealed} of them stale)" if report.resealed else ""
        left = f"{report.left} are there now"
        lines.append(f"{report.host}: {report.done} {done}{sealed}; {report.matched} of {report.total} matched, {left}")
        lines += [f"  {count} stay: {printable(why)}" for why, count in report.stays.most_common()]
    return "\n".join(lines)


def as_show(found: Found, *, full: bool) -> str:
    """Everything of one dead letter."""
    letter, now = found.dead_letter, time.time()
    sent = letter.envelope.sent_ms / 1000 if letter.envelope is not None else 0
    lines = [
        f"id        {letter.id}",
        f"service   {printable(letter.service)}",
        f"broker    {found.broker}",
        f"time      {_moment(letter.time)} ({show_age(letter.age_s(now))} ago)",
        f"reason    {printable(letter.reason)}",
        f"detail    {printable(letter.detail)}",
        f"attempts  {letter.attempts or '?'}, the first {_moment(letter.first)}",
        f"sent      {_moment(int(sent))}",
        f"back      {_note(found) or 'a worker has signed it; the node would take it'}",
    ]
    lines += [f"caller    {printable(letter.caller)}"] if letter.caller else []
    lines += [f"context   {key} = {printable(value)}" for key, value in letter.context.items()]
    trace = trace_of(found, full=full)
    if trace:
        lines += ["trace", *_lines(trace)]
    return "\n".join([*lines, "params", *_params_lines(found, full=full)])


def _params_lines(found: Found, *, full: bool) -> list[str]:
    shown = shown_facts(found, full=full)
    if "encrypted_with" in shown:
        said = f"(encrypted with key {shown['encrypted_with']})"
        rest = [] if shown["params"] is None else _lines(json.dumps(shown["params"], ensure_ascii=False, indent=2))
        return [*_lines(said), *rest]
    if "params" in shown:
        text = json.dumps(shown["params"], ensure_ascii=False, indent=2)
        return _lines(text)
    cut = [f"  ... ({len(found.dead_letter.params)} bytes; --full shows all)"] if shown["params_cut"] else []
    return [*_lines(shown["params_text"]), *cut]


def _lines(text: str) -> list[str]:
    """*text* as lines of the screen. Only a line feed ends one: U+2028 and the like are shown as what they are."""
    return [f"  {line}" for line in printable(text, keep_newlines=True).rstrip("\n").split("\n")]


class Summary(DeadLetterGroups):
    """Dead letters counted by service and reason, for people."""

    def text(self, reports: Sequence[BrokerReport]) -> str:
        """A table, and a line per broker."""
        heads = ("COUNT", "OLDEST", "NEWEST", "SERVICE", "REASON", "IF SENT BACK")
        rows = [
            (str(count), _moment(oldest), _moment(newest), printable(service), printable(reason), status)
            for service, reason, status, count, oldest, newest in self.rows()
        ]
        return "\n".join([*(_aligned([heads, *rows]) if rows else []), *_totals(reports, is_cut=False)])


def _moment(time_s: int) -> str:
    try:
        is_known = 0 < time_s < _LATEST_S  # any client may have written it
        return datetime.fromtimestamp(time_s).astimezone().strftime("%Y-%m-%d %H:%M:%S") if is_known else "?"
    except (OverflowError, ValueError, OSError):
        return "?"


def _aligned(rows: Sequence[Row]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
