"""What the demo counts: its exit status depends on it."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.demo.report import Moments, Report
from examples.demo.traffic import Record

GOOD = Report(
    Record(calls=[(10.0, 0.002), (10.5, 0.004), (12.0, 0.006)], sent=[1, 2, 3]),
    Moments(started=10.0, killed=11.0, restarted=12.0, up=13.0, returned=14.0, ended=15.0),
    Counter({1: 1, 2: 1, 3: 2}),
    {"written": 5, "lost": 0, "processes": 3},
    "a line\n",
)


def test_nothing_lost_and_nothing_failed_is_no_failure() -> None:
    assert GOOD.failures() == []
    assert (GOOD.lost, GOOD.repeated) == (0, 1)


@pytest.mark.parametrize(
    ("report", "why"),
    [
        (replace(GOOD, record=Record(errors=["CallTimeout: late"])), "1 call failed, the first: CallTimeout: late"),
        (replace(GOOD, record=Record(wrong=["math.add"])), "1 wrong result came"),
        (replace(GOOD, record=Record(unsent=["NoBrokerAvailable"])), "1 message could not be sent"),
        (replace(GOOD, handled=Counter({1: 5})), "2 confirmed messages not handled"),
        (replace(GOOD, log={"written": 5, "lost": 1, "processes": 3}), "1 log record lost"),
        (replace(GOOD, moments=replace(GOOD.moments, returned=None)), "the traffic did not return to broker A"),
        (replace(GOOD, agent_exit_code=-9), "the agent ended with -9"),
    ],
)
def test_each_guarantee_that_is_broken_is_a_failure(report: Report, why: str) -> None:
    assert [line[: len(why)] for line in report.failures()] == [why]


def test_the_longest_gap_counts_the_edges_of_the_window() -> None:
    assert GOOD.record.longest_gap_s(10.0, 12.0) == 1.5
    assert GOOD.record.longest_gap_s(12.0, 15.0) == 3.0
    assert GOOD.record.longest_gap_s(20.0, 21.0) == 1.0


def test_the_share_of_latencies() -> None:
    assert GOOD.record.latency_s(0.5) == 0.004
    assert GOOD.record.latency_s(0.99) == 0.006
