"""The processes of the rig: each is started with a mark, by which it is ended whatever becomes of the rig."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from servicebus.testing.processes import MARK, is_alive

__all__ = ["AgentProcess", "LogServer", "Program", "RigError", "session"]

ROOT = Path(__file__).parent.parent.parent
_START_S = 120.0


class RigError(Exception):
    """Raised when the rig itself cannot go on; says nothing about the bus."""


class Program:
    """One program of this package in a process of its own; what it writes to stderr is kept in *folder*."""

    def __init__(self, folder: Path, module: str, name: str, orders: dict[str, Any]):
        self.folder = folder
        self.name = name
        self.module = module
        self.orders = orders
        self.mark = str(folder)
        """By which it is found and ended if the rig is killed."""
        self.process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<{self.module} {self.name} pid={self.pid}>"

    def start(self) -> None:
        self._spawn(["-m", f"tests.chaos.{self.module}", str(self.write_orders())])

    def write_orders(self) -> Path:
        path = self.folder / "orders" / f"{self.name}.json"
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(self.orders, indent=1))
        fresh.replace(path)
        return path

    def _spawn(self, arguments: list[str]) -> None:
        environment = {**os.environ, MARK: self.mark, "PYTHONPATH": str(ROOT)}
        with (self.folder / "logs" / f"{self.name}.log").open("ab") as log:
            # A session of its own: Ctrl-C is for the rig, which ends the others in its order.
            self.process = subprocess.Popen(
                [sys.executable, "-X", "faulthandler", *arguments], env=environment, cwd=ROOT,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        return self.process.pid if self.process is not None else 0

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def expect(self, text: str) -> str:
        """The next line on its standard output, which begins with *text*."""
        assert self.process is not None and self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], _START_S)
        line = self.process.stdout.readline().decode() if ready else ""
        if not line.startswith(text):
            raise RigError(f"{self.name} did not say {text!r} but {line!r}; see {self.folder}/logs/{self.name}.log")
        return line

    def said(self) -> str:
        """All that it has written to its standard output, once it has ended."""
        assert self.process is not None and self.process.stdout is not None
        return self.process.stdout.read().decode()

    def tell(self, text: str) -> None:
        assert self.process is not None and self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(text.encode())
            self.process.stdin.flush()

    def ask_to_end(self) -> None:
        """The end of its input tells it."""
        if self.process is not None and self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()

    def wait(self, timeout_s: float) -> int | None:
        """Its exit code; None if it still runs."""
        if self.process is None:
            return 0
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def signal(self, number: int) -> None:
        if self.process is not None:
            self.process.send_signal(number)

    def close(self) -> None:
        """End it at once."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    @property
    def state(self) -> dict[str, Any]:
        """What it has written to the file that its orders name; empty before it has."""
        try:
            document: dict[str, Any] = json.loads(Path(self.orders["state"]).read_text())
        except (OSError, ValueError):
            return {}
        return document


class AgentProcess(Program):
    """One agent: a master and its workers, which are asked for at its status socket."""

    def __init__(self, folder: Path, name: str, orders: dict[str, Any]):
        super().__init__(folder, "agent_program", name, orders)

    def status(self) -> dict[str, Any]:
        """The document of its status socket; empty while there is none."""
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(2.0)
            try:
                asking.connect(self.orders["configuration"]["status_socket"])
                answer = b"".join(iter(lambda: asking.recv(65536), b""))
                document: dict[str, Any] = json.loads(answer) if answer else {}
            except (OSError, ValueError):
                return {}
        return document

    def workers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.status().get("workers", [])
        return found

    def worker_pids(self, host: str = "") -> list[int]:
        """Of living workers, of *host* or of all."""
        return [w["pid"] for w in self.workers() if w.get("pid") and (not host or w.get("host") == host)]

    def wait_green(self, timeout_s: float) -> bool:
        """Wait until all of its workers say that they consume."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            workers = self.workers()
            if workers and all(worker.get("healthy") for worker in workers):
                return True
            if not self.is_running:
                raise RigError(f"agent {self.name} ended; see {self.folder}/logs/{self.name}.log")
            time.sleep(0.1)
        return False

    def hang_up(self, timeout_s: float) -> None:
        """HUP, once it answers: it would end one that is starting, and has not set its handler yet.

        Raises:
            RigError: it does not answer.
        """
        deadline = time.monotonic() + timeout_s
        while not self.status():
            if time.monotonic() > deadline:
                raise RigError(f"agent {self.name} does not answer within {timeout_s:g} s")
            time.sleep(0.1)
        self.signal(signal.SIGHUP)

    def roll(self, timeout_s: float) -> None:
        """TERM, and a new one when it has drained."""
        self.signal(signal.SIGTERM)
        if self.wait(timeout_s) is None:
            raise RigError(f"agent {self.name} did not end within {timeout_s:g} s of a TERM")
        self.close()
        self.start()

    def close(self) -> None:
        """End it at once, with its workers: each of them is in the session of its master."""
        if self.process is None:
            return
        pids = [pid for pid in session(self.pid) if is_alive(pid)]
        super().close()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


class LogServer(Program):
    """``servicebus-logd``, writing to *file*."""

    def __init__(self, folder: Path, file: Path, secret: str, port: int):
        super().__init__(folder, "logging_service", "logd", {})
        self.file = file
        self.secret = secret
        self.port = port

    def start(self) -> None:
        secret_file = self.folder / "orders" / "log-secret"
        secret_file.write_text(self.secret + "\n")
        self._spawn(
            ["-m", "logging_service", "--file", str(self.file), "--port", str(self.port),
             "--secret-file", str(secret_file)]
        )  # fmt: skip
        self.expect("")


def session(leader: int) -> list[int]:
    """The processes of the session that *leader* leads, itself included; they may be its orphans."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
                if int(fields[3]) == leader:
                    found.append(int(entry.name))
    return found
