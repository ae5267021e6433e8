"""One side of the comparison: a node and a caller of one revision, each in processes of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.suite.growth.nodes import Node, Order, common, running

PROGRAM = Path(__file__).resolve().parent.parent / "programs" / "caller.py"
PHASES = ("sequential", "64 in flight", "messages")
_STOP_S = 10.0


class Side:
    """Both are stopped while the other side is measured."""

    def __init__(self, name: str, node: Node, caller: subprocess.Popen[str]):
        self.name = name
        self._node = node
        self._caller = caller

    def __repr__(self) -> str:
        return f"<Side {self.name}>"

    def measure(self, phase: str, seconds: float) -> tuple[float, float]:
        """Calls or messages a second; microseconds of CPU that the caller and the node took for each.

        Raises:
            RuntimeError: the caller has ended; stderr says why.
        """
        before_s = self._cpu_s()
        assert self._caller.stdin is not None
        assert self._caller.stdout is not None
        self._caller.stdin.write(json.dumps([phase, seconds]) + "\n")
        self._caller.stdin.flush()
        answer = self._caller.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.name}: the caller ended with status {self._caller.wait(_STOP_S)}")
        found: dict[str, Any] = json.loads(answer)
        count = float(found["count"])
        return count / float(found["seconds"]), 1e6 * (self._cpu_s() - before_s) / count

    def memory_mb(self) -> float:
        """Resident: the node's master and worker, and the caller."""
        return sum(process.memory_info().rss for process in self._processes()) / 1e6

    def _cpu_s(self) -> float:
        times = [process.cpu_times() for process in self._processes()]
        return sum(each.user + each.system for each in times)

    def _processes(self) -> list[psutil.Process]:
        return [*self._node.processes(), psutil.Process(self._caller.pid)]

    def freeze(self) -> None:
        self._node.freeze()
        os.kill(self._caller.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        self._node.thaw()
        os.kill(self._caller.pid, signal.SIGCONT)


@contextmanager
def sides(pythons: dict[str, Path], hosts: Sequence[str], folder: Path) -> Iterator[list[Side]]:
    """A side for each of *pythons*, all on the same broker, all serving."""
    # Of the environment's servicebus, never of the one that lies where we were started.
    isolated = {"PYTHONPATH": "", "PYTHONSAFEPATH": "1"}
    orders = [
        Order(
            name.upper(),
            hosts,
            calls={"math.add": "Add", "audit.handled": "Count"},
            messages={"audit.count": "Count"},
            python=str(python),
            environment=isolated,
        )
        for name, python in pythons.items()
    ]
    callers = []
    with running(orders, folder) as nodes:
        try:
            for node, python in zip(nodes, pythons.values(), strict=True):
                order = {"config": {**common(hosts), "node_name": "CALLER"}, "node": node.name}
                callers.append(
                    subprocess.Popen(
                        [str(python), str(PROGRAM), json.dumps(order)],
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        text=True,
                        env={**os.environ, **isolated},
                    )
                )
            yield [Side(*each) for each in zip(pythons, nodes, callers, strict=True)]
        finally:
            for caller in callers:
                _end(caller)


def _end(caller: subprocess.Popen[str]) -> None:
    caller.kill()
    caller.communicate(timeout=_STOP_S)
