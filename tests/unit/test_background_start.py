"""Tests that are started in the background, where a shell has SIGINT ignored, run as those in the foreground do."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path


def test_an_interrupt_is_not_ignored() -> None:
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    program = "import os, signal; os.kill(os.getpid(), signal.SIGINT)"
    child = subprocess.run([sys.executable, "-c", program], stderr=subprocess.DEVNULL, check=False)
    assert child.returncode == -signal.SIGINT


def test_nor_is_it_when_it_was_ignored_at_the_start() -> None:
    this = f"{Path(__file__).name}::{test_an_interrupt_is_not_ignored.__name__}"
    done = subprocess.run(
        ["sh", "-c", 'trap "" INT; exec "$@"', "sh", sys.executable, "-m", "pytest", "-p", "no:cacheprovider", this],
        cwd=Path(__file__).parent, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
