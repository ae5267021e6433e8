"""A real agent for a benchmark: the program `servicebus run` in a process of its own, watched through its log."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from servicebus.configuration import Configuration

NODE = "BENCH-01"
ADD = f"{NODE}.math.add"
SLEEP = f"{NODE}.time.sleep"
SLEEPERS = 16
"""So many calls of SLEEP run at the same time in one worker."""

_SERVICES = [
    {"kind": "rpc", "category": "math", "name": "add", "target": "services:Add"},
    {"kind": "rpc", "category": "time", "name": "sleep", "target": "services:Sleep", "threads": SLEEPERS},
]
_PROGRAM = "from servicebus.cli.main import main; main()"


def settings(hosts: Sequence[str]) -> dict[str, Any]:
    """A configuration that leaves every time limit at its default. *hosts* are ``host:port``."""
    return {"hosts": list(hosts), "secret_token": "benchmark", "node_name": NODE}


def sender_configuration(hosts: Sequence[str]) -> Configuration:
    return Configuration(settings(hosts))


class Agent:
    """Runs from ``start()`` to ``stop()``; its log lines are timed by the agent itself, to the millisecond."""

    def __init__(self, folder: Path, hosts: Sequence[str]):
        self.log_path = folder / "agent.log"
        self._file = folder / "agent.yaml"
        self._file.write_text(yaml.safe_dump({**settings(hosts), "services": _SERVICES}))
        self._hosts = list(hosts)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Agent:
        self.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    def start(self) -> None:
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, "run", str(self._file)],
                cwd=Path(__file__).parent,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        for host in self._hosts:
            self.wait_for(f"{host}: consuming", since=0.0)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(45.0)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, 9)
                self._process.wait()

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
