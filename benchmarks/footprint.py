"""Footprint: what processes and a broker hold, and whether it grows."""

from __future__ import annotations

import gc
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

from benchmarks.figures import Figure
from servicebus.testing import Broker

SETTLES_IN_S = 20.0
MEMORY = "memory KiB"
OBJECTS = "Python objects"
_IN_BROKER = (
    "{length(rabbit_networking:connections()), length(rabbit_channel:list()), length(rabbit_amqqueue:list()),"
    " length(rabbit_amqqueue:consumers_all(<<$/>>)),"
    " lists:sum([M || Q <- rabbit_amqqueue:list(), [{messages, M}] <- [rabbit_amqqueue:info(Q, [messages])]])}."
)
_NAMES = ("connections", "channels", "queues", "consumers", "messages")


def own_kib(pid: int) -> int:
    """The private memory of process *pid*. The journal's mapped files are the kernel's to take back."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))


def held_by(broker: Broker) -> dict[str, int]:
    """What *broker* holds now, by name."""
    answer = broker.evaluate(_IN_BROKER)
    numbers = [int(number) for number in re.findall(r"\d+", answer)]
    if len(numbers) != len(_NAMES):
        raise SystemExit(f"{broker!r} does not say what it holds: {answer}")
    return dict(zip(_NAMES, numbers, strict=True))


class Footprint:
    """Compares what is held with what was held when it was made; ``figures`` are the differences found by ``check()``.

    Args:
        processes: pids by name; this process may be among them.
        memory_kib: how much the memory of each process may grow.
        objects: how many objects this process may have more than before.
    """

    def __init__(self, broker: Broker, processes: Mapping[str, int], *, memory_kib: int, objects: int):
        self._broker = broker
        self._processes = {name: psutil.Process(pid) for name, pid in processes.items()}
        self._limits = {MEMORY: memory_kib, OBJECTS: objects}
        self._base = self._look()
        self._growth: dict[str, list[float]] = {key: [] for key in self._base}

    def check(self) -> None:
        """Look again. What only takes a moment to go is waited for."""
        deadline = time.monotonic() + SETTLES_IN_S
        while True:
            growth = {key: count - self._base[key] for key, count in self._look().items()}
            if all(self._is_met(key, more) for key, more in growth.items()) or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        for key, more in growth.items():
            self._growth[key].append(more)

    @property
    def figures(self) -> list[Figure]:
        return [
            Figure(f"{key}, more than {self._base[key]}", max_limit=self._limit(key), unit="", samples=samples)
            for key, samples in self._growth.items()
        ]

    def _look(self) -> dict[str, int]:
        in_broker = held_by(self._broker)  # first: the first question opens files of this process
        found = {}
        for name, process in self._processes.items():
            sockets = process.net_connections(kind="inet")
            # One that is being closed is the kernel's; it has no file in the process any more.
            found[f"{name}: sockets"] = sum(each.fd != -1 for each in sockets)
            found[f"{name}: threads"] = process.num_threads()
            found[f"{name}: open files"] = process.num_fds()
            found[f"{name}: {MEMORY}"] = own_kib(process.pid)
            if process.pid == os.getpid():
                gc.collect()
                found[f"{name}: {OBJECTS}"] = len(gc.get_objects())
        found.update({f"broker: {name}": number for name, number in in_broker.items()})
        return found

    def _limit(self, key: str) -> int:
        return self._limits.get(key.partition(": ")[2], 0)

    def _is_met(self, key: str, more: float) -> bool:
        return more <= self._limit(key)
