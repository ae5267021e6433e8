"""All of them in turn, again and again: A B C, A B C; and a bar that says how long it will take."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from benchmarks.suite.machine import settle


@dataclass(frozen=True)
class Measurement:
    """One competitor: its name, what measures it once, and how long that will take, roughly."""

    name: str
    measure: Callable[[], dict[str, Any]]
    expected_s: float = 5.0


def interleaved(
    title: str, measurements: Sequence[Measurement], rounds: int, wait_limit_s: float = 5.0
) -> list[dict[str, Any]]:
    """What each gave, with ``name``, ``round`` and ``took_s``; an error is kept as ``error``, and told.

    Before each, the machine gets *wait_limit_s* to become quiet.
    """
    results: list[dict[str, Any]] = []
    clock = Estimate({measurement.name: measurement.expected_s for measurement in measurements}, rounds)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), _Left(clock))
    # Once a second: drawing it takes time of the cores that are measured.
    with Progress(*columns, console=console, disable=not console.is_terminal, refresh_per_second=1) as bar:
        task = bar.add_task(title, total=rounds * len(measurements))
        for number in range(1, rounds + 1):
            for measurement in measurements:
                bar.update(task, description=f"{title}: {measurement.name} {number}/{rounds}")
                clock.begins(measurement.name)
                result = _take(measurement, wait_limit_s)
                result["round"] = number
                results.append(result)
                clock.took(measurement.name, result["took_s"])
                bar.update(task, advance=1)
                if "error" in result or not console.is_terminal:
                    said = result.get("error", f"{result['took_s']:.1f} s, {clock.left()}")
                    print(f"{title}: {measurement.name} {number}/{rounds}: {said}", file=sys.stderr, flush=True)
    return results


class Estimate:
    """How long the rounds that are left will take: what was expected, until it is known better."""

    def __init__(self, expected_s: dict[str, float], rounds: int):
        self._each_s = dict(expected_s)
        self._rounds_left = dict.fromkeys(expected_s, rounds)
        self._now = ""
        self._began = 0.0

    def begins(self, name: str) -> None:
        self._now, self._began = name, time.monotonic()

    def took(self, name: str, seconds: float) -> None:
        self._each_s[name] = seconds
        self._rounds_left[name] -= 1
        self._now = ""

    @property
    def left_s(self) -> float:
        all_s = sum(self._each_s[name] * count for name, count in self._rounds_left.items())
        if not self._now:
            return all_s
        return all_s - min(self._each_s[self._now], time.monotonic() - self._began)

    def left(self) -> str:
        minutes, seconds = divmod(round(self.left_s), 60)
        return f"{minutes}:{seconds:02} left"


class _Left(ProgressColumn):
    """The time left, as it is when the bar is drawn."""

    def __init__(self, clock: Estimate):
        super().__init__()
        self._clock = clock

    def render(self, task: Task) -> Text:
        return Text(self._clock.left())


def _take(measurement: Measurement, wait_limit_s: float) -> dict[str, Any]:
    settle(wait_limit_s)
    started = time.monotonic()
    try:
        result = measurement.measure()
    except Exception as error:  # the others are measured all the same, and the tables tell
        result = {"error": str(error) or repr(error)}
    return {"name": measurement.name, **result, "took_s": round(time.monotonic() - started, 2)}
