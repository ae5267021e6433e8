"""Real nodes in processes of their own, with services as many and as slow as a measurement wants them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from servicebus.configuration import Configuration
from servicebus.testing import Broker

PROGRAM = Path(__file__).resolve().parent.parent / "programs" / "node.py"
SECRET = "benchmark"
_READY_S = 180.0
_STOP_S = 10.0


@dataclass(frozen=True)
class Order:
    """What a node is to be. *hosts* are ``host:port``; services are given as ``category.name`` and kind."""

    name: str
    hosts: Sequence[str]
    calls: Mapping[str, str] = field(default_factory=lambda: {"math.add": "Add"})
    messages: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    python: str = sys.executable
    environment: Mapping[str, str] = field(default_factory=dict)


class Node:
    """Runs from ``launch()`` to ``stop()``; what it logs lies in *folder*, and so do its journal and status socket."""

    def __init__(self, order: Order, folder: Path):
        self.order = order
        self.name = order.name
        self._folder = folder
        self._status = folder / f"{order.name}.status"
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<Node {self.name} pid {self._process.pid if self._process else 0}>"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> Path:
        return self._folder / f"{self.name}.log"

    def address(self, service: str = "math.add") -> str:
        return f"{self.name}.{service}"

    def launch(self) -> None:
        """Start its processes and do not wait, so that several start at the same time."""
        settings = {
            **common(self.order.hosts),
            "node_name": self.name,
            "status_socket": str(self._status),
            "journal": str(self._folder / f"{self.name}.journal"),
            "drain_timeout": 0.0,
            **self.order.settings,
        }
        told = {"config": settings, "calls": dict(self.order.calls), "messages": dict(self.order.messages)}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [self.order.python, str(PROGRAM), json.dumps(told)],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **self.order.environment},
                start_new_session=True,
            )

    def wait_ready(self) -> None:
        """Until every worker serves every subscription.

        Raises:
            RuntimeError: it ended, or did not within three minutes.
        """
        deadline = time.monotonic() + _READY_S
        wanted = len(self.order.hosts) * int(self.order.settings.get("workers_per_host", 1))
        assert self._process is not None
        while sum(bool(worker.get("healthy")) for worker in self.workers()) < wanted:
            if self._process.poll() is not None or time.monotonic() > deadline:
                tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-10:])
                raise RuntimeError(f"node {self.name} did not come up\n{tail}")
            time.sleep(0.05)

    def workers(self) -> list[dict[str, Any]]:
        """The status of its workers; empty while no agent answers."""
        with socket.socket(socket.AF_UNIX) as caller:
            caller.settimeout(5.0)
            try:
                caller.connect(str(self._status))
                answer = b"".join(iter(lambda: caller.recv(65536), b""))
                return list(json.loads(answer)["workers"])
            except (OSError, ValueError):
                return []

    def processes(self) -> list[psutil.Process]:
        """The master and its workers."""
        master = psutil.Process(self.pid)
        return [master, *master.children(recursive=True)]

    def freeze(self) -> None:
        """Stop it for a moment; for longer than some seconds its broker and its master would take note."""
        os.killpg(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.killpg(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()


@contextmanager
def running(orders: Sequence[Order], folder: Path) -> Iterator[list[Node]]:
    """The nodes, all of them serving."""
    nodes = [Node(order, folder) for order in orders]
    try:
        for node in nodes:
            node.launch()
        for node in nodes:
            node.wait_ready()
        yield nodes
    finally:
        for node in nodes:
            node.stop()


def common(hosts: Sequence[str]) -> dict[str, Any]:
    """What nodes and their callers have in common: everything else stands at its default."""
    return {"hosts": list(hosts), "secret_token": SECRET}


def sender_configuration(hosts: Sequence[str], **changed: Any) -> Configuration:
    return Configuration({**common(hosts), "node_name": "CALLER", **changed})


def host(broker: Broker) -> str:
    return f"{broker.host}:{broker.port}"
