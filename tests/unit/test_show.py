"""``python -m servicebus`` without arguments: a bus in memory that people can watch."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest

from servicebus.cli.show import LASTS_S, Stage, Total, show
from servicebus.cli.show_picture import ROWS, SCENE, Picture
from servicebus.testing import MemoryBus


@pytest.fixture
def stage(memory_bus: Callable[..., MemoryBus]) -> Stage:
    return Stage(memory_bus({"price.total": Total()}))


def test_line_by_line_it_says_what_happens_and_ends_by_itself() -> None:
    out = io.StringIO()
    assert show(out) == 0
    told = out.getvalue()
    for part in ("mq-1 is killed", "mq-1 is back", "is frozen", "calls that go on over", "Sender -> mq-1 -> NODE-01"):
        assert part in told
    assert " 0 errors; " in told and ", 0 twice." in told
    assert told.isascii() and "\x1b" not in told


def test_every_call_is_answered_and_executed_once(stage: Stage) -> None:
    while not stage.is_over:
        stage.step()
    assert stage.world.now < LASTS_S + 10
    assert stage.begun > 60 and sum(stage.answered.values()) == stage.begun and not stage.errors
    assert stage.moved and set(stage.answered) == {"mq-1", "mq-2"}
    for entry in stage.world.history.only("called"):
        stage.world.assert_executed_once(entry.id)


def test_the_calls_are_drawn_on_the_way_over_their_broker(stage: Stage) -> None:
    picture = Picture(stage.world, is_ascii=False)
    rows: set[int] = set()
    for _ in range(65):
        stage.step()
        lines = picture.text(stage.calls, "counts", [], "").plain.splitlines()[2 : 2 + len(SCENE)]
        rows |= {row for row, line in enumerate(lines) if set(line) & set("●○")}
    assert ROWS[0] in rows and ROWS[1] not in rows, "all of them over mq-1"
    stage.press("1")
    assert "mq-1  down" in picture.text(stage.calls, "", [], "").plain
    for _ in range(20):
        stage.step()
    assert {call.broker for call in stage.calls} == {"mq-2"}
    stage.press("1")
    assert stage.world.brokers[0].state == "running"


def test_where_there_is_no_utf_8_the_picture_is_ascii(stage: Stage) -> None:
    for _ in range(10):
        stage.step()
    assert Picture(stage.world, is_ascii=True).text(stage.calls, "", list(stage.events), "").plain.isascii()
