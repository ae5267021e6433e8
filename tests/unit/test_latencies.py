"""Percentiles of a bench and a drill: near the truth everywhere, whatever the order and the parts."""

from __future__ import annotations

import math
import random

import pytest

from servicebus.observability.latencies import PERCENTILES, Latencies


def nearest_rank(samples: list[float], percent: float) -> float:
    return sorted(samples)[max(1, math.ceil(len(samples) * percent / 100)) - 1]


@pytest.mark.parametrize("scale_s", [1e-5, 1e-3, 0.25, 40.0])
def test_a_percentile_is_at_most_1_6_percent_too_high(scale_s: float) -> None:
    chance = random.Random(scale_s)
    samples = [scale_s * chance.lognormvariate(0, 1) for _ in range(5000)]
    latencies = Latencies()
    for each in samples:
        latencies.add(each)
    for percent in (*PERCENTILES, 1, 100):
        true = nearest_rank(samples, percent)
        assert true <= latencies.percentile(percent) <= true * (1 + 1 / 64)
    assert latencies.percentile(100) == latencies.longest_s == max(samples)


def test_parts_are_as_good_as_the_whole() -> None:
    whole, parts = Latencies(), [Latencies(), Latencies()]
    for number in range(1, 1001):
        whole.add(number / 1000)
        parts[number % 2].add(number / 1000)
    parts[0].merge(parts[1])
    assert parts[0].report() == whole.report()
    assert parts[0].sum_s == pytest.approx(whole.sum_s)
    assert whole.report()["count"] == 1000
    assert list(whole.report()) == ["count", "p50_ms", "p90_ms", "p99_ms", "p99.9_ms", "longest_ms"]


def test_none_and_one_and_what_a_clock_says_wrong() -> None:
    latencies = Latencies()
    assert latencies.percentile(99) == 0.0 and latencies.report()["p50_ms"] == 0.0
    latencies.add(0.125)
    assert latencies.percentile(1) == latencies.percentile(99.9) == 0.125
    latencies.add(-1.0)
    assert latencies.percentile(1) <= 2e-6 and latencies.longest_s == 0.125
