"""The live display: what is being done, and what the Sender knows of its brokers while it is done."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from examples.demo.traffic import Record
from servicebus.sender import Sender


class Progress:
    """Prints each step as it is taken; on a terminal the figures below move. A context manager."""

    def __init__(self, console: Console):
        self._console = console
        self._started = time.monotonic()
        self._step = ""
        self._sender: Sender | None = None
        self._record: Record | None = None
        self._states: Callable[[], list[str]] = list
        self._spinner = Spinner("dots")
        self._live = Live(console=console, get_renderable=self._picture, refresh_per_second=8, transient=True)

    def __enter__(self) -> Progress:
        # Without a terminal the steps are enough.
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def step(self, what: str) -> None:
        """Begin the next step."""
        self._step = what
        self._console.print(f"[dim]{time.monotonic() - self._started:5.1f} s[/dim]  {what}", soft_wrap=True)

    def watch(self, sender: Sender, record: Record, states: Callable[[], list[str]]) -> None:
        """Show these from now on; *states* gives a word on each broker's process, in the Sender's order."""
        self._sender, self._record, self._states = sender, record, states

    def _picture(self) -> RenderableType:
        self._spinner.update(text=Text(f"{self._step} ({time.monotonic() - self._started:.0f} s)"))
        if self._sender is None or self._record is None:
            return self._spinner
        return Group(self._spinner, self._brokers(self._sender), self._counts(self._record))

    def _brokers(self, sender: Sender) -> Table:
        table = Table("broker", "process", "connection", "calls", "", box=None, padding=(0, 2))
        for letter, process, host in zip("AB", self._states(), sender.status()["hosts"], strict=False):
            chosen = "[bold green]<- the traffic[/]" if host["preferred"] else ""
            color = "green" if process == "running" else "red"
            table.add_row(
                f"{letter} {host['name']}", f"[{color}]{process}[/]", host["state"], str(host["calls"]), chosen
            )
        return table

    def _counts(self, record: Record) -> Text:
        failed = len(record.errors) + len(record.wrong) + len(record.unsent)
        text = f"  {len(record.calls)} calls answered   {len(record.sent)} messages confirmed   {failed} failed"
        return Text(text, "bold red" if failed else "bold")
