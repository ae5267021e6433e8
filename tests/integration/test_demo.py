"""The program that bin/demo runs, as a user runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from servicebus.testing.processes import marked_processes

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder() -> Iterator[Path]:
    """tmp_path would be too long: the demo has a unix socket there, whose path may have 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="demo-", dir="/tmp") as name:
        yield Path(name)


def test_the_demo_kills_a_broker_and_nothing_fails(folder: Path) -> None:
    """Exit status 0 means that no call failed, nothing was lost and the traffic went back: it counts that itself."""
    done = subprocess.run(
        [sys.executable, "-m", "examples.demo", "--seconds", "1"],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for row in ("errors", "wrong results", "log records lost"):
        assert re.search(rf"{row} +│ +0 │", done.stdout), done.stdout
    counted = {row: re.search(rf"{row} +│ +(\d+) │", done.stdout) for row in ("messages sent", "messages handled")}
    assert all(counted.values()), done.stdout
    assert len({match.group(1) for match in counted.values() if match}) == 1
    assert "INFO:note" in done.stdout
    assert marked_processes(folder) == []
    assert list(folder.glob("servicebus-*")) == []
