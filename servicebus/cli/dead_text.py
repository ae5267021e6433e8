"""How ``servicebus dead`` shows dead letters, which any client may have written: all is escaped."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

from servicebus._secret import ENCRYPTED
from servicebus.cli.exit_codes import exit_code_of
from servicebus.errors import EnvelopeError
from servicebus.operations.dead_letter import RequeueStatus
from servicebus.operations.filters import show_age
from servicebus.wire.jsontext import decode_json
from servicebus.wire.printable import counted, printable

if TYPE_CHECKING:
    from servicebus.operations.dead_letters import BrokerReport, Found

_PARAMS_CHARS = 2000
_TRACE_LINES = 12
_LATEST_S = 99_999_999_999
"""In the year 5138, in every time zone."""
_COLUMNS = ("ID", "TIME", "AGE", "SERVICE", "REASON", "TRIED", "BROKER", "NOTE")

Row = Sequence[str]


def facts(found: Found) -> dict[str, Any]:
    """What ``list --json`` says of a dead letter."""
    letter = found.dead_letter
    age_s = letter.age_s(time.time())
    return {
        "id": letter.id,
        "service": letter.service,
        **({"event": letter.event} if letter.event else {}),
        "reason": letter.reason,
        "detail": letter.detail,
        "attempts": letter.attempts,
        "first": letter.first or None,
        "time": letter.time or None,
        "age_s": None if age_s is None else round(age_s),
        "broker": found.broker,
        "failed_on": letter.host,
        "sent": letter.envelope.sent_ms / 1000 if letter.envelope is not None else None,
        "context": dict(letter.context),
        "caller": letter.caller,
        "verified": letter.stamp is not None,
        "standing": found.status.value,
        "why": found.why,
    }


def shown_facts(found: Found, *, full: bool) -> dict[str, Any]:
    """What ``show --json`` says of one: also ``trace``, and ``params``, or ``params_text`` if they are cut."""
    shown = facts(found) | {"trace": _trace(found, full=full)}
    if (encrypted := _encrypted(found.dead_letter.params)) is not None:
        return shown | encrypted
    text = found.dead_letter.params.decode(errors="backslashreplace")
    if not full and len(text) > _PARAMS_CHARS:
        return shown | {"params_text": text[:_PARAMS_CHARS], "params_cut": True}
    try:
        return shown | {"params": decode_json(found.dead_letter.params)}
    except EnvelopeError:
        return shown | {"params_text": text, "params_cut": False}


def _encrypted(params: bytes) -> dict[str, Any] | None:
    """What is shown of params that are encrypted, or hold what is: ``null`` stands for it."""
    if not params.startswith(ENCRYPTED):
        return None
    _, key_id, *more = params.split(b":", 4)
    shown: Any = None
    with suppress(EnvelopeError, IndexError):
        shown = decode_json(more[2])
    return {"params": shown, "encrypted_with": printable(key_id[:8].decode(errors="replace"))}


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
    trace = _trace(found, full=full)
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


def _trace(found: Found, *, full: bool) -> str:
    lines = found.dead_letter.trace.rstrip("\n").split("\n")
    return "\n".join(lines if full or len(lines) <= _TRACE_LINES else ["...", *lines[-_TRACE_LINES:]])


class Summary:
    """Dead letters counted by service and reason."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str, str], tuple[int, int, int]] = {}

    def add(self, found: Found) -> None:
        """Count one."""
        letter = found.dead_letter
        key = (letter.service, letter.reason, found.status.value)
        count, oldest, newest = self._counts.get(key, (0, letter.time, letter.time))
        self._counts[key] = (count + 1, min(oldest, letter.time), max(newest, letter.time))

    def document(self) -> list[dict[str, Any]]:
        """The most numerous first."""
        names = ("service", "reason", "standing", "count", "oldest", "newest")
        return [dict(zip(names, row, strict=True)) for row in self._sorted()]

    def text(self, reports: Sequence[BrokerReport]) -> str:
        """A table, and a line per broker."""
        heads = ("COUNT", "OLDEST", "NEWEST", "SERVICE", "REASON", "IF SENT BACK")
        rows = [
            (str(count), _moment(oldest), _moment(newest), printable(service), printable(reason), status)
            for service, reason, status, count, oldest, newest in self._sorted()
        ]
        return "\n".join([*(_aligned([heads, *rows]) if rows else []), *_totals(reports, is_cut=False)])

    def _sorted(self) -> list[tuple[str, str, str, int, int, int]]:
        rows = [(*key, *counted) for key, counted in self._counts.items()]
        return sorted(rows, key=lambda row: (-row[3], row[:3]))


def _moment(time_s: int) -> str:
    try:
        is_known = 0 < time_s < _LATEST_S  # any client may have written it
        return datetime.fromtimestamp(time_s).astimezone().strftime("%Y-%m-%d %H:%M:%S") if is_known else "?"
    except (OverflowError, ValueError, OSError):
        return "?"


def _aligned(rows: Sequence[Row]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
