"""TopApp: the fleet on a terminal: nodes, services, or those of one node; sorted and filtered by keys."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from typing import Any, ClassVar, NamedTuple, Protocol

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import DataTable, Footer, Input, Static

from servicebus.fleet.columns import SERVICE_COLUMNS, Column, node_columns, sorted_by
from servicebus.fleet.texts import headline, matches, problem_lines, uncounted_line
from servicebus.fleet.view import Change, FleetView, NodeView, ServiceSum
from servicebus.wire.printable import printable

__all__ = ["TopApp", "WatchedFleet"]

_LOOK_AGAIN_S = 0.25
_MOST_LINES = 6


class WatchedFleet(Protocol):
    """What it shows: a FleetWatch."""

    @property
    def view(self) -> FleetView: ...
    @property
    def looks(self) -> str: ...
    @property
    def is_stale(self) -> bool: ...


class _Shown(NamedTuple):
    """A table: its columns, how many of the first ones name a row, and its rows as they are sorted."""

    columns: Sequence[Column[Any]]
    keys: int
    rows: Sequence[Any]

    def key_of(self, row: Any) -> str:
        return " ".join(column.text(row) for column in self.columns[: self.keys])


class TopApp(App[None]):
    """Reads *watch* in its own thread, and asks nothing.

    Args:
        changes: what has changed lately, the last one at the end.
    """

    TITLE = "servicebus top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #headline { height: 1; padding: 0 1; }
    #filter { display: none; }
    #filter.open { display: block; }
    #table { height: 1fr; }
    #lines { height: auto; padding: 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "show('nodes')", "Nodes"),
        Binding("s", "show('services')", "Services"),
        Binding("slash", "filter", "Filter"),
        Binding("less_than_sign", "sort(-1)", "Sort"),
        Binding("greater_than_sign", "sort(1)", "Sort"),
        Binding("r", "reverse", "Reverse"),
        Binding("escape", "leave", "Back", priority=True),
        Binding("q", "quit", "Quit"),
    ]

    def __init__(self, watch: WatchedFleet, changes: Collection[Change] = ()):
        super().__init__()
        self._watch, self._changes = watch, changes
        self._kind = "nodes"
        self._node = ""
        """Whose services are shown, as its name is shown; "" for those of all nodes."""
        self._query = ""
        self._sorted: dict[str, tuple[int, bool]] = {"nodes": (0, False), "services": (3, False)}
        """Which column, and whether the other way round."""
        self._drawn = ""

    def compose(self) -> ComposeResult:
        """The parts of the screen, from top to bottom."""
        yield Static(id="headline")
        yield Input(placeholder="part of a name, or a pattern", id="filter")
        yield DataTable(id="table", cursor_type="row", zebra_stripes=True)
        yield Static(id="lines")
        yield Footer()

    def on_mount(self) -> None:
        """Draw, and look often whether there is something new. TERM leaves the terminal as it was, as the key does."""
        with suppress(RuntimeError, ValueError):  # not in the main thread
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: self.exit())
        self._table.focus()
        self._redraw()
        self.set_interval(_LOOK_AGAIN_S, self._look)

    # -- keys ----------------------------------------------------------------------------------------------------------

    def action_show(self, kind: str) -> None:
        """Show all nodes, or the services of all nodes."""
        self._kind, self._node = kind, ""
        self._redraw()

    def action_filter(self) -> None:
        """Ask for the filter."""
        field = self.query_one("#filter", Input)
        field.add_class("open")
        field.focus()

    def action_leave(self) -> None:
        """End the filter, or leave the node."""
        field = self.query_one("#filter", Input)
        if field.has_class("open"):
            field.remove_class("open")
            field.value = ""
            self._table.focus()
        else:
            self.action_show("nodes")

    def action_sort(self, step: int) -> None:
        """By the next column, or the one before."""
        at, _ = self._sorted[self._kind]
        self._sorted[self._kind] = (at + step) % len(self._shown().columns), False
        self._redraw()

    def action_reverse(self) -> None:
        """Sort the other way round."""
        at, is_reversed = self._sorted[self._kind]
        self._sorted[self._kind] = at, not is_reversed
        self._redraw()

    def on_input_changed(self, event: Input.Changed) -> None:
        """The filter holds with each key."""
        self._query = event.value.strip()
        self._redraw()

    def on_input_submitted(self, _event: Input.Submitted) -> None:
        """The keys are the table's again; the filter stays."""
        self._table.focus()

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        """Sort by the column that was clicked; the second time the other way round."""
        at, is_reversed = self._sorted[self._kind]
        self._sorted[self._kind] = event.column_index, event.column_index == at and not is_reversed
        self._redraw()

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Show the services of the node."""
        if self._kind == "nodes":
            self._kind, self._node = "services", str(event.row_key.value)
            self._redraw()

    # -- drawing -------------------------------------------------------------------------------------------------------

    @property
    def _table(self) -> DataTable[Text]:
        return self.query_one("#table", DataTable)

    def _look(self) -> None:
        if self._drawn != f"{self._watch.looks} {self._watch.is_stale}":
            self._redraw()

    def _redraw(self) -> None:
        view, stale = self._watch.view, self._watch.is_stale
        self._drawn = f"{self._watch.looks} {stale}"
        where = f"{self._node}  " if self._node else ""
        old = "  (no answer lately: this may be old)" if stale else ""
        self.query_one("#headline", Static).update(Text(f"{where}{headline(view)}{old}", "bold"))
        self.query_one("#lines", Static).update(Text("\n".join(self._lines(view))))
        self._fill(self._shown())

    def _shown(self) -> _Shown:
        view = self._watch.view
        columns: Sequence[Column[Any]] = node_columns(view) if self._kind == "nodes" else SERVICE_COLUMNS
        rows: Iterable[Any] = view.nodes.values() if self._kind == "nodes" else self._services(view)
        name: Callable[[Any], str] = columns[0].value
        at, is_reversed = self._sorted[self._kind]
        chosen = [row for row in rows if matches(self._query, name(row))]
        return _Shown(
            columns, 1 if self._kind == "nodes" else 2, sorted_by(columns[at], chosen, is_reversed=is_reversed)
        )

    def _services(self, view: FleetView) -> list[ServiceSum]:
        if not self._node:
            return view.sums()
        node = self._shown_node(view)
        return [] if node is None else [ServiceSum(load, [node.name]) for load in node.loads]

    def _shown_node(self, view: FleetView) -> NodeView | None:
        return next((node for name, node in view.nodes.items() if printable(name) == self._node), None)

    def _lines(self, view: FleetView) -> list[str]:
        node = self._shown_node(view)
        lines = [] if node is None else _worker_lines(node)
        lines += problem_lines(view)
        lines += [_changed(each) for each in reversed(tuple(self._changes))]
        return [*filter(None, [uncounted_line(view)]), *lines][:_MOST_LINES]

    def _fill(self, shown: _Shown) -> None:
        """Change what differs, so that the table keeps its place on the screen."""
        table = self._table
        selected = table.coordinate_to_cell_key(table.cursor_coordinate).row_key if table.row_count else None
        at, is_reversed = self._sorted[self._kind]
        labels = [Text(column.title) for column in shown.columns]
        labels[at].append(" ^" if is_reversed == shown.columns[at].is_number else " v")
        if [str(column.label) for column in table.ordered_columns] != list(map(str, labels)):
            table.clear(columns=True)
            for column, label in zip(shown.columns, labels, strict=True):
                table.add_column(label, key=column.title)
        rows = {shown.key_of(row): [_cell(column, row) for column in shown.columns] for row in shown.rows}
        for key in [key for key in table.rows if key.value not in rows]:
            table.remove_row(key)
        for name, cells in rows.items():
            if name not in table.rows:
                table.add_row(*cells, key=name)
                continue
            for column, cell in zip(shown.columns, cells, strict=True):
                before = table.get_cell(name, column.title)
                if (before.plain, before.style) != (cell.plain, cell.style):
                    table.update_cell(name, column.title, cell, update_width=True)
        order = {name: number for number, name in enumerate(rows)}
        titles = [column.title for column in shown.columns[: shown.keys]]
        table.sort(*titles, key=lambda cells: order[" ".join(map(str, cells if shown.keys > 1 else [cells]))])
        if selected is not None and selected in table.rows:
            table.move_cursor(row=table.get_row_index(selected))


def _cell(column: Column[Any], row: Any) -> Text:
    return Text(column.text(row), column.style(row), justify="right" if column.is_number else "left")


def _worker_lines(node: NodeView) -> list[str]:
    return [
        printable(f"{each.broker}: pid {each.pid} on {each.machine}, since {_moment(each.since)}")
        for each in node.workers
    ]


def _changed(change: Change) -> str:
    about = " ".join(filter(None, [change.node, change.broker]))
    return printable(f"{_moment(change.at)} {change.kind}: {about}: {change.text}")


def _moment(unix_s: float) -> str:
    return time.strftime("%m-%d %H:%M:%S", time.localtime(unix_s)) if 0 < unix_s < 99_999_999_999 else "?"
