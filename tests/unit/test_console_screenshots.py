"""Pictures of docs/console.rst: each is there, is shown, and is small. tests/integration/test_console.py makes them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "docs" / "screenshots"
MOST_BYTES = 100 * 1024


def test_pictures_of_the_page_are_there_and_small() -> None:
    page = (ROOT / "docs" / "console.rst").read_text()
    named = re.findall(r"^\.\. image:: screenshots/([\w-]+\.png)\n +:alt: \S", page, re.MULTILINE)
    assert sorted(named) == sorted(path.name for path in FOLDER.iterdir()), (
        "each has a text for those who do not see it"
    )
    files = [FOLDER / name for name in named]
    assert files and all(path.read_bytes().startswith(b"\x89PNG\r\n") for path in files)
    assert [path.name for path in files if path.stat().st_size > MOST_BYTES] == []


def test_a_test_makes_each_of_them() -> None:
    made = re.findall(r'shoot\(page, "([\w-]+)"', (ROOT / "tests/integration/test_console.py").read_text())
    assert {path.stem for path in FOLDER.iterdir()} <= set(made)
