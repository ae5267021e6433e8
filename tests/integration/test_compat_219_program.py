"""One program for py-servicebus 2.19, run by its own interpreter with the real thing, and unchanged by ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from logserver import LINE, log_server
from old219 import PROGRAMS

from servicebus.testing import Broker
from servicebus.testing.ports import free_ports

pytestmark = [pytest.mark.compat, pytest.mark.brokers(count=1)]


def run(python: Path | str, folder: Path, *arguments: object) -> str:
    done = subprocess.run(
        [str(python), *map(str, arguments)], cwd=folder, capture_output=True, text=True, timeout=60, check=False,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def run_program(python: Path | str, folder: Path, broker: Broker) -> dict[str, Any]:
    folder.mkdir()
    log_port = free_ports(1)[0]
    seen: dict[str, Any] = json.loads(
        run(python, folder, PROGRAMS / "old_program.py", broker.port, log_port, folder).splitlines()[-1]
    )
    seen["hooks"] = [len((folder / name).read_text().split()) for name in ("after_fork", "on_exit")]
    seen["audit"] = (folder / "audit").read_text()
    seen["log lines"] = all(
        LINE.fullmatch(line) for line in (folder / "bus.log").read_text().splitlines() if "adding" in line
    )
    return seen


def test_a_program_for_2_19_runs_unchanged(brokers: list[Broker], old_python: Path, tmp_path: Path) -> None:
    """Imports, dict configuration, services, hooks, run_services(join=False), log server, all methods of Sender.

    What differs is what DESIGN promises: results are values, ids numbers.
    """
    same = {
        "up": True,
        "ping_all": [1, 1],
        "bad_target": True,
        "audit": "{'what': 'restart'}\n",
        "logged": True,
        "hooks": [1, 1],
        "log lines": True,
    }
    theirs = run_program(old_python, tmp_path / "old", brokers[0])
    assert theirs == {**same, "add": ["1", "3"], "again": ["2", "7"], "nested": ["3", "11"]}
    ours = run_program(sys.executable, tmp_path / "new", brokers[0])
    assert ours == {**same, "add": [1, 3], "again": [2, 7], "nested": [3, 11]}


def test_records_of_an_old_logger_are_refused_and_counted(old_python: Path, tmp_path: Path) -> None:
    """Row 10: they are pickles. (That a hostile pickle never runs is shown in tests/process/test_log_server.py.)"""
    with log_server(tmp_path / "bus.log") as server:
        run(old_python, tmp_path, PROGRAMS / "old_logger.py", server.port, "one", "two", "three")
        found = server.wait_for("refused", 3)
        assert found["refusals"] == {"pickled": 3}
        assert server.messages() == []
