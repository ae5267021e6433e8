"""SECURITY.rst names a test for each attack; each of them is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMED = sorted(set(re.findall(r"``(tests/[a-z0-9_/]+\.py)(?:::(\w+))?``", (ROOT / "SECURITY.rst").read_text())))


def test_attacks_are_named() -> None:
    assert len(NAMED) > 10


@pytest.mark.parametrize(("path", "test"), NAMED)
def test_a_named_test_exists(path: str, test: str) -> None:
    text = (ROOT / path).read_text()
    assert not test or re.search(rf"^ *def {test}\(", text, re.MULTILINE)
