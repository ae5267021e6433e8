"""Columns: what tables of nodes and of services show, as text, and by what they are sorted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from servicebus.fleet.view import FleetView, NodeView, PathState, ServiceSum
from servicebus.wire.printable import printable

__all__ = ["SERVICE_COLUMNS", "Column", "node_columns", "sorted_by"]

Row = TypeVar("Row")
_UNKNOWN = "-"


@dataclass(frozen=True, slots=True)
class Column(Generic[Row]):
    """One column."""

    title: str
    text: Callable[[Row], str]
    value: Callable[[Row], Any]
    """By which rows are sorted; None stands behind all others."""
    is_number: bool = False
    """It stands to the right, and the largest comes first."""
    is_well: Callable[[Row], bool | None] = lambda _row: None
    """Whether what it shows is as it should be; None where that is no question."""

    def style(self, row: Row) -> str:
        """Of its cell, as rich has it."""
        is_well = self.is_well(row)
        return "" if is_well is None else "green" if is_well else "bold red"


def node_columns(view: FleetView) -> list[Column[NodeView]]:
    """Of the nodes of *view*, with one column for each of its brokers."""
    return [
        Column("node", lambda node: printable(node.name), lambda node: node.name, False, lambda node: node.is_well),
        *(_path_column(broker.name) for broker in view.brokers),
        Column("workers", lambda node: str(len(node.workers)), lambda node: len(node.workers), True),
        Column("version", lambda node: printable(", ".join(node.versions)) or _UNKNOWN, lambda node: node.versions),
        _number("calls/s", lambda node: node.calls_per_s),
        _number("messages/s", lambda node: node.messages_per_s),
        _number("in flight", _in_flight, digits=0),
        _number("outbox", _outbox, digits=0),
    ]


def _number(title: str, value: Callable[[Row], float | None], *, digits: int = 1) -> Column[Row]:
    def text(row: Row) -> str:
        found = value(row)
        return _UNKNOWN if found is None else f"{found:.{digits}f}"

    return Column(title, text, value, True)


SERVICE_COLUMNS: list[Column[ServiceSum]] = [
    Column("service", lambda row: printable(row.load.name), lambda row: row.load.name),
    Column("kind", lambda row: printable(row.load.kind), lambda row: row.load.kind),
    Column("nodes", lambda row: str(len(row.nodes)), lambda row: len(row.nodes), True),
    _number("per s", lambda row: row.load.per_s),
    _number("failed/s", lambda row: row.load.failed_per_s),
    _number("p50 ms", lambda row: row.load.run_ms(0.5)),
    _number("p99 ms", lambda row: row.load.run_ms(0.99)),
    _number("wait p99 ms", lambda row: row.load.wait_ms(0.99)),
    _number("in flight", lambda row: row.load.backlog, digits=0),
    _number("capacity", lambda row: row.load.capacity, digits=0),
]


def sorted_by(column: Column[Row], rows: Iterable[Row], *, is_reversed: bool = False) -> list[Row]:
    """*rows* by *column*: texts from A on, numbers from the largest on. What is not known comes last in any case."""
    known: list[Row] = []
    unknown: list[Row] = []
    for row in rows:
        (unknown if column.value(row) is None else known).append(row)
    known.sort(key=column.value, reverse=column.is_number != is_reversed)
    return known + unknown


def _path_column(broker: str) -> Column[NodeView]:
    def text(node: NodeView) -> str:
        path = node.paths.get(broker)
        return _UNKNOWN if path is None else path.state.value

    def value(node: NodeView) -> str | None:
        path = node.paths.get(broker)
        return None if path is None else path.state.value

    def is_well(node: NodeView) -> bool | None:
        path = node.paths.get(broker)
        return None if path is None else path.state is PathState.ANSWERS

    return Column(printable(broker), text, value, False, is_well)


def _in_flight(node: NodeView) -> float | None:
    return _sum([sum(each.backlog for each in worker.load.services) for worker in node.workers if worker.load])


def _outbox(node: NodeView) -> float | None:
    return _sum([worker.load.outbox for worker in node.workers if worker.load])


def _sum(values: Sequence[float]) -> float | None:
    return sum(values) if values else None
