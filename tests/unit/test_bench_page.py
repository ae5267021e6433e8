"""docs/speed.rst shows what bin/bench has measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.suite.page import PAGE, filled
from benchmarks.suite.settings import RESULTS
from benchmarks.suite.tables import Table


def test_the_page_has_the_tables_that_were_measured_last() -> None:
    text = PAGE.read_text()
    assert text.count(".. begin: ") == text.count("\n.. end\n") > 0
    assert text == filled(text, RESULTS), "bin/bench report brings it up to date"


def test_a_table_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    speed, light = Table("Speed", ["", "a"], [["x", "1"]]), Table("Speed of light", ["", "a"], [["x", "2"]])
    (tmp_path / "calls.rst").write_text(f"{speed.rst()}\n{light.rst()}\nwhen and where\n")
    text = (
        "Speed\n=====\n\n.. begin: calls, Speed\n{}.. end\n\nIn between.\n\n.. begin: calls, Speed of light\n{}.. end\n"
    )
    new = text.format(f"\n{speed.rst()}\n", f"\n{light.rst()}\n")
    assert filled(text.format("", ""), tmp_path) == filled(text.format("\nold\n\n", "older\n"), tmp_path) == new
    assert filled(new, tmp_path) == new


def test_it_says_when_and_on_what_a_part_was_measured(tmp_path: Path) -> None:
    (tmp_path / "calls.rst").write_text(Table("Speed", ["", "a"], [["x", "1"]]).rst() + "\n2026-11-21; 2 cores\n")
    page = ".. begin: calls, about\n\n2026-11-21; 2 cores\n\n.. end\n"
    assert filled(".. begin: calls, about\n.. end\n", tmp_path) == page


def test_a_table_that_was_not_measured_is_missed(tmp_path: Path) -> None:
    (tmp_path / "calls.rst").write_text(Table("Speed", ["", "a"], [["x", "1"]]).rst())
    with pytest.raises(KeyError, match="Sped"):
        filled(".. begin: calls, Sped\n.. end\n", tmp_path)
