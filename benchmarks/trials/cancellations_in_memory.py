"""The cancellations of cancellations.py on a bus in memory, whose own clock says how soon a handler sees one."""

from __future__ import annotations

import asyncio
import gc
import time

from benchmarks.figures import Figure
from benchmarks.trials import CHECKS
from benchmarks.waiting import counted
from servicebus.services import Request
from servicebus.testing import Broker, MemoryBus, bus
from servicebus.typed import Services

AT_ONCE = 16
WITHIN_S = 0.2
KINDS = ("def", "async")


def make_group(ended: list[str]) -> Services:
    """Functions that run until their callers have given up, and put that into *ended*."""
    group = Services("patient")

    @group.rpc(name="def", threads=AT_ONCE)
    def of_thread(label: str, request: Request) -> None:
        while not request.cancelled:
            time.sleep(0.01)
        ended.append(label)

    @group.rpc(name="async", tasks=AT_ONCE)
    async def of_task(label: str) -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            ended.append(label)
            raise

    @group.rpc
    def add(a: int, b: int) -> int:
        return a + b

    return group


def cancellations_in_memory(_brokers: list[Broker], count: int) -> list[Figure]:
    """*count* calls that are cancelled, by a handler of each kind in turn."""
    unheard = {
        kind: Figure(f"{kind}: not heard within {WITHIN_S:g} s", max_limit=0, unit="") for kind in ("def", "async")
    }
    wrong = Figure("calls not right afterwards", max_limit=0, unit="")
    left = Figure("requests left in Sender and node", max_limit=0, unit="")
    grown = Figure("Python objects, more than after the first tenth", max_limit=1000, unit="")
    ended: list[str] = []
    base = 0
    with bus(make_group(ended)) as world:
        rounds = max(2 * CHECKS, count // AT_ONCE)
        for number in counted(f"cancellations in memory, {AT_ONCE} calls each", rounds):
            kind = KINDS[number % 2]
            labels = [f"{number}-{each}" for each in range(AT_ONCE)]
            calls = [world.sender.call_async(f"NODE-01.patient.{kind}", [label]) for label in labels]
            for call in calls:
                call.cancel()
            world.advance(WITHIN_S)
            unheard[kind].samples.append(len(set(labels) - set(ended)))
            wrong.samples.append(world.sender.call("NODE-01.patient.add", [number, 1])[1] != number + 1)
            left.samples.append(world.sender.status()["travelling"] + world.node.has_unfinished())
            ended.clear()
            if number % (rounds // CHECKS) == 0:
                base = base or objects(world)
                grown.samples.append(objects(world) - base)
    return [*unheard.values(), wrong, left, grown]


def objects(world: MemoryBus) -> int:
    """How many there are, but for the entries of the history, which a bus keeps to its end."""
    gc.collect()
    return len(gc.get_objects()) - len(world.history)
