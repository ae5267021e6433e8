"""The screen of ``servicebus top``: its tables, and what the keys do, by textual's own pilot."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

pytest.importorskip("textual")

from fleet_looks import BROKERS, drawn, look
from textual.pilot import Pilot
from textual.widgets import DataTable, Input, Static

from servicebus.fleet.load import ServiceLoad, WorkerLoad
from servicebus.fleet.view import Change, FleetView, WorkerView
from servicebus.tui.app import TopApp

Steps = Callable[[TopApp, Pilot[None]], Awaitable[None]]


@dataclass
class DrawnFleet:
    """In the place of a FleetWatch."""

    view: FleetView
    looks: str = "1"
    is_stale: bool = False

    def show(self, view: FleetView) -> None:
        self.view, self.looks = view, f"{self.looks}1"


def load(add: float, note: float) -> WorkerLoad:
    services = ServiceLoad("call", "math.add", per_s=add, runs=(1,)), ServiceLoad("message", "log.note", per_s=note)
    return WorkerLoad(services=services)


def fleet(*, lost: dict[str, str] | None = None, names: tuple[str, ...] = ("NODE-1", "NODE-2", "OTHER")) -> FleetView:
    heard = tuple(broker for broker in BROKERS if broker not in (lost or {}))
    found = look(dict.fromkeys(names, heard), lost)
    rates = {"NODE-1": (5.0, 1.0), "NODE-2": (50.0, 1.0), "OTHER": (0.0, 90.0)}
    workers = {
        name: (WorkerView("m-1", 7, 900.0, {}, {"executed.call": rates[name][0]}, heard[0], load(*rates[name])),)
        for name in names
    }
    return drawn(look(dict.fromkeys(names, BROKERS)), found._replace(workers=workers))


def cells(app: TopApp) -> list[list[str]]:
    table = app.query_one(DataTable)
    return [[str(cell) for cell in table.get_row_at(number)] for number in range(table.row_count)]


def names(app: TopApp) -> list[str]:
    return [row[0] for row in cells(app)]


def text(app: TopApp, part: str) -> str:
    return str(app.query_one(part, Static).render())


def run(steps: Steps, watch: DrawnFleet, changes: list[Change] | None = None) -> None:
    async def main() -> None:
        app = TopApp(watch, changes or [])
        async with app.run_test(size=(140, 30)) as pilot:
            await pilot.pause()
            await steps(app, pilot)

    asyncio.run(main())


def test_nodes_with_their_paths_are_shown_and_a_lost_broker_at_the_next_look() -> None:
    watch = DrawnFleet(fleet())

    async def steps(app: TopApp, pilot: Pilot[None]) -> None:
        assert [row[:3] for row in cells(app)] == [
            [name, "answers", "answers"] for name in ("NODE-1", "NODE-2", "OTHER")
        ]
        assert text(app, "#headline").startswith("2 of 2 brokers reachable, 3 of 3 nodes")
        watch.show(fleet(lost={"mq-a": "refused \x1b"}))
        app._look()
        await pilot.pause()
        assert {row[1] for row in cells(app)} == {"broker lost"}
        assert "mq-a: refused \\x1b" in text(app, "#lines")

    run(steps, watch)


def test_it_looks_by_itself() -> None:
    watch = DrawnFleet(fleet())

    async def steps(app: TopApp, pilot: Pilot[None]) -> None:
        watch.show(fleet(names=("OTHER",)))
        for _ in range(100):
            await pilot.pause(0.05)
            if names(app) == ["OTHER"]:
                return
        raise AssertionError(names(app))

    run(steps, watch)


def test_a_node_shows_its_services_and_its_workers() -> None:
    async def steps(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press("down", "enter")
        await pilot.pause()
        assert [row[:4] for row in cells(app)] == [
            ["math.add", "call", "1", "50.0"],
            ["log.note", "message", "1", "1.0"],
        ]
        assert text(app, "#headline").startswith("NODE-2  ") and "mq-a: pid 7 on m-1" in text(app, "#lines")
        await pilot.press("escape")
        assert names(app) == ["NODE-1", "NODE-2", "OTHER"]

    run(steps, DrawnFleet(fleet()))


def test_services_of_all_nodes_are_summed_and_sorted_by_keys() -> None:
    async def steps(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press("s")
        assert [(row[0], row[3]) for row in cells(app)] == [("log.note", "92.0"), ("math.add", "55.0")]
        await pilot.press("r")
        assert names(app) == ["math.add", "log.note"]
        await pilot.press("less_than_sign", "less_than_sign", "less_than_sign")
        assert names(app) == ["log.note", "math.add"], "by name"
        await pilot.press("greater_than_sign")
        assert names(app) == ["math.add", "log.note"], "by kind"
        await pilot.press("n", "greater_than_sign")
        assert len(names(app)) == 3

    run(steps, DrawnFleet(fleet()))


def test_the_head_of_a_column_sorts_and_the_second_time_the_other_way_round() -> None:
    async def steps(app: TopApp, pilot: Pilot[None]) -> None:
        table = app.query_one(DataTable)
        await pilot.click(DataTable, offset=(2, 0))
        assert names(app) == ["OTHER", "NODE-2", "NODE-1"]
        assert str(table.ordered_columns[0].label) == "node v"
        await pilot.click(DataTable, offset=(2, 0))
        assert names(app) == ["NODE-1", "NODE-2", "OTHER"]

    run(steps, DrawnFleet(fleet()))


def test_a_filter_holds_with_each_key_until_it_is_left() -> None:
    watch = DrawnFleet(fleet())

    async def steps(app: TopApp, pilot: Pilot[None]) -> None:
        await pilot.press("slash", "n", "o", "d")
        assert app.query_one(Input).value == "nod" and names(app) == ["NODE-1", "NODE-2"]
        await pilot.press("enter")
        assert isinstance(app.focused, DataTable) and names(app) == ["NODE-1", "NODE-2"]
        watch.show(fleet())
        app._look()
        assert names(app) == ["NODE-1", "NODE-2"]
        await pilot.press("escape")
        await pilot.pause()
        assert names(app) == ["NODE-1", "NODE-2", "OTHER"]

    run(steps, watch)


def test_the_cursor_stays_on_its_row() -> None:
    watch = DrawnFleet(fleet())

    async def steps(app: TopApp, pilot: Pilot[None]) -> None:
        table = app.query_one(DataTable)
        await pilot.press("down")
        watch.show(fleet(names=("NODE-2", "OTHER")))
        app._look()
        await pilot.pause()
        assert names(app)[table.cursor_row] == "NODE-2"
        await pilot.press("r")
        await pilot.pause()
        assert names(app) == ["OTHER", "NODE-2"] and table.cursor_row == 1

    run(steps, watch)


def test_changes_and_old_answers_are_said() -> None:
    async def steps(app: TopApp, pilot: Pilot[None]) -> None:
        assert "no answer lately" in text(app, "#headline")
        assert "deploy: NODE-1: 1 to [2]" in text(app, "#lines")
        await pilot.press("q")

    run(steps, DrawnFleet(fleet(), is_stale=True), [Change(1000.0, "deploy", "NODE-1", "", "1 to [2]")])


def test_term_ends_it_as_its_key_does() -> None:
    async def steps(app: TopApp, pilot: Pilot[None]) -> None:
        signal.raise_signal(signal.SIGTERM)
        for _ in range(100):
            await pilot.pause(0.05)
            if app.return_code == 0:
                return
        raise AssertionError("it goes on")

    run(steps, DrawnFleet(fleet()))
