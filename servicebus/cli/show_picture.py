"""Picture: two brokers between a Sender and a node, and the calls on their way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from servicebus.testing import MemoryBus

if TYPE_CHECKING:
    from rich.text import Text

__all__ = ["Picture", "ShownCall"]

SCENE = """
                        ┌──────────────────┐
               ┌────────┤                  ├────────┐
  ┌────────┐   │        └──────────────────┘        │   ┌─────────┐
  │ Sender ├───┤                                    ├───┤ NODE-01 │
  └────────┘   │        ┌──────────────────┐        │   └─────────┘
               └────────┤                  ├────────┘
                        └──────────────────┘
""".strip("\n").splitlines()
ASCII = str.maketrans("┌┐└┘─│├┤●○", "++++-|++*o")
ROWS = (1, 5)
"""Of the brokers."""
MIDDLE = 3
LEFT, RIGHT = range(12, 15), range(52, 56)
UP = (15, 52)
NAME_AT = 26
WAY_TAKES_S = 0.6
"""From the Sender to the node and back, if nothing fails."""
STYLES = {"running": "green", "frozen": "bold blue", "down": "bold red"}


@dataclass
class ShownCall:
    """A call on its way."""

    number: int
    id: str
    begun: float
    since: float
    """When it was published on *broker*."""
    broker: str | None


class Picture:
    """Draws a bus with two brokers."""

    def __init__(self, world: MemoryBus, *, is_ascii: bool):
        self._world = world
        self._is_ascii = is_ascii
        self._ways = {broker.name: _way(row) for broker, row in zip(world.brokers, ROWS, strict=True)}

    def text(self, calls: Sequence[ShownCall], counts: str, events: Sequence[str], keys: str) -> Text:
        """The picture of this moment, with its colours."""
        from rich.text import Text

        rows = [list(f"{line:<68}") for line in SCENE]
        styles: list[tuple[int, int, int, str]] = []
        for broker, row in zip(self._world.brokers, ROWS, strict=True):
            label = f"{broker.name}  {broker.state}"
            rows[row][NAME_AT : NAME_AT + len(label)] = label
            styles.append((row, NAME_AT, NAME_AT + len(label), STYLES[broker.state]))
        for call in calls:
            place = self._place(call)
            if place is not None:
                (row, column), is_back = place
                rows[row][column] = "○" if is_back else "●"
                styles.append((row, column, column + 1, "bold yellow" if is_back else "bold cyan"))
        text = Text(no_wrap=True)
        text.append(f"servicebus on a bus in memory{self._world.now:33.1f} s\n\n", style="bold")
        for number, row_text in enumerate(rows):
            line = "".join(row_text)
            drawn = Text(line.translate(ASCII) if self._is_ascii else line)
            for row, begin, end, style in styles:
                if row == number:
                    drawn.stylize(style, begin, end)
            text.append_text(drawn).append("\n")
        text.append(f"\n  {counts}\n\n")
        for event in [*events[-6:], *[""] * 6][:6]:
            text.append(f"  {event}\n")
        return text.append(f"  {keys}", style="dim")

    def _place(self, call: ShownCall) -> tuple[tuple[int, int], bool] | None:
        """Where it is drawn, and whether its answer is on the way back; None if it waits."""
        if call.broker is None:
            return None
        way = self._ways[call.broker]
        part = (self._world.now - call.since) / WAY_TAKES_S
        if part >= 1.0:  # it takes longer than in peace
            return way[0], True
        is_back = part >= 0.5
        there = 2 * (1 - part) if is_back else 2 * part
        return way[min(int(there * len(way)), len(way) - 1)], is_back


def _way(row: int) -> list[tuple[int, int]]:
    """The places between Sender and node over the broker at *row*."""
    step = 1 if row > MIDDLE else -1
    up = range(MIDDLE + step, row, step)
    way = [(MIDDLE, column) for column in LEFT]
    way += [(each, UP[0]) for each in up]
    way += [(row, column) for column in range(UP[0], UP[1] + 1) if SCENE[row][column] in "─┌┐└┘"]
    way += [(each, UP[1]) for each in reversed(up)]
    way += [(MIDDLE, column) for column in RIGHT]
    return way
