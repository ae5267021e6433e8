"""The program that bin/demo runs, as a user runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from servicebus.testing.processes import marked_processes

ROOT = Path(__file__).resolve().parents[2]


def test_the_demo_kills_a_broker_and_nothing_fails(tmp_path: Path) -> None:
    """Exit status 0 means that no call failed, nothing was lost and the traffic went back: it counts that itself."""
    done = subprocess.run(
        [sys.executable, "-m", "examples.demo", "--seconds", "1"],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
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
    assert marked_processes(tmp_path) == []
    assert list(tmp_path.glob("servicebus-*")) == []
