"""What pairs of measurements say: worse, fine, or nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.suite.guard.results import Finding, Result, exit_status, judge
from benchmarks.suite.parts.guard import times_worse


@pytest.mark.parametrize(
    ("ratios", "result"),
    [
        ([1.0, 1.0, 1.01, 0.99, 1.02], Result.FINE),
        ([1.2, 1.25, 1.3, 1.22, 1.21], Result.WORSE),
        ([0.5, 0.6, 0.55, 0.5, 0.52], Result.FINE),  # better by far
        ([1.08, 1.09, 1.12, 1.13, 1.12], Result.WORSE),  # the limit is within, but the rounds agree
        ([1.05, 1.06, 1.08, 1.12, 1.11], Result.FINE),
        ([0.7, 0.9, 1.2, 1.4, 1.5], Result.UNSURE),
        ([1.5, 1.9, 3.0, 2.5, 1.3], Result.WORSE),  # wide, and yet all of it beyond
        ([1.5, 1.5, 1.5], Result.UNSURE),  # too few
    ],
)
def test_the_middle_half_of_the_rounds_decides(ratios: list[float], result: Result) -> None:
    assert judge("calls", ratios).result is result


def test_one_outlier_changes_nothing() -> None:
    assert judge("calls", [1.0, 1.0, 1.01, 0.99, 1.0, 1.0, 5.0]).result is Result.FINE


def test_worse_is_worse_than_unsure() -> None:
    def finding(result: Result) -> Finding:
        return Finding("calls", 1.0, 1.0, 1.0, result)

    assert exit_status([finding(Result.FINE)]) == 0
    assert exit_status([finding(Result.FINE), finding(Result.UNSURE)]) == 2
    assert exit_status([finding(Result.UNSURE), finding(Result.WORSE)]) == 1


def test_an_unsure_finding_says_so() -> None:
    assert "differ too much" in judge("calls", [0.5, 0.9, 1.2, 1.9]).text()


def test_fewer_calls_more_cpu_time_and_more_memory_are_worse() -> None:
    ours = {"sequential": 50.0, "CPU, sequential": 300.0, "memory": 120.0}
    rounds = [{"ours": ours, "theirs": {"sequential": 100.0, "CPU, sequential": 200.0, "memory": 100.0}}]

    assert times_worse(rounds, "sequential") == [2.0]
    assert times_worse(rounds, "CPU, sequential") == [1.5]
    assert times_worse(rounds, "memory") == [pytest.approx(1.2)]
