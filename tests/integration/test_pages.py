"""The Python examples of docs/ run, page by page, with brokers and agents of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from servicebus.testing import Broker

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "tests" / "fixtures" / "page_program.py"
BLOCK = ".. code-block:: python"
IN_MEMORY = {"contracts.rst", "testing.rst"}
"""Their tests are in tests/unit: they need no broker."""
BY_STEPS = {"ten-minutes.rst"}
"""Files and commands: tests/integration/test_readme.py takes them as a reader does."""
PAGES = [page for page in sorted((ROOT / "docs").rglob("*.rst")) if BLOCK in page.read_text()]
TO_RUN = [page for page in PAGES if page.name not in IN_MEMORY | BY_STEPS]


def test_there_are_pages_with_examples() -> None:
    assert len(PAGES) >= 8


@pytest.mark.parametrize("page", TO_RUN, ids=lambda page: page.stem)
def test_the_examples_of_a_page_run(page: Path, brokers: list[Broker], tmp_path: Path) -> None:
    hosts = [f"{broker.host}:{broker.port}" for broker in brokers]
    config = tmp_path / "config.yaml"
    config.write_text(f"{{hosts: {hosts}, node_name: NODE-01, secret_token: of the pages of docs}}")
    environment = {**os.environ, "STATE_DIRECTORY": str(tmp_path / "state"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(page), str(config)], cwd=tmp_path, env=environment,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith(" examples")
