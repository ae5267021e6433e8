"""Plots of results, as SVG: bars for competitors side by side, curves for growth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.suite.peers import OURS
from benchmarks.suite.spread import Spread, number

_INCHES_WIDE = 9.0
_BAR_INCHES = 0.28
_CURVE_INCHES = 4.0


@dataclass(frozen=True)
class Bars:
    """One bar for each competitor that was measured, with its spread as a whisker."""

    title: str
    unit: str
    values: Mapping[str, Spread | None]

    @property
    def measured(self) -> dict[str, Spread]:
        return {name: spread for name, spread in self.values.items() if spread is not None}

    @property
    def height(self) -> float:
        return 0.9 + _BAR_INCHES * len(self.measured)

    def draw(self, axes: Any) -> None:
        names, spreads = list(self.measured), list(self.measured.values())
        medians = [spread.median for spread in spreads]
        errors = [
            [spread.median - spread.low for spread in spreads],
            [spread.high - spread.median for spread in spreads],
        ]
        axes.barh(
            names, medians, xerr=errors, capsize=2, color=["C0" if name.startswith(OURS) else "0.7" for name in names]
        )
        for index, spread in enumerate(spreads):
            axes.text(spread.high, index, f"  {number(spread.median)}", va="center", fontsize=8)
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.set_xlabel(self.unit)


@dataclass(frozen=True)
class Curves:
    """One line for each name: x, and what the rounds gave for it."""

    title: str
    x_label: str
    y_label: str
    lines: Mapping[str, Sequence[tuple[float, Spread]]]
    log_x: bool = True
    log_y: bool = False

    height: float = _CURVE_INCHES

    def draw(self, axes: Any) -> None:
        for name, points in self.lines.items():
            xs = [x for x, _ in points]
            axes.plot(xs, [spread.median for _, spread in points], marker="o", markersize=3, label=name)
            axes.fill_between(
                xs, [spread.low for _, spread in points], [spread.high for _, spread in points], alpha=0.2
            )
        if self.log_x:
            axes.set_xscale("symlog" if any(x == 0 for points in self.lines.values() for x, _ in points) else "log")
        if self.log_y:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.set_xlabel(self.x_label)
        axes.set_ylabel(self.y_label)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)


Chart = Bars | Curves


def draw(charts: Sequence[Chart], path: Path, footer: str) -> None:
    """One SVG with all of them, one below the other."""
    import matplotlib

    matplotlib.use("svg")
    # Text stays text, and the same figures give the same file.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "servicebus", "font.size": 9})
    from matplotlib import pyplot

    heights = [chart.height for chart in charts]
    figure, rows = pyplot.subplots(
        len(charts), 1, figsize=(_INCHES_WIDE, sum(heights) + 0.5), height_ratios=heights, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for chart, (axes,) in zip(charts, rows, strict=True):
        axes.set_title(chart.title, loc="left", fontweight="bold")
        chart.draw(axes)
    figure.supxlabel(footer, fontsize=6, wrap=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
