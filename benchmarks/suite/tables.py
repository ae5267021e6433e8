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
        """With its title as a heading of the third level."""
        lines = [f"### {self.title}", "", _line(self.columns), "|" + " --- |" * len(self.columns)]
        lines += [_line(row) for row in self.rows]
        return "\n".join(lines + (["", self.note] if self.note else [])) + "\n"

    def rst(self) -> str:
        """A list-table that a page includes."""
        lines = [f".. list-table:: {self.title}", "   :header-rows: 1", "   :stub-columns: 1", ""]
        for row in (self.columns, *self.rows):
            lines += [f"   {'* -' if not index else '  -'} {cell}".rstrip() for index, cell in enumerate(row)]
        return "\n".join(lines + (["", self.note] if self.note else [])) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
