"""What the charts show: the rates of each node in the last hour, and failovers of the last day. Bounded."""

from __future__ import annotations

import json
import threading
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

__all__ = ["Chart", "Line", "RateSeries", "TimeMark", "as_json", "steps_of"]

STEP_S = 10
HOUR_S = 3600
_STEPS = HOUR_S // STEP_S
_MOST_NODES = 1000


class Line(NamedTuple):
    """One line of a chart."""

    name: str
    values: Sequence[float | None]
    """None where nothing is known."""


class Chart(NamedTuple):
    """Lines over the same times."""

    title: str
    lines: Sequence[Line]
    is_stepped: bool = False


class TimeMark(NamedTuple):
    """Something that happened, as a vertical line."""

    at: float
    """Unix time."""
    text: str
    is_bad: bool = False


def as_json(times: Sequence[float], charts: Iterable[Chart], marks: Iterable[TimeMark] = ()) -> str:
    """As ``charts.js`` reads it."""
    return json.dumps(
        {
            "times": [round(each, 1) for each in times],
            "charts": [
                {
                    "title": chart.title,
                    "stepped": chart.is_stepped,
                    "lines": [[line.name, [_rounded(each) for each in line.values]] for line in chart.lines],
                }
                for chart in charts
            ],
            "marks": [[round(mark.at, 1), mark.text, mark.is_bad] for mark in marks],
        },
        separators=(",", ":"),
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


class _Ring:
    """The means of some values in each step of the last hour; a step is overwritten an hour later."""

    def __init__(self, names: Iterable[str]):
        self._steps = array("q", [-1]) * _STEPS
        self._counts = {name: array("l", [0]) * _STEPS for name in names}
        self._sums = {name: array("d", [0.0]) * _STEPS for name in names}

    def add(self, step: int, values: Mapping[str, float]) -> None:
        place = step % _STEPS
        if self._steps[place] != step:
            self._steps[place] = step
            for name, counts in self._counts.items():
                counts[place], self._sums[name][place] = 0, 0.0
        for name, value in values.items():
            self._counts[name][place] += 1
            self._sums[name][place] += value

    def means(self, name: str, steps: Iterable[int]) -> list[float | None]:
        counts, sums = self._counts[name], self._sums[name]
        return [
            sums[place] / counts[place] if self._steps[place] == step and counts[place] else None
            for step, place in ((step, step % _STEPS) for step in steps)
        ]


class RateSeries:
    """Values of nodes over the last hour, in steps of 10 s; of 1,000 nodes at most. For any thread.

    Args:
        names: of the values.
    """

    def __init__(self, names: Iterable[str]):
        self._names = tuple(names)
        self._lock = threading.Lock()
        self._rings: dict[str, _Ring] = {}

    def add(self, node: str, values: Mapping[str, float], now: float) -> None:
        """What is known of *node* at *now*, Unix time: of some of the values, or of all."""
        with self._lock:
            ring = self._rings.pop(node, None) or _Ring(self._names)
            self._rings[node] = ring  # the one that was silent for longest stands first
            if len(self._rings) > _MOST_NODES:
                del self._rings[next(iter(self._rings))]
            ring.add(int(now // STEP_S), values)

    def of(self, node: str, now: float) -> tuple[list[float], dict[str, list[float | None]]]:
        """The Unix time at which each step of the last hour began, and the mean of each value in it."""
        steps = steps_of(now, HOUR_S, STEP_S)
        with self._lock:
            ring = self._rings.get(node) or _Ring(self._names)
            means = {name: ring.means(name, steps) for name in self._names}
        return [float(step * STEP_S) for step in steps], means


def steps_of(now: float, over_s: int, step_s: int) -> range:
    """The numbers of the steps of *step_s* until *now*."""
    last = int(now // step_s)
    return range(last - over_s // step_s + 1, last + 1)
