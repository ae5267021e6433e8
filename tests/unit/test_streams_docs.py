"""The examples of docs/streams.rst run."""

from __future__ import annotations

import re
import runpy
import textwrap
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "streams.rst").read_text()


def test_the_examples_run() -> None:
    names: dict[str, Any] = {"__name__": "page"}
    blocks = re.findall(r"\.\. code-block:: python\n\n((?:   .*\n|\n)+)", PAGE)
    assert len(blocks) == 3
    for block in blocks:
        exec(compile(textwrap.dedent(block), "docs/streams.rst", "exec", dont_inherit=True), names)  # noqa: S102 - it is ours


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "examples" / "streams" / "report.py"), run_name="__main__")
    assert capsys.readouterr().out == "mq-1 is killed at order 10000\n20000 orders, 49997500.00\n"
