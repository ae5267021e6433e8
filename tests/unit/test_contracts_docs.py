"""The examples of docs/contracts.rst run."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

PAGE = (Path(__file__).parents[2] / "docs" / "contracts.rst").read_text()
BLOCKS = re.findall(r"^\.\. code-block:: python\n\n((?: {4}.*\n|\n)+)", PAGE, re.MULTILINE)


def test_the_examples_run_one_after_the_other() -> None:
    assert BLOCKS
    names: dict[str, Any] = {"__name__": "example"}
    for block in BLOCKS:
        exec(compile(textwrap.dedent(block), "docs/contracts.rst", "exec"), names)  # noqa: S102 - it is ours
