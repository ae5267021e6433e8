"""One measured phase: calls for some time, and what one of them cost the caller, the nodes and the brokers."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from typing import Any

import psutil

from benchmarks.suite.growth.nodes import Node
from servicebus.errors import ServiceBusError
from servicebus.sender import Sender
from servicebus.testing import Broker

WIDTH = 64
_WARM_S = 0.2
LIMIT_S = 60.0

Ask = tuple[str, Any, Any]
"""Address, params, and the right answer."""
ADD: tuple[Any, Any] = ([1, 2], 3)


class Costs:
    """Counts the CPU time of processes while calls are made."""

    def __init__(self, nodes: Sequence[Node], brokers: Sequence[Broker]):
        self._groups = {
            "client": [psutil.Process(os.getpid())],
            "node": [process for node in nodes for process in node.processes()],
            "broker": [psutil.Process(broker.pid) for broker in brokers],
        }

    def measure(self, calls: Callable[[float], int], seconds: float) -> dict[str, float]:
        """Microseconds for each call: on the clock, and of the CPU of each group.

        Raises:
            RuntimeError: a call failed, or its answer was wrong.
        """
        try:
            calls(_WARM_S)
            before, started = self._cpu_s(), time.perf_counter()
            count = calls(seconds)
            spent_s = time.perf_counter() - started
        except ServiceBusError as error:
            raise RuntimeError(f"a call failed: {error}") from error
        after = self._cpu_s()
        cpu = {f"{name}_us": (after[name] - before[name]) / count * 1e6 for name in before}
        return {"us": spent_s / count * 1e6, "per_s": count / spent_s, **cpu, "cpu_us": sum(cpu.values())}

    def _cpu_s(self) -> dict[str, float]:
        return {name: sum(map(cpu_s, processes)) for name, processes in self._groups.items()}


def cpu_s(process: psutil.Process) -> float:
    """CPU seconds that it has used; 0 for one that has ended."""
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def one_by_one(sender: Sender, asks: Sequence[Ask]) -> Callable[[float], int]:
    def calls(seconds: float) -> int:
        turn = cycle(asks)
        return _call_until(sender, turn, time.perf_counter() + seconds)

    return calls


def in_flight(sender: Sender, asks: Sequence[Ask], width: int = WIDTH) -> Callable[[float], int]:
    """*width* calls at a time, each time the oldest is waited for."""

    def calls(seconds: float) -> int:
        turn, count = cycle(asks), 0
        end = time.perf_counter() + seconds
        pending = deque(_begin(sender, next(turn)) for _ in range(width))
        while pending:
            future, right = pending.popleft()
            _check(future.result(LIMIT_S)[1], right)
            count += 1
            if time.perf_counter() < end:
                pending.append(_begin(sender, next(turn)))
        return count

    return calls


def in_threads(sender: Sender, asks: Sequence[Ask], width: int) -> Callable[[float], int]:
    """*width* threads, each with one call at a time."""

    def calls(seconds: float) -> int:
        counts: list[int] = []
        errors: list[BaseException] = []
        end = time.perf_counter() + seconds

        def work(first: int) -> None:
            turn = cycle([*asks[first % len(asks) :], *asks[: first % len(asks)]])
            try:
                counts.append(_call_until(sender, turn, end))
            except (ServiceBusError, RuntimeError) as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(index,)) for index in range(width)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise RuntimeError(f"{len(errors)} of {width} threads failed: {errors[0]}") from errors[0]
        return sum(counts)

    return calls


def _call_until(sender: Sender, turn: Iterator[Ask], end: float) -> int:
    count = 0
    while True:
        address, params, right = next(turn)
        _check(sender.call(address, params, timeout=LIMIT_S)[1], right)
        count += 1
        if time.perf_counter() >= end:
            return count


def _begin(sender: Sender, ask: Ask) -> tuple[Any, Any]:
    address, params, right = ask
    return sender.call_async(address, params, timeout=LIMIT_S), right


def _check(answer: Any, right: Any) -> None:
    if answer != right:
        raise RuntimeError(f"wrong answer: {answer!r:.60}, not {right!r:.60}")
