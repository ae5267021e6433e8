"""The tables of ``docs/speed.rst``: copies of those in ``benchmarks/results/``, each between two comments::

    .. begin: calls, Calls per second
    .. end

The first is the part, the second the title of the table, or ``about`` for what the part ends with: when, on what and
how it was measured. So the page says what was measured, and nothing else.
"""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.suite.settings import ROOT

PAGE = ROOT / "docs" / "speed.rst"
_MARKED = re.compile(r"(?<=^\.\. begin: )(\w+), ([^\n]+)\n.*?^(?=\.\. end$)", re.MULTILINE | re.DOTALL)
_TABLE = re.compile(r"^\.\. list-table:: (.+)\n(?:.*\n)+?(?=^\S|\Z)", re.MULTILINE)


def filled(text: str, results: Path) -> str:
    """*text* with the tables that are in the folder *results* now.

    Raises:
        KeyError: it asks for a table that is not there.
    """

    def table(mark: re.Match[str]) -> str:
        part, title = mark[1], mark[2]
        report = (results / f"{part}.rst").read_text()
        found = {each[1]: each[0].rstrip() for each in _TABLE.finditer(report)}
        found["about"] = report.rstrip().rpartition("\n")[2]
        return f"{part}, {title}\n\n{found[title]}\n\n"

    return _MARKED.sub(table, text)


def fill(results: Path) -> None:
    """Have the page show what is in the folder *results*."""
    PAGE.write_text(filled(PAGE.read_text(), results))
