"""``python -m servicebus`` as one sees it: on a terminal, in a pipe, with arguments."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PROGRAM = [sys.executable, "-m", "servicebus"]


def test_in_a_pipe_it_ends_at_once_and_leaves_no_file(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    done = subprocess.run(PROGRAM, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0 and not done.stderr
    assert "executed once, 0 twice." in done.stdout
    assert not [*tmp_path.iterdir()]


def test_with_arguments_it_is_the_program() -> None:
    done = subprocess.run([*PROGRAM, "--version"], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0 and done.stdout.startswith("servicebus")
    assert subprocess.run([*PROGRAM, "no-such-command"], capture_output=True, timeout=100).returncode == 2


def test_a_reader_that_leaves_is_no_error() -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", '"$0" -m servicebus | head -1', sys.executable], capture_output=True, text=True, timeout=100
    )
    assert len(done.stdout.splitlines()) == 1 and not done.stderr


@contextmanager
def on_terminal(term: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    program = subprocess.Popen(
        PROGRAM, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": term}, start_new_session=True
    )
    try:
        yield program, ours
        assert termios.tcgetattr(theirs) == before, "the terminal is as it was"
    finally:
        program.kill()
        program.wait()
        os.close(theirs)
        os.close(ours)


def read_until(text: str, ours: int, program: subprocess.Popen[bytes]) -> str:
    """What it prints until *text* has come, or until it has ended."""
    found = ""
    while text not in found:
        if select.select([ours], [], [], 0.1)[0]:
            found += os.read(ours, 65536).decode(errors="replace")
        elif program.poll() is not None:
            break
    return found


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_ctrl_c_ends_it_cleanly(term: str) -> None:
    with on_terminal(term) as (program, ours):
        read_until("NODE-01", ours, program)
        program.send_signal(signal.SIGINT)
        rest = read_until("\0", ours, program)
        assert program.wait(60) == 130
        assert "Traceback" not in rest


def test_keys_kill_a_broker_and_end_it() -> None:
    with on_terminal("xterm") as (program, ours):
        read_until("q ends", ours, program)
        os.write(ours, b"2")
        assert "mq-2 is killed" in read_until("mq-2 is killed", ours, program)
        os.write(ours, b"q")
        assert "executed once" in read_until("\0", ours, program)
        assert program.wait(60) == 0
