"""py-servicebus 2.19 in the rig: its programs, started by its own interpreter and treated as those of ours are.

2.19 has no status socket, no health, no master that starts a dead worker again, and does not hand a TERM on. The rig
does for it what a good operator does: TERM to each worker, kill -9 of what does not end.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from servicebus.testing.processes import MARK, is_alive
from tests.chaos.processes import AgentProcess, Program

__all__ = ["OldAgentProcess", "OldSenderProgram", "old_python"]

CHAOS = Path(__file__).parent


def old_python() -> Path:
    """The interpreter that has 2.19; its environment is made at the first use, by pip."""
    sys.path.insert(0, str(CHAOS.parent / "fixtures"))
    from old219 import make_environment

    return make_environment()


class OldProgram(Program):
    """A program of this folder under the interpreter of 2.19."""

    def _spawn(self, arguments: list[str]) -> None:
        path = arguments[-1]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environment |= {MARK: self.mark, "PYTHONDONTWRITEBYTECODE": "1"}
        with (self.folder / "logs" / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(old_python()), "-X", "faulthandler", str(CHAOS / f"{self.module}.py"), path], env=environment,
                cwd=self.folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True,
            )  # fmt: skip


class OldSenderProgram(OldProgram):
    def __init__(self, folder: Path, name: str, orders: dict[str, Any]):
        super().__init__(folder, "old_sender_program", name, orders)

    def close(self) -> None:
        """End it at once, with its children."""
        children = _children(self.pid) if self.is_running else []
        super().close()
        _kill(children)


class OldAgentProcess(OldProgram, AgentProcess):
    def __init__(self, folder: Path, name: str, orders: dict[str, Any]):
        AgentProcess.__init__(self, folder, name, orders)
        self.module = "old_agent_program"
        self._was_whole = False

    def status(self) -> dict[str, Any]:
        """Only which process serves which host: 2.19 has nothing to say of its health."""
        path = Path(self.orders["configuration"]["status_socket"])
        found = []
        for note in path.parent.glob(f"{path.name}.*.worker"):
            with contextlib.suppress(OSError, ValueError):
                worker = json.loads(note.read_text())
                if is_alive(worker["pid"]):
                    found.append(worker)
        return {"workers": found}

    def wait_green(self, timeout_s: float) -> bool:
        """Wait until each of its workers has had its connection; later there is nothing to wait for, nor to ask."""
        hosts = self.orders["configuration"]["hosts"]
        count = sum(len(host.get("members", [host])) for host in hosts)
        self._was_whole = self._was_whole or _wait(lambda: len(self.workers()) >= count, timeout_s)
        return self._was_whole

    def signal(self, number: int) -> None:
        """To each worker: the parent would keep it to itself, and ends when they have."""
        _kill(self.worker_pids(), number)

    def roll(self, timeout_s: float) -> None:
        self.signal(signal.SIGTERM)
        self.wait(timeout_s)
        self.close()
        self.start()


def _wait(condition: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _kill(pids: list[int], number: int = signal.SIGKILL) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
