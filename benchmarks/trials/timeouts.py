"""Calls that no agent answers in time, and what they leave behind."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

from benchmarks.agent import ADD, ENTER_MESSAGE, SLEEP, Agent, place, sender_configuration
from benchmarks.figures import Figure
from benchmarks.footprint import Footprint
from benchmarks.trials import CHECKS
from benchmarks.waiting import counted, until
from servicebus.errors import ServiceBusError
from servicebus.sender import Sender
from servicebus.testing import Broker

IN_FLIGHT = 256
SHORT_S = (0.02, 0.2)
STUCK_S = 4.0
"""The master takes a worker that is silent for 10 s for dead."""


def timeouts(brokers: list[Broker], count: int) -> list[Figure]:
    """Calls that a service does not answer in time, and calls to a node whose worker is stopped."""
    broker = brokers[0]
    with ExitStack() as stack:
        agent = stack.enter_context(Agent(broker.folder, [place(broker)]))
        sender = stack.enter_context(Sender(sender_configuration([place(broker)])))
        outlived = Figure("beyond a call's own limit")
        crowd = Crowd(sender, outlived)
        serves(sender, 0)  # connected: until then calls with such short limits end otherwise
        not_served = Figure("calls and messages not right afterwards", max_limit=0, unit="")
        footprint: Footprint | None = None
        rounds = min(CHECKS, count)
        for number in counted(f"timeouts, {count // rounds} calls each", rounds):
            if number % 2:
                crowd.call(SLEEP, [1.0, number], count // rounds)
            else:
                stuck(crowd, agent.worker_pid, count // rounds)
            not_served.samples.append(serves(sender, number))
            if number == min(2, rounds):  # it has seen both
                processes = {"agent": agent.pid, "worker": agent.worker_pid, "sender": os.getpid()}
                footprint = Footprint(broker, processes, memory_kib=8192, objects=max(500, count // 100))
            elif footprint is not None:
                footprint.check()
        assert footprint is not None
        kinds = [Figure(f"ended as {kind}", unit="", samples=[ends]) for kind, ends in sorted(crowd.ends.items())]
        hung = Figure("hung calls", max_limit=0, unit="", samples=[crowd.hung])
        return [*kinds, hung, outlived, not_served, *footprint.figures, *left_behind(sender, agent)]


class Crowd:
    """Makes many calls at once that must not be answered in time."""

    def __init__(self, sender: Sender, outlived: Figure):
        self.ends: Counter[str] = Counter()
        self.hung = 0
        self._sender = sender
        self._outlived = outlived
        self._room = threading.BoundedSemaphore(IN_FLIGHT)

    def call(self, address: str, params: Any, count: int, until_at: float = float("inf")) -> int:
        """*count* calls, or fewer if the time ``until_at`` comes first; returns how many, when all have ended."""
        made = 0
        while made < count and time.monotonic() < until_at:
            self._room.acquire()
            limit_s = random.uniform(*SHORT_S)
            started = time.monotonic()
            future = self._sender.call_async(address, params, timeout=limit_s)
            future.add_done_callback(partial(self._ended, started + limit_s))
            made += 1
        for taken in range(IN_FLIGHT):
            if not self._room.acquire(timeout=10.0):
                self.hung += IN_FLIGHT - taken
                raise TimeoutError(f"{IN_FLIGHT - taken} calls hang")
        self._room.release(IN_FLIGHT)
        return made

    def _ended(self, ends_at: float, future: Any) -> None:
        error = future.exception()
        self.ends["answered" if error is None else type(error).__name__] += 1
        self._outlived.samples.append(max(0.0, time.monotonic() - ends_at))
        self._room.release()


def stuck(crowd: Crowd, pid: int, count: int) -> None:
    """Stop the worker, and call it meanwhile, in as many measurements as it takes."""
    while count > 0:
        os.kill(pid, signal.SIGSTOP)
        try:
            count -= crowd.call(ADD, [1, 2], count, time.monotonic() + STUCK_S)
        finally:
            os.kill(pid, signal.SIGCONT)
        time.sleep(1.0)  # let it beat


def serves(sender: Sender, number: int) -> int:
    """How many of a few calls and messages are not right."""
    wrong = 0
    for each in range(20):
        try:
            wrong += sender.call(ADD, [number, each], timeout=30.0)[1] != number + each
            sender.send(ENTER_MESSAGE, [f"message-{number}-{each}", 0.0], timeout=30.0)
        except ServiceBusError as error:
            print(f"afterwards: {error!r}", file=sys.stderr)
            wrong += 1
    return wrong


def left_behind(sender: Sender, agent: Agent) -> list[Figure]:
    """What Sender and agent say of themselves."""
    with suppress(TimeoutError):
        until(lambda: agent.workers()[0]["backlog"] == 0, "an empty inbox", 10.0)
        time.sleep(2.0)  # a worker tells its state once a second
    worker, status = agent.workers()[0], sender.status()
    unfinished = status["travelling"] + status["waiting"]
    print(f"the worker: {worker}\nthe Sender: {status}", file=sys.stderr)
    return [
        Figure("requests unfinished in the Sender", max_limit=0, unit="", samples=[unfinished]),
        Figure("calls in the inboxes of the worker", max_limit=0, unit="", samples=[worker["backlog"]]),
        Figure("ids unfinished in the journal", max_limit=0, unit="", samples=[worker["journal"]["unfinished"]]),
        *(Figure(f"worker counted: {kind}", unit="", samples=[n]) for kind, n in sorted(worker["counters"].items())),
    ]
