"""Tests leave nothing in the folder where an agent of this machine keeps its state (``STATE_DIRECTORY``)."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from servicebus.runtime.state_folder import default_path

PROGRAM = """
import os
from servicebus.runtime.state_folder import default_path
print(default_path("NODE-01", os.environ))
"""


def test_a_journal_without_a_path_is_kept_in_a_temporary_folder() -> None:
    path = Path(default_path("NODE-01", os.environ))
    assert path.parent.name.startswith("servicebus-tests-")
    assert path.parent.parent == Path(tempfile.gettempdir())


def test_a_process_that_a_test_starts_uses_the_same_folder() -> None:
    found = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True, text=True).stdout.strip()
    assert found == default_path("NODE-01", os.environ)
