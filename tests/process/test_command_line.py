"""The program ``servicebus`` in surroundings that a shell, a cron job or a container gives it. No broker is needed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PROGRAM = str(Path(sys.executable).with_name("servicebus"))
CONFIG = "hosts: ['127.0.0.1:1']\nsecret_token: a secret of some length\nnode_name: N1\n"

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a shell line in a folder with ``agent.yaml``; ``$SB`` is the program."""
    (tmp_path / "agent.yaml").write_text(CONFIG)

    def run(line: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "SB": PROGRAM, **variables}
        environment.pop("SERVICEBUS_CONFIG", None)
        return subprocess.run(
            ["sh", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
        )

    return run


@pytest.mark.parametrize("options", ["", "--json"])
def test_an_output_that_cannot_be_written_is_no_defect(run: Run, options: str) -> None:
    done = run(f"$SB config check agent.yaml {options} > /dev/full")
    assert done.returncode == 1
    assert "it is done, but the output cannot be written: No space left on device" in done.stderr
    assert len(done.stderr.splitlines()) == 1, "nothing of the interpreter's own end"


def test_a_reader_of_a_pipe_that_leaves_is_no_defect(run: Run) -> None:
    assert run("$SB completion bash | true").stderr == ""


def test_a_closed_stdin_is_said(run: Run) -> None:
    done = run("$SB call -c agent.yaml N1.t.echo - <&-")
    assert (done.returncode, "stdin, which is closed" in done.stderr) == (2, True)


def test_a_current_folder_that_is_gone_does_not_matter(run: Run, tmp_path: Path) -> None:
    done = run(f"mkdir gone; cd gone; rmdir ../gone; $SB config check {tmp_path}/agent.yaml")
    assert (done.returncode, done.stderr) == (0, "")


def test_an_argument_is_utf8_in_any_locale(run: Run) -> None:
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = run("$SB call -c agent.yaml --json 'N1.grüße' 1", **locale)
    assert (done.returncode, r"N1.gr\u00fc\u00dfe" in done.stderr) == (2, True), done.stderr


def test_what_is_installed_comes_before_files_that_lie_around(run: Run, tmp_path: Path) -> None:
    """A folder that others may write to must not bring code into the agent."""
    (tmp_path / "colorsys.py").write_text("raise SystemExit('planted')")
    (tmp_path / "own.py").write_text("import colorsys\nclass Own:\n    def on_call(self, request, response): pass\n")
    service = "services: [{kind: rpc, category: c, name: n, target: 'own:Own'}]\n"
    (tmp_path / "agent.yaml").write_text(CONFIG + service)
    done = run("$SB config check agent.yaml")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_file_without_services_is_not_run(run: Run) -> None:
    for named in ("agent.yaml", "-c agent.yaml"):
        done = run(f"$SB run {named}")
        assert (done.returncode, "names no services" in done.stderr) == (3, True)
