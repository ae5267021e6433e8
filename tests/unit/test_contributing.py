"""CONTRIBUTING leads through files that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMED = sorted(set(re.findall(r"``([\w/]+(?:\.py|/))``", (ROOT / "CONTRIBUTING.rst").read_text())))


def test_it_names_files() -> None:
    assert len(NAMED) > 40


@pytest.mark.parametrize("name", NAMED)
def test_a_file_that_it_names_exists(name: str) -> None:
    """Below the root, or below one of the packages: ``transport/channel.py`` is servicebus's."""
    places = [ROOT / package / name for package in (".", "servicebus", "tests", "benchmarks")]
    assert any(place.exists() for place in places)
