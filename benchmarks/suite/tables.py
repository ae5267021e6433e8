"""A table, as Markdown and as reStructuredText."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Cells are text already; the first column is a heading."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def markdown(self) -> str:
        """With its title as a heading of the third level, and columns that line up."""
        cells = [[cell.replace("|", "\\|") for cell in row] for row in (self.columns, *self.rows)]
        widths = [max(3, *(len(cell) for cell in column)) for column in zip(*cells, strict=True)]
        head, *rows = [_line(row, widths) for row in cells]
        lines = [f"### {self.title}", "", head, _line(["-" * width for width in widths], widths), *rows]
        return "\n".join(lines + (["", self.note] if self.note else [])) + "\n"

    def rst(self) -> str:
        """A list-table that a page includes."""
        lines = [f".. list-table:: {self.title}", "   :header-rows: 1", "   :stub-columns: 1", ""]
        for row in (self.columns, *self.rows):
            lines += [f"   {'* -' if not index else '  -'} {cell}".rstrip() for index, cell in enumerate(row)]
        return "\n".join(lines + (["", self.note] if self.note else [])) + "\n"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"
