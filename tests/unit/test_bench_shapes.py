"""Flat, linear, or neither: what is said of a curve."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.suite.growth.shapes import fit, shape, tolerance_of
from benchmarks.suite.spread import Spread

XS = (1, 10, 100, 1000, 10_000)


def exact(*points: tuple[float, float]) -> list[tuple[float, Spread]]:
    return [(x, Spread(y, y, y, 3)) for x, y in points]


def test_what_stays_the_same_is_flat() -> None:
    found = shape(exact(*((x, 100.0) for x in XS)))

    assert (found.kind, found.breaks_at, found.times) == ("flat", None, 1.0)


def test_a_tenth_of_noise_is_not_a_shape() -> None:
    rng = random.Random(1)

    assert shape(exact(*((x, 100.0 * rng.uniform(0.9, 1.1)) for x in XS))).kind == "flat"


def test_a_constant_and_so_much_for_each_is_linear() -> None:
    found = shape(exact(*((x, 100.0 + 0.5 * x) for x in XS)))

    assert found.kind == "linear"
    assert found.slope == pytest.approx(0.5)
    assert found.breaks_at == 100  # 150 where 100 was the first
    assert "flat below 100" in found.text()


def test_a_step_is_neither() -> None:
    found = shape(exact((1, 100.0), (10, 100.0), (100, 400.0), (1000, 400.0)))

    assert (found.kind, found.breaks_at, found.times) == ("other", 100, 4.0)


def test_what_becomes_cheaper_is_neither() -> None:
    assert shape(exact((1, 500.0), (4, 200.0), (16, 100.0), (64, 100.0))).kind == "other"


def test_what_fails_is_said() -> None:
    found = shape(exact((1, 100.0), (10, 100.0)), failed=[1000, 100])

    assert found.failed_at == 100
    assert "fails at 100" in found.text()


def test_one_point_has_no_shape() -> None:
    assert shape(exact((1, 100.0))).kind == "unknown"


def test_where_rounds_differ_much_more_is_tolerated_but_not_everything() -> None:
    noisy = [(x, Spread(100.0, 70.0, 130.0, 3)) for x in XS]
    wild = [(x, Spread(100.0, 10.0, 500.0, 3)) for x in XS]

    assert tolerance_of(noisy) == pytest.approx(0.3)
    assert tolerance_of(wild) == 0.5


def test_a_fit_goes_through_points_on_a_line() -> None:
    assert fit([(0, 3.0), (1, 5.0), (2, 7.0)]) == pytest.approx((3.0, 2.0))
    assert fit([(4, 3.0), (4, 5.0)])[1] == 0.0
