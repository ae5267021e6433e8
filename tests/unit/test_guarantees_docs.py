"""docs/guarantees.rst says what happens at each point at which tests/process/test_kill_points.py kills a worker."""

from __future__ import annotations

import re
from pathlib import Path

from kill_points import INTERRUPTING, OF_CALLS, OF_MESSAGES, REPEATING, Point

DOCS = Path(__file__).parents[2] / "docs" / "guarantees.rst"
_ROW = re.compile(r"   \* - ``([a-z-]+)``\n     - (.+)\n     - (.+)\n     - (.+)\n")


def rows() -> list[tuple[str, str, str, str]]:
    return _ROW.findall(DOCS.read_text(encoding="utf-8"))


def test_the_table_has_every_point_in_its_order_and_says_the_same_of_it() -> None:
    assert [row[:2] for row in rows()] == [(point.label, point.what) for point in Point]


def test_the_table_says_of_calls_and_messages_what_the_tests_look_for() -> None:
    expected = {point: ("run", "run") if point in OF_CALLS else ("\\-", "second attempt") for point in Point}
    for point in OF_CALLS[OF_CALLS.index(Point.FINISH_WRITTEN) :]:
        expected[point] = ("answered", "done" if point in OF_MESSAGES else "\\-")
    for point in INTERRUPTING:
        expected[point] = ("**interrupted**", "second attempt")
    for point in REPEATING:
        expected[point] = ("\\-", "second attempt; perhaps two dead letters")
    for point in (Point.COPY_NOTED, Point.ORIGINAL_ACKED):
        expected[point] = ("\\-", "second attempt; dead")
    expected[Point.IN_SERVICE_AGAIN] = ("\\-", "third attempt")
    assert {label: said for label, _, *said in rows()} == {point.label: list(said) for point, said in expected.items()}


def test_there_are_more_than_a_dozen_points_for_calls_and_for_messages() -> None:
    assert len(OF_CALLS) >= 12
    assert len(OF_MESSAGES) >= 12
    assert len({point.label for point in Point}) == len(Point) >= 20
