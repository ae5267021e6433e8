"""A real agent for a benchmark: the program `servicebus run` in a process of its own, watched through its log."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from servicebus.configuration import Configuration
from servicebus.testing import Broker

NODE = "BENCH-01"
ADD = f"{NODE}.math.add"
SLEEP = f"{NODE}.time.sleep"
PATIENT = f"{NODE}.time.patient"
PATIENT_TASK = f"{NODE}.task.patient"
"""The same as an ``async def`` function, of an agent that has the group ``TASKS``."""
ENTER_CALL = f"{NODE}.ledger.call"
ENTER_MESSAGE = f"{NODE}.ledger.message"
SLEEPERS = 16
"""So many calls of SLEEP, or of PATIENT, run at the same time in one worker."""
LEDGER = "BENCH_LEDGER"
"""In the agent's environment: the file in which executions are entered."""

ROOT = Path(__file__).parent.parent
"""Of the repository."""
_OWN = "benchmarks.services"
TASKS = {"group": "benchmarks.tasks:group"}
_SERVICES = [
    {"kind": "rpc", "category": "math", "name": "add", "target": f"{_OWN}:Add"},
    {"kind": "rpc", "category": "time", "name": "sleep", "target": f"{_OWN}:Sleep", "threads": SLEEPERS},
    {"kind": "rpc", "category": "time", "name": "patient", "target": f"{_OWN}:Patient", "threads": SLEEPERS},
    {"kind": "rpc", "category": "ledger", "name": "call", "target": f"{_OWN}:Enter", "threads": SLEEPERS},
    {"kind": "message", "category": "ledger", "name": "message", "target": f"{_OWN}:Enter", "threads": SLEEPERS},
]
_START_S = 90.0
"""On a machine that does much else, too."""
_PROGRAM = "from servicebus.cli.main import main; main()"


def settings(hosts: Sequence[str]) -> dict[str, Any]:
    """A configuration that leaves every time limit at its default. *hosts* are ``host:port``."""
    return {"hosts": list(hosts), "secret_token": "benchmark", "node_name": NODE}


def sender_configuration(hosts: Sequence[str], **changed: Any) -> Configuration:
    return Configuration({**settings(hosts), **changed})


def place(broker: Broker) -> str:
    """As a configuration names it."""
    return f"{broker.host}:{broker.port}"


class Agent:
    """Runs from ``start()`` to ``stop()``; its log lines are timed by the agent itself, to the millisecond.

    Agents in one folder share the journal, as those of one node on one machine do. *more* services are those of a
    configuration, *changed* its other keys.
    """

    program: Sequence[str] = ("-c", _PROGRAM, "run")
    """What runs its file."""

    def __init__(
        self,
        folder: Path,
        hosts: Sequence[str],
        name: str = "agent",
        more: Sequence[dict[str, Any]] = (),
        **changed: Any,
    ):
        self.log_path = folder / f"{name}.log"
        self.ledger_path = folder / "ledger"
        self.status_path = folder / f"{name}.status"
        self.path = folder / f"{name}.yaml"
        self.code = ROOT
        """Where the package ``servicebus`` lies that it runs; at its next start."""
        # Not where agents keep them by default: runs at the same time, or one after another, would share them.
        own = {"journal": str(folder / "journal"), "status_socket": str(self.status_path)}
        self._settings = {**settings(hosts), **own, **changed, "services": [*_SERVICES, *more]}
        self.write()
        self._hosts = list(hosts)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Agent:
        self.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def worker_pid(self) -> int:
        """Of the first one."""
        return int(self.workers()[0]["pid"])

    def start(self) -> None:
        started_at = time.time() - 0.001  # a line of the log has whole milliseconds
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *self.program, str(self.path)],
                cwd=self.code,
                env={**os.environ, LEDGER: str(self.ledger_path), "PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        for host in self._hosts:
            self.wait_for(f"{host}: consuming", since=started_at, timeout_s=_START_S)

    def stop(self) -> int:
        """TERM, and wait; returns the exit status."""
        if self._process is None:
            return 0
        self._process.terminate()
        try:
            return self._process.wait(45.0)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, 9)
            return self._process.wait()

    def write(self, **changed: Any) -> None:
        """Write its file again, with some settings *changed*."""
        self._settings.update(changed)
        self.path.write_text(yaml.safe_dump(self._settings))

    def workers(self) -> list[dict[str, Any]]:
        """What its workers say of themselves: pid, state, health, backlog, counters, journal."""
        with socket.socket(socket.AF_UNIX) as caller:
            caller.settimeout(5.0)
            caller.connect(str(self.status_path))
            answer = b"".join(iter(lambda: caller.recv(65536), b""))
        return list(json.loads(answer)["workers"])

    def wait_for(self, text: str, *, since: float, timeout_s: float = 30.0) -> float:
        """When (Unix time) the agent first logged *text* at *since* or later.

        Raises:
            TimeoutError: it did not within *timeout_s* from now.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            for line in self.log_path.read_text(errors="replace").splitlines():
                if text in line and (at := _logged_at(line)) is not None and at >= since:
                    return at
            time.sleep(0.01)
        tail = "\n".join(self.log_path.read_text(errors="replace").splitlines()[-15:])
        raise TimeoutError(f"the agent did not log {text!r} within {timeout_s:g} s\n{tail}")


def _logged_at(line: str) -> float | None:
    try:
        return datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f").timestamp()
    except ValueError:
        return None  # a line of a traceback
