"""docs/doctor.rst lists each kind of finding as the code has it."""

from __future__ import annotations

import re
from pathlib import Path

from servicebus.operations.doctor.finding import KINDS

PAGE = (Path(__file__).parents[2] / "docs" / "doctor.rst").read_text()


def test_the_page_lists_every_finding() -> None:
    rows = re.findall(r"^   \* - ``([\w-]+)``\n     - (\w+)\n     - (.+)$", PAGE, re.MULTILINE)
    listed = {code: (severity, what[0].lower() + what[1:]) for code, severity, what in rows}
    assert listed == {code: (kind.severity, kind.what[0].lower() + kind.what[1:]) for code, kind in KINDS.items()}
    assert len(KINDS) >= 30
