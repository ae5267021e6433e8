"""A peer's process with its children: orders to it, what it says, what it uses, and its end."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil


class PeerFailed(RuntimeError):
    """Raised when a peer's process ended, said nothing, or said something else."""


class Child:
    """In a process group of its own. A client gets orders and answers them; a server does neither."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], folder: Path, name: str, *, is_client: bool
    ):
        self.name = name
        self._log_path = folder / f"{name}.log"
        here = folder / name
        here.mkdir(exist_ok=True)
        pipe = subprocess.PIPE
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=dict(environment), cwd=here, start_new_session=True, stderr=log,
                stdin=pipe if is_client else subprocess.DEVNULL, stdout=pipe if is_client else log,
            )  # fmt: skip
        self._ps = psutil.Process(self._process.pid)
        self._said: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        if is_client:
            threading.Thread(target=self._listen, daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    @property
    def log_tail(self) -> str:
        """The end of what it wrote to stderr."""
        return self._log_path.read_text(errors="replace")[-1500:]

    def order(self, **fields: Any) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # expect() will tell that it ended
            self._process.stdin.write((json.dumps(fields) + "\n").encode())
            self._process.stdin.flush()

    def expect(self, kind: str, timeout_s: float) -> dict[str, Any]:
        """The next thing that it says, which must be *kind*."""
        try:
            said = self._said.get(timeout=timeout_s)
        except queue.Empty:
            raise PeerFailed(f"{self.name} said nothing for {timeout_s:g} s") from None
        if said is None:
            raise PeerFailed(f"{self.name} ended: {self._last_line()}")
        if said["kind"] != kind:
            raise PeerFailed(f"{self.name} said {said} instead of {kind}")
        return said

    def tree(self) -> list[psutil.Process]:
        """It and its children."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return [self._ps, *self._ps.children(recursive=True)]
        return []

    def cpu_s(self) -> float:
        """User and system seconds of its tree, children that have ended included."""
        total = 0.0
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
        return total

    def memory_mib(self) -> float:
        """Resident memory of its tree, shared pages counted once."""
        total = 0
        for process in self.tree():
            with contextlib.suppress(psutil.Error):
                total += process.memory_full_info().pss
        return total / 2**20

    def stop(self, grace_s: float = 3.0) -> None:
        """TERM, and after *grace_s* kill -9 to what is left of its group."""
        if self.is_running:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(grace_s)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(b"@"):
                self._said.put(json.loads(line[1:]))
        self._said.put(None)

    def _last_line(self) -> str:
        lines = self.log_tail.strip().splitlines()
        return lines[-1] if lines else "it wrote nothing"
