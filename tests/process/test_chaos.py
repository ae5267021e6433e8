"""Two minutes of the chaos rig: a part of what ``bin/chaos --minutes 30`` does, with fewer senders."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from waiting import wait_until

from servicebus.testing.processes import marked_processes

ROOT = Path(__file__).parent.parent.parent
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start_chaos(tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def start(*arguments: str) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos", "--out", str(tmp_path / "out"), *arguments],
                cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
            )  # fmt: skip
            # Killed, its guards end what it started.
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield start


@pytest.mark.alone
@pytest.mark.timeout(480)
def test_a_run_with_faults_breaks_no_invariant(start_chaos: Start) -> None:
    minutes = "2" if "ALL_FAULTS" in os.environ else "0.5"
    chaos = start_chaos("--minutes", minutes, "--no-cluster", "--senders", "2", "--calls", "60", "--messages", "60")
    said, _ = chaos.communicate(timeout=460)
    assert chaos.returncode == 0, said


def test_an_interrupted_run_leaves_nothing_behind(start_chaos: Start, tmp_path: Path) -> None:
    chaos = start_chaos("--minutes", "2", "--no-cluster", "--brokers", "2", "--senders", "1", "--agents", "1")
    assert chaos.stdout is not None
    for line in chaos.stdout:
        if " are started in " in line:
            home = Path(line.rsplit(" ", 1)[1].strip())
        if "faults in" in line:
            break
    assert marked_processes(home)
    chaos.send_signal(signal.SIGINT)
    chaos.communicate(timeout=60)
    assert chaos.returncode == 130
    wait_until(lambda: not marked_processes(home), 10)
    assert not home.exists()
