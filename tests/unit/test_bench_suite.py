"""The parts of the benchmark suite that can be checked without measuring: statistics, tables, goals, choices."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.suite import against, goals, results
from benchmarks.suite.parts import calls, events, failover, footprint, growth, logs, messages, workers
from benchmarks.suite.peers import ALL, EVENTS, FLOOR, OURS, RAW_PIKA, chosen
from benchmarks.suite.readings import failures, field, phase_cell
from benchmarks.suite.rounds import Estimate, Measurement, interleaved
from benchmarks.suite.settings import Settings
from benchmarks.suite.spread import NOT_MEASURED, Spread, cell, number, ratio
from benchmarks.suite.tables import Table

ROOT = Path(__file__).resolve().parents[2]
RATES = {OURS: (10.0, 20.0, 30.0), "slow": (5.0, 10.0, 10.0), "fast": (40.0, 40.0, 40.0)}


def visits(rates: Mapping[str, tuple[float, ...]], phase: str = "seq", **more: Any) -> dict[str, Any]:
    results = [
        {"name": name, "round": number, "phases": {phase: {"rate": rate, "stuck": 0, **more}}}
        for name, values in rates.items()
        for number, rate in enumerate(values, 1)
    ]
    return {"results": results}


def test_a_spread_leaves_out_what_was_not_measured() -> None:
    assert Spread.of([3.0, None, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0, 3)
    assert Spread.of([None]) is None
    assert cell(None) == NOT_MEASURED


def test_one_measurement_has_no_range() -> None:
    assert str(Spread(1234.5, 1234.5, 1234.5, 1)) == "1,234"
    assert str(Spread(12.34, 1.234, 123.4, 3)) == "12.3 (1.23 to 123)"


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.01234, "0.0123"), (0.5, "0.50"), (99.94, "99.9"), (1e6, "1,000,000")]
)
def test_numbers_have_three_digits_that_count(value: float, text: str) -> None:
    assert number(value) == text


def test_a_ratio_is_one_of_medians() -> None:
    assert ratio(Spread(3, 1, 9, 3), Spread(2, 1, 9, 3)) == 1.5
    assert ratio(None, Spread(2, 1, 9, 3)) is None


def test_a_markdown_table_lines_up_and_escapes() -> None:
    lines = Table("Title", ["", "a|b"], [["long name", "1"]]).markdown().splitlines()
    assert lines[0] == "### Title"
    assert lines[2:] == ["|           | a\\|b |", "| --------- | ---- |", "| long name | 1    |"]


def test_a_rst_table_is_a_list_table() -> None:
    lines = Table("Title", ["", "a"], [["x", "1"]], "A note.").rst().splitlines()
    assert lines == [".. list-table:: Title", "   :header-rows: 1", "   :stub-columns: 1", "", "   * -", "     - a",
                     "   * - x", "     - 1", "", "A note."]  # fmt: skip


def test_the_time_left_is_what_was_expected_until_it_is_known() -> None:
    clock = Estimate({"a": 10.0, "b": 60.0}, rounds=2)
    assert clock.left() == "2:20 left"
    clock.took("b", 5.0)
    assert clock.left() == "0:25 left"


def test_each_is_measured_in_each_round_and_an_error_is_kept() -> None:
    def fails() -> dict[str, Any]:
        raise RuntimeError("no")

    turns = [Measurement("a", lambda: {"value": 1}), Measurement("b", fails)]
    found = interleaved("test", turns, rounds=2, wait_limit_s=0.0)
    assert [(each["name"], each["round"]) for each in found] == [("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    assert found[0]["value"] == 1
    assert found[1]["error"] == "no"


def test_ratios_are_to_the_best_of_the_others_with_those_of_each_round() -> None:
    document = visits(RATES)
    best, found = goals.ratios(document, (OURS, field("seq")), [("slow", field("seq")), ("fast", field("seq"))])
    assert best == "fast"
    assert found == Spread(0.5, 0.25, 0.75, 3)


def test_a_goal_is_met_by_the_median_and_says_when_nothing_was_measured() -> None:
    assert goals.at_least("threads", "x", 2.0, Spread(2.0, 1.0, 3.0, 3)).result == "met"
    assert goals.at_least("threads", "x", 2.0, Spread(1.9, 1.0, 3.0, 3)).result == "MISSED"
    assert goals.at_least("threads", "x", 2.0, None).result == NOT_MEASURED


def test_the_table_of_goals_has_every_row() -> None:
    table = goals.table([goals.at_least("threads", "x", 2.0, None)], "never")
    assert [row[0] for row in table.rows] == list(goals.ROWS.values())


def test_each_part_gives_goals_of_a_document_without_results() -> None:
    empty: dict[str, Any] = {"results": [], "figures": []}
    for part in (calls, messages, events, workers, logs, failover, footprint, growth):
        assert {goal.result for goal in part.goals(empty)} <= {NOT_MEASURED}


def test_goals_of_calls_compare_with_the_better_of_the_two_pikas() -> None:
    document = visits({OURS: (210.0,), RAW_PIKA[0]: (100.0,), RAW_PIKA[1]: (200.0,), FLOOR: (1000.0,)})
    found = {goal.what: goal for goal in calls.goals(document) if goal.row == "one caller"}
    assert found["raw pika (pika blocking)"].found == "1.05 x"
    assert found["raw pika (pika blocking)"].result == "met"
    assert found[FLOOR].result == "MISSED"
    assert found["nuropb"].result == NOT_MEASURED


def test_goals_of_events_name_the_best_that_confirms_and_the_best_of_all() -> None:
    found = events.goals(visits({OURS: (30.0,), "mela": (10.0,), "nameko": (5.0,), "nuropb": (20.0,)}, "e2e"))
    assert [(goal.what, goal.found, goal.result) for goal in found] == [
        ("the best confirming framework (mela)", "3.00 x", "met"),
        ("the best framework (nuropb)", "1.50 x", "MISSED"),
    ]


def test_each_node_of_events_has_a_queue_of_its_own() -> None:
    assert {peer.name for peer in EVENTS} == {OURS, "nuropb", "mela", "nameko", "FastStream"}
    assert all(peer.ready.format(1) != peer.ready.format(2) for peer in EVENTS)


def test_two_workers_are_fast_enough_if_the_broker_is_full() -> None:
    def document(cores: float) -> dict[str, Any]:
        rates = {workers.OURS: (50.0,), FLOOR: (100.0,)}
        return visits(rates, "futures", cpu_s={"broker": cores}, seconds=1.0)

    assert [goal.result for goal in workers.goals(document(0.99))] == ["met"]
    assert [goal.result for goal in workers.goals(document(0.5))] == ["MISSED"]


def test_failing_over_later_than_another_is_missed() -> None:
    document = visits({OURS: (1.0,), "other": (1.0,)}, "next_call")
    for result in document["results"]:
        result["phases"]["next_call"]["seconds"] = 0.3 if result["name"] == OURS else 0.2
    document["figures"] = [{"name": "kill", "verdict": "met"}]
    assert [goal.result for goal in failover.goals(document)] == ["met", "MISSED"]


def test_a_cell_tells_what_failed_and_what_got_stuck() -> None:
    document = {"results": [{"name": "x", "failed": {"seq": "why"}, "phases": {}}]}
    assert phase_cell(document, "x", "seq") == "failed"
    assert failures({**document, "left_out": {"y": "no cc"}}) == ["y was left out: no cc", "x, seq, failed: why"]
    assert phase_cell(visits({"x": (100.0,)}, stuck=3), "x", "seq") == "100, 3 stuck"
    assert phase_cell(visits({"x": (100.0,)}), "x", "threads") == NOT_MEASURED


def test_a_whole_name_means_nobody_else() -> None:
    names = [peer.name for peer in chosen(Settings(only=("servicebus", "PIKA")))]
    assert names == [OURS, "pika select", "pika blocking", "aio-pika RPC"]
    assert chosen(Settings()) == list(ALL)


def test_another_setting_is_another_peer() -> None:
    (variant,) = against.variants(["fast_path=false"])
    assert variant.name == "servicebus fast_path=false"
    assert json.loads(variant.environment["PEER_SETTINGS"]) == {"fast_path": False}
    with pytest.raises(click.UsageError):
        against.variants(["fast_path"])


def test_the_fastest_pace_is_found_by_doubling_and_halving() -> None:
    asked = []

    def attempt(rate: float) -> dict[str, float] | None:
        asked.append(rate)
        return {"rate": rate} if rate <= 1300 else None

    assert logs.fastest(attempt, slowest=500.0) == {"rate": 1250.0}
    assert asked == [500.0, 1000.0, 2000.0, 1500.0, 1250.0, 1375.0]


def test_a_part_that_was_never_measured_has_no_document(tmp_path: Path) -> None:
    assert results.load(tmp_path, "calls") is None


def test_a_look_at_one_peer_does_not_take_the_place_of_the_published_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    found = {"part": "calls", "machine": {"date": "today"}, "rounds": 1, "seconds": 1.0, "took_s": 1, "results": []}
    made = results.Report("Calls", [])
    results.keep(found, Settings(results=tmp_path), made, is_whole=False)
    assert results.load(tmp_path, "calls") is None
    results.keep(found, Settings(results=tmp_path), made)
    assert results.load(tmp_path, "calls") == found


def test_a_document_says_when_and_how_it_was_measured() -> None:
    text = results.about({"machine": {"date": "today", "cpu": "2 x"}, "rounds": 3, "seconds": 1.5, "took_s": 60})
    assert text == "today; cpu 2 x; 3 rounds of 1.5 s a phase, 60 s in all."


@pytest.mark.parametrize("size", [10, 11, 100, 1_000, 100_000])
def test_params_are_as_long_as_wanted(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "peers"))
    load = importlib.import_module("common.load")
    assert len(json.dumps(load.params(size))) == size
    assert load.add(load.params(size)) == load.ANSWER
