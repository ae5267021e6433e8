"""The examples of docs/priorities.rst run."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

PAGE = (Path(__file__).parents[2] / "docs" / "priorities.rst").read_text()


def test_the_examples_run() -> None:
    names: dict[str, Any] = {"__name__": "page"}
    blocks = re.findall(r"\.\. code-block:: python\n\n((?:    .*\n|\n)+)", PAGE)
    assert len(blocks) == 1
    for block in blocks:
        code = compile(textwrap.dedent(block), "docs/priorities.rst", "exec", dont_inherit=True)
        exec(code, names)  # noqa: S102 - it is ours
