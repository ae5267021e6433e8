"""The history as it is written: by threads, through a fork, and through kill -9."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import histories  # noqa: F401  (tests/ on the path)
from waiting import wait_until

from tests.chaos.history import History, answer, files, op_number, read, read_file, sender_of

CHAOS = Path(__file__).resolve().parents[1] / "chaos"

KILLED = """
import sys
from history import History
history = History(sys.argv[1], "worker")
op = 0
while True:
    op += 1
    history.started(op, "id", 1)
"""


def test_every_record_of_every_thread_is_there(tmp_path: Path) -> None:
    history = History(tmp_path, "sender", "1")

    def write(number: int) -> None:
        for count in range(500):
            history.started(op_number(number, count), "id")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    (path,) = files(tmp_path)
    ops = [record["op"] for record in read_file(path) if record["what"] == "started"]
    assert sorted(ops) == [op_number(number, count) for number in range(1, 5) for count in range(500)]


def test_a_forked_child_writes_a_file_of_its_own(tmp_path: Path) -> None:
    history = History(tmp_path, "worker")
    history.started(1, "id")
    pid = os.fork()
    if not pid:
        history.started(2, "id")
        os._exit(0)
    os.waitpid(pid, 0)
    history.started(3, "id")
    assert sorted([r.get("op") for r in records if "op" in r] for _, records in read(tmp_path)) == [[1, 3], [2]]


def test_what_was_recorded_before_a_kill_9_is_read(tmp_path: Path) -> None:
    """Linux ends a write at a border of two pages when its process is killed: the last record may be cut off there."""
    # As a program for the interpreter of 2.19 does it: the module alone, without the package.
    with subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], env={"PYTHONPATH": str(CHAOS)}) as program:
        try:
            wait_until(lambda: any(path.stat().st_size >= 100_000 for path in files(tmp_path)))
        finally:
            program.kill()
    (path,) = files(tmp_path)
    ops = [record["op"] for record in read_file(path) if record["what"] == "started"]
    assert ops == list(range(1, len(ops) + 1))
    assert path.read_bytes().count(b'"started"') - len(ops) in (0, 1)


def test_an_op_tells_its_sender_and_its_answer() -> None:
    op = op_number(3, 42)
    assert sender_of(op) == 3
    assert answer(op) == answer(op) != answer(op + 1)
