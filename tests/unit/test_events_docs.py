"""The examples of docs/events.rst run."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

PAGE = (Path(__file__).parents[2] / "docs" / "events.rst").read_text()


def test_the_examples_run() -> None:
    names: dict[str, Any] = {"__name__": "page"}
    blocks = re.findall(r"\.\. code-block:: python\n\n((?:   .*\n|\n)+)", PAGE)
    assert len(blocks) == 4
    for block in blocks:
        exec(compile(textwrap.dedent(block), "docs/events.rst", "exec", dont_inherit=True), names)  # noqa: S102 - it is ours
