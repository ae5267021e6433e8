"""The picture of a run, as SVG: throughput and waiting second by second, and below it a lane for each kind of fault.

Colours are those of Okabe and Ito, which the colour-blind can tell apart; lines differ by their dashes as well.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from html import escape

from tests.chaos.operations import Fault, Story
from tests.chaos.tally import first_done_at, percentile

__all__ = ["picture"]

BLUE, ORANGE, VERMILION, GREY, INK = "#0072B2", "#E69F00", "#D55E00", "#999999", "#222222"
WIDTH, LEFT, RIGHT = 1200, 190, 30
PLOT = WIDTH - LEFT - RIGHT
HEIGHT_OF_PANEL, GAP, TOP, ROW_HEIGHT = 150, 46, 76, 16
MOST_BINS = 600

Points = dict[int, float]


def picture(story: Story, title: str) -> str:
    """The SVG document of *story*."""
    return _Picture(story, title).draw()


class _Picture:
    def __init__(self, story: Story, title: str):
        self._story = story
        self._title = title
        self._zero = story.started_at
        ends = [max(o.ended_at, o.taken_at, first_done_at(o) or 0.0) for o in story.operations.values()]
        self._seconds = max(max(ends, default=0.0) - self._zero, 1.0)
        self._bin_s = max(1, -int(-self._seconds // MOST_BINS))
        self._bins = max(1, int(self._seconds // self._bin_s))
        """Whole ones: the last, when it is cut short, would look like a fall."""
        self._lanes: dict[str, list[Fault]] = defaultdict(list)
        for fault in sorted(story.faults.values(), key=lambda fault: fault.begun_at):
            self._lanes[fault.kind].append(fault)

    def draw(self) -> str:
        calls, failed, messages, waits = self._series()
        lanes_top = TOP + 3 * (HEIGHT_OF_PANEL + GAP)
        height = lanes_top + ROW_HEIGHT * len(self._lanes) + 40
        panels = (
            ("answered and executed, per second", [("calls answered", BLUE, "", calls),
                                                   ("messages executed", ORANGE, "6 3", messages)]),
            ("calls that failed, per second", [("calls that failed", VERMILION, "", failed)]),
            ("p99 of answered calls, seconds", [("p99 of calls", INK, "", waits)]),
        )  # fmt: skip
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
            'font-family="sans-serif" font-size="12" role="img">',
            f"<title>{escape(self._title)}</title>",
            f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
            _text(LEFT, 24, self._title, size=16),
            *self._bands(lanes_top),
        ]
        for number, (label, lines) in enumerate(panels):
            parts += self._panel(TOP + number * (HEIGHT_OF_PANEL + GAP), label, lines)
        parts += self._fault_lanes(lanes_top)
        parts += self._time_axis(lanes_top + ROW_HEIGHT * len(self._lanes) + 18)
        return "\n".join([*parts, "</svg>"]) + "\n"

    def _series(self) -> tuple[Points, Points, Points, Points]:
        calls, failed, messages = (dict.fromkeys(range(self._bins + 1), 0.0) for _ in range(3))
        waits: dict[int, list[float]] = defaultdict(list)
        per_s = 1 / self._bin_s
        for operation in self._story.operations.values():
            if operation.kind == "message":
                if (done_at := first_done_at(operation)) is not None:
                    messages[self._bin(done_at)] += per_s
            elif operation.outcome in ("ok", "fault") and operation.invoked_at is not None:
                calls[self._bin(operation.ended_at)] += per_s
                waits[self._bin(operation.ended_at)].append(operation.ended_at - operation.invoked_at)
            elif operation.outcome is not None:
                failed[self._bin(operation.ended_at)] += per_s
        return calls, failed, messages, {at: percentile(sorted(values), 99) for at, values in waits.items()}

    def _bin(self, t: float) -> int:
        return int((t - self._zero) // self._bin_s)

    def _x(self, seconds: float) -> float:
        return LEFT + PLOT * min(max(seconds / self._seconds, 0.0), 1.0)

    def _span(self, fault: Fault) -> tuple[float, float]:
        """Left edge and width; wide enough to be seen."""
        begin = self._x(fault.begun_at - self._zero)
        end = self._x(fault.ended_at - self._zero) if fault.ended_at is not None else float(LEFT + PLOT)
        return begin, max(end - begin, 2.0)

    def _bands(self, bottom: int) -> Iterator[str]:
        """A faint band over all panels for each fault: where many overlap it is darker."""
        for faults in self._lanes.values():
            for fault in faults:
                x, width = self._span(fault)
                yield (
                    f'<rect x="{x:.1f}" y="{TOP}" width="{width:.1f}" height="{bottom - TOP - GAP}" '
                    f'fill="{GREY}" fill-opacity="0.12"/>'
                )

    def _panel(self, top: int, label: str, lines: Sequence[tuple[str, str, str, Points]]) -> Iterator[str]:
        bottom = top + HEIGHT_OF_PANEL
        most = _rounded_up(max((value for *_, points in lines for value in points.values()), default=1.0))
        for part in (0.0, 0.5, 1.0):
            y = bottom - part * HEIGHT_OF_PANEL
            yield f'<line x1="{LEFT}" y1="{y}" x2="{LEFT + PLOT}" y2="{y}" stroke="{GREY}" stroke-width="0.5"/>'
            yield _text(LEFT - 8, y + 4, f"{most * part:g}", anchor="end")
        if len(lines) == 1:
            yield _text(LEFT, top - 8, label)
        else:
            yield _text(LEFT, top - 8, f"{label}:")
            for number, (name, colour, dashes, _) in enumerate(lines):
                x = LEFT + 230 + number * 190
                yield _line([(x, top - 12.0), (x + 30, top - 12.0)], colour, dashes, 2.5)
                yield _text(x + 36, top - 8, name)
        for _, colour, dashes, points in lines:
            for run in _unbroken(points, self._bins):
                places = [(self._x(at * self._bin_s), bottom - HEIGHT_OF_PANEL * points[at] / most) for at in run]
                yield _line(places if len(places) > 1 else places * 2, colour, dashes, 1.5)

    def _fault_lanes(self, top: int) -> Iterator[str]:
        yield _text(LEFT, top - 8, f"faults: {sum(map(len, self._lanes.values()))}")
        for number, (kind, faults) in enumerate(sorted(self._lanes.items())):
            y = top + number * ROW_HEIGHT
            if number % 2 == 0:
                yield f'<rect x="{LEFT}" y="{y}" width="{PLOT}" height="{ROW_HEIGHT}" fill="#f3f3f3"/>'
            yield _text(LEFT - 8, y + 12, f"{kind} ({len(faults)})", anchor="end")
            for fault in faults:
                x, width = self._span(fault)
                yield (
                    f'<rect x="{x:.1f}" y="{y + 3}" width="{width:.1f}" height="{ROW_HEIGHT - 6}" fill="{VERMILION}">'
                    f"<title>{fault.number}: {escape(kind)} of {escape(fault.target)}</title></rect>"
                )

    def _time_axis(self, y: int) -> Iterator[str]:
        step = next(s for s in (10, 15, 30, 60, 120, 300, 600, 1800, 7200, 10**9) if self._seconds / s <= 15)
        for seconds in range(0, int(self._seconds) + 1, step):
            x = self._x(seconds)
            yield f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{y - 12}" stroke="{GREY}" stroke-width="0.3"/>'
            yield _text(x, y + 4, f"{seconds // 60}:{seconds % 60:02d}", anchor="middle")


def _unbroken(points: Points, bins: int) -> Iterator[list[int]]:
    """The stretches of bins for which there is a value: where nothing was answered, nothing waited."""
    run: list[int] = []
    for at in range(bins + 1):
        if at in points and at < bins:
            run.append(at)
        elif run:
            yield run
            run = []


def _rounded_up(value: float) -> float:
    """The next of 1, 2, 5, 10, ..., so that the axis can be read."""
    step = 0.001
    while True:
        for factor in (1, 2, 5):
            if value <= step * factor:
                return step * factor
        step *= 10


def _line(points: Sequence[tuple[float, float]], colour: str, dashes: str, width: float) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    stroke = f'stroke="{colour}" stroke-width="{width}" stroke-linecap="round"{dashed}'
    return f'<polyline points="{path}" fill="none" {stroke}/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 12) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{INK}">{escape(text)}</text>'
