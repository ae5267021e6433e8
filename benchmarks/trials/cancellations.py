"""Calls that are cancelled: how soon a handler sees it, and what they leave behind."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable
from contextlib import ExitStack

from benchmarks.agent import ADD, PATIENT, PATIENT_TASK, SLEEPERS, TASKS, Agent, place, sender_configuration
from benchmarks.figures import Figure
from benchmarks.footprint import Footprint
from benchmarks.trials import CHECKS
from benchmarks.trials.timeouts import left_behind
from benchmarks.waiting import counted
from servicebus.aio import AsyncSender
from servicebus.sender import Sender
from servicebus.testing import Broker

AT_ONCE = 2 * SLEEPERS
"""Half of them run when they are cancelled, half wait in the inbox of the service."""
HEARD_WITHIN_S = 120.0


def cancellations(brokers: list[Broker], count: int) -> list[Figure]:
    """*count* calls by tasks that are cancelled, to a handler of each kind in turn."""
    broker = brokers[0]
    with ExitStack() as stack:
        agent = stack.enter_context(Agent(broker.folder, [place(broker)], more=[TASKS]))
        sender = stack.enter_context(Sender(sender_configuration([place(broker)])))
        processes = {"agent": agent.pid, "worker": agent.worker_pid, "sender": os.getpid()}
        trial = Trial(agent, AsyncSender.of(sender))
        footprint = asyncio.run(trial.run(count, lambda: Footprint(broker, processes, memory_kib=8192, objects=500)))
        return [*trial.heard.values(), trial.wrong, *footprint.figures, *left_behind(sender, agent)]


class Trial:
    """Makes calls, cancels them, and compares the ledger's times with its own."""

    def __init__(self, agent: Agent, sender: AsyncSender):
        self.heard = {
            PATIENT: Figure("from cancel() to the def handler that runs", max_limit=0.2),
            PATIENT_TASK: Figure("from cancel() to the async def handler that runs", max_limit=0.2),
        }
        self.wrong = Figure("calls not right afterwards", max_limit=0, unit="")
        self._agent = agent
        self._sender = sender
        self._read = 0
        self._entries: dict[tuple[str, str], float] = {}
        """When what happened to which call."""

    async def run(self, count: int, look: Callable[[], Footprint]) -> Footprint:
        rounds = max(CHECKS + 1, count // AT_ONCE)
        footprint: Footprint | None = None
        for number in counted(f"cancellations, {AT_ONCE} calls each", rounds):
            await self._cancel_many(number)
            if number == rounds // CHECKS:
                footprint = look()
            elif footprint is not None and number % (rounds // CHECKS) == 0:
                footprint.check()
        assert footprint is not None
        footprint.check()
        return footprint

    async def _cancel_many(self, number: int) -> None:
        self._entries.clear()
        target = (PATIENT, PATIENT_TASK)[number % 2]
        params = [{"label": f"{number}-{each}"} for each in range(AT_ONCE)]
        calls = [asyncio.create_task(self._sender.call(target, each)) for each in params]
        await self._until(lambda: len(self._running(number)) >= SLEEPERS, "run")
        running = self._running(number)
        random.shuffle(calls)
        cancelled_at = time.monotonic()
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        await self._until(lambda: all(("cancelled", label) in self._entries for label in running), "saw it")
        self.heard[target].samples += [self._entries["cancelled", label] - cancelled_at for label in running]
        self.wrong.samples.append((await self._sender.call(ADD, [number, 1], timeout=30.0))[1] != number + 1)

    def _running(self, number: int) -> list[str]:
        return [label for kind, label in self._entries if kind == "started" and label.startswith(f"{number}-")]

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        """Read the ledger until *condition*."""
        deadline = time.monotonic() + HEARD_WITHIN_S
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not all handlers {what} within {HEARD_WITHIN_S:g} s: {self._entries}")
            await asyncio.sleep(0.002)
            with self._agent.ledger_path.open() as ledger:
                ledger.seek(self._read)
                text = ledger.read()
            self._read += len(text)
            for line in text.splitlines():
                kind, label, at = line.split()
                self._entries[kind, label] = float(at)
