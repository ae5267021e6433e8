"""What the demo has shown: figures, the verdict, and the table."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from examples.demo.traffic import Record
from servicebus.wire.printable import counted

LOG_LINES = 8


@dataclass(frozen=True)
class Moments:
    """When things happened, on the monotonic clock."""

    started: float
    killed: float
    restarted: float
    """When broker A was started again."""
    up: float
    """When it took connections again."""
    returned: float | None
    """When A had the traffic again; ``None`` if it never got it."""
    ended: float


@dataclass(frozen=True)
class Report:
    """Everything counted, after the traffic has ended and the bus has come to rest."""

    record: Record
    moments: Moments
    handled: Counter[int]
    """How often the note of each number was handled."""
    log: dict[str, Any]
    """The log server's own count."""
    log_text: str
    agent_exit_code: int | None = 0
    """``None`` if it runs on."""

    @property
    def lost(self) -> int:
        """Messages that a broker confirmed and no service handled."""
        return sum(number not in self.handled for number in self.record.sent)

    @property
    def repeated(self) -> int:
        return sum(self.handled.values()) - len(self.handled)

    def failures(self) -> list[str]:
        """Why the exit status is not 0; empty if all went well."""
        found = [
            (self.record.errors, "call", "failed"),
            (self.record.wrong, "wrong result", "came"),
            (self.record.unsent, "message", "could not be sent"),
        ]
        lines = [f"{counted(len(items), noun)} {what}, the first: {items[0]}" for items, noun, what in found if items]
        if self.lost:
            lines.append(f"{counted(self.lost, 'confirmed message')} not handled")
        if self.log["lost"]:
            lines.append(f"{counted(self.log['lost'], 'log record')} lost")
        if self.agent_exit_code:
            lines.append(f"the agent ended with {self.agent_exit_code}")
        if self.moments.returned is None:
            lines.append("the traffic did not return to broker A")
        return lines

    def rendered(self) -> RenderableType:
        return Group(self._table(), self._log_panel(), *(Text(line, "bold red") for line in self.failures()))

    def _table(self) -> Table:
        table = Table(title="What happened", title_justify="left", show_header=False)
        table.add_column(style="bold")
        table.add_column(justify="right")
        table.add_column(style="dim")
        for row in self._rows():
            table.add_row(*row)
        return table

    def _rows(self) -> list[tuple[str, str, str]]:
        record, moments = self.record, self.moments
        seconds = moments.ended - moments.started
        after_kill = record.longest_gap_s(moments.killed - 0.5, moments.restarted)
        during_start = record.longest_gap_s(moments.restarted, moments.up)
        after_return = record.longest_gap_s(moments.up, moments.ended)
        back = f"{moments.returned - moments.up:.1f} s" if moments.returned else "never"
        return [
            ("calls answered", str(len(record.calls)), f"{len(record.calls) / seconds:.0f} per second"),
            ("errors", str(len(record.errors)), ""),
            ("wrong results", str(len(record.wrong)), "each sum is checked"),
            ("median", _ms(record.latency_s(0.5)), ""),
            ("99th percentile", _ms(record.latency_s(0.99)), "the kill included"),
            ("longest gap around the kill", _ms(after_kill), "without any answer"),
            ("longest gap while A starts", _ms(during_start), "Erlang wants the processors"),
            ("longest gap around the return", _ms(after_return), "from A being up until the end"),
            ("broker A had the traffic again", back, "after it was up"),
            ("messages sent", str(len(record.sent)), "confirmed by a broker"),
            ("messages handled", str(len(self.handled)), f"{self.repeated} of them twice" if self.repeated else ""),
            ("log records written", str(self.log["written"]), f"from {self.log['processes']} processes"),
            ("log records lost", str(self.log["lost"]), ""),
        ]

    def _log_panel(self) -> Panel:
        lines = self.log_text.splitlines()[-LOG_LINES:]
        return Panel(Text("\n".join(lines), no_wrap=True, overflow="ellipsis"), title="the end of the one log file")


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"
