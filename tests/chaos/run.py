"""One run, from the first broker to the result: load, faults, healing, draining, counting, checking."""

from __future__ import annotations

import contextlib
import re
import signal
import threading
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from servicebus.errors import ServiceBusError
from servicebus.wire.signing import Keyring
from tests.chaos.caretaker import Caretaker
from tests.chaos.checker import CheckResult, check
from tests.chaos.dead_letters import take_dead_letters
from tests.chaos.display import Display
from tests.chaos.faults import FaultMissed, apply
from tests.chaos.health import HealthPoller
from tests.chaos.history import History
from tests.chaos.plan import SECRET, Plan
from tests.chaos.processes import Program, RigError
from tests.chaos.resources import (
    Processors,
    agent_resources,
    broker_resources,
    open_publishers,
    queue_lengths,
    sender_resources,
)
from tests.chaos.schedule import Fault, schedule
from tests.chaos.what import Asked, WhatCheck, ask, check_what, draw
from tests.chaos.world import World

__all__ = ["Run"]

_SENDERS_END_S = 60.0
_DRAINED_S = 90.0
_SETTLED_S = 100.0
_AGENTS_END_S = 30.0
_HEALED_S = 120.0
_LOG_LINE = re.compile(r"record \d+ of (sender-\d+)$")


class Run:
    """A run of *plan* whose history and logs lie in *folder*."""

    def __init__(self, plan: Plan, kinds: Sequence[str], folder: Path):
        self.plan = plan
        self.folder = folder
        self.faults = schedule(plan.seed, plan.minutes, kinds, plan.targets)
        self.display = Display(plan.minutes * 60)
        self.dead_letters: Counter[str] = Counter()
        self.missed: list[str] = []
        self.busy = 0.0
        """The machine, while there was load."""
        self._world = World(plan, folder)
        self._caretaker = Caretaker(self._world)
        self._active: dict[int, str] = {}
        self._breaking: list[threading.Thread] = []
        self._failures: list[str] = []
        self._stopping = threading.Event()
        self._drawn: list[Asked] = []
        self._told: dict[str, Any] = {}
        self.what = WhatCheck()

    def go(self) -> CheckResult:
        """Do it all; the world is gone when this returns.

        Raises:
            RigError: the rig could not do its part; that says nothing about the bus.
        """
        try:
            self._live()
        finally:
            self._end_world()
        self.display.say("checking the history")
        result = check(self._world.history_folder)
        if self._drawn:
            self.what = check_what(result.story, self._drawn, self._told)
        return result

    def _end_world(self) -> None:
        # Somebody who is impatient would leave half of it behind.
        with contextlib.suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.display.say("ending the world")
        self._stopping.set()
        self._caretaker.stop()
        for thread in self._breaking:
            thread.join(_HEALED_S)  # one that starts a broker must not do so when the others are gone
        self._world.close()

    def _live(self) -> None:
        world, display = self._world, self.display
        world.prepare()
        hosts, nodes = len(world.plan.targets.hosts), len(world.plan.nodes)
        display.say(f"{hosts} hosts, {nodes} agents, {world.plan.senders} senders are started in {world.home}")
        world.open()
        history = History(world.history_folder, "rig", "run")
        if not self.plan.is_old:
            open_publishers(world)
        base = self._resources("base")
        display.say(f"{len(self.faults)} faults in {self.plan.minutes:g} minutes, seed {self.plan.seed}")
        stalls = Program(world.folder, "stall_program", "stall", {"history": str(world.history_folder)})
        world.start(stalls)
        health = HealthPoller(world)
        health.start()
        self._caretaker.start()
        world.begin_load()
        display.begin()
        processors = Processors()
        self._break_things()
        self.busy = processors.busy
        display.say("faults are over, waiting for the world to be whole")
        self._wait_whole()
        self._caretaker.stop()
        display.say("senders stop")
        self._end_senders()
        lengths = self._drain()
        health.stop()
        self._settle(base)
        history.base({**base, **sender_resources(world, "base")})
        history.end({**self._resources("end"), **sender_resources(world, "end")}, lengths)
        self._ask_what()
        self._take_dead_letters(history)
        self._end_agents()
        stalls.ask_to_end()
        stalls.wait(5.0)
        self._read_log(history)
        history.ended()

    # -- faults --------------------------------------------------------------------------------------------------------

    def _break_things(self) -> None:
        history = History(self._world.history_folder, "faults")
        began = time.monotonic()
        waiting = list(enumerate(self.faults))
        while (gone_s := time.monotonic() - began) < self.plan.minutes * 60:
            while waiting and waiting[0][1].at_s <= gone_s:
                number, fault = waiting.pop(0)
                thread = threading.Thread(target=self._break, args=(history, number, fault), name=f"fault-{number}")
                thread.start()
                self._breaking.append(thread)
            self._look_after()
            time.sleep(0.1)
        for thread in self._breaking:
            thread.join(_HEALED_S)
        self._look_after()
        history.ended()

    def _break(self, history: History, number: int, fault: Fault) -> None:
        what = f"{fault.kind} {fault.target}"
        self._active[number] = what
        history.fault_begin(number, fault.kind, fault.target)
        try:
            with apply(self._world, fault):
                self._stopping.wait(fault.duration_s)
        except FaultMissed as missed:
            self.missed.append(str(missed))
        except (ServiceBusError, RigError, OSError, TimeoutError) as error:
            if not self._stopping.is_set():
                self._failures.append(f"{what}: {error}")
        except Exception:
            self._failures.append(f"{what}: {traceback.format_exc()}")
        finally:
            history.fault_end(number, fault.kind, fault.target)
            del self._active[number]

    def _look_after(self) -> None:
        """What would make the rest of the run worthless ends it."""
        world = self._world
        self.display.show(world.counts(), list(self._active.values()))
        if self._failures:
            raise RigError("; ".join(self._failures))
        for program in world.loads:
            if not program.is_running:
                raise RigError(f"{program.name} ended; see {world.folder}/logs/{program.name}.log")

    # -- afterwards ----------------------------------------------------------------------------------------------------

    def _wait_whole(self) -> None:
        world = self._world
        if world.cluster is not None:
            world.cluster.wait_whole(_HEALED_S)
        for agent in world.agents.values():
            if not agent.wait_green(_HEALED_S):
                raise RigError(f"agent {agent.name} is not well again: {agent.workers()}")

    def _end_senders(self) -> None:
        world = self._world
        for program in world.loads:
            program.ask_to_end()
        deadline = time.monotonic() + _SENDERS_END_S
        for program in world.loads:
            if program.wait(max(0.1, deadline - time.monotonic())) is None:
                self.display.say(f"{program.name} does not end")
                program.close()

    def _drain(self) -> dict[str, int]:
        """Wait until nothing waits anywhere; what does so at the end of patience."""
        self._world.wait(lambda: not any(queue_lengths(self._world).values()), _DRAINED_S)
        lengths = queue_lengths(self._world)
        outboxes = {f"outbox of {sender.name}": sender.state.get("outbox", 0) for sender in self._world.senders}
        return {**lengths, **outboxes}

    def _settle(self, base: dict[str, int]) -> None:
        """Connections that were abandoned live on at the broker for two heartbeats, and left queues for a minute."""

        def is_settled() -> bool:
            now = self._resources("end")
            return all(now[name] <= count for name, count in base.items())

        self._world.wait(is_settled, _SETTLED_S)

    def _resources(self, _when: str) -> dict[str, int]:
        return {**broker_resources(self._world), **agent_resources(self._world)}

    def _ask_what(self) -> None:
        """Of what became of ids, while all who know can be asked."""
        plan, world = self.plan, self._world
        if plan.what:
            self.display.say(f"servicebus what is asked for {plan.what} ids")
            self._drawn = draw(world.history_folder, plan.what, plan.seed)
            callers = {"callers": world.orders.keys.section()}
            configuration = world.orders.configuration(**callers)
            self._told = ask(self._drawn, configuration, plan.nodes, self.folder)

    def _take_dead_letters(self, history: History) -> None:
        if self.plan.is_old:  # it knows none
            return
        keyring = Keyring([SECRET, *self._world.orders.keys.ever])
        for _host, endpoint in self._world.each_host():
            for node in self.plan.nodes:
                if endpoint is not None:
                    self.dead_letters += take_dead_letters(endpoint.broker, node, keyring, history)

    def _end_agents(self) -> None:
        if (bridge := self._world.bridge) is not None:
            bridge.signal(signal.SIGTERM)
            if bridge.wait(_AGENTS_END_S) is None:
                self.display.say("the bridge does not end")
        for agent in self._world.agents.values():
            agent.signal(signal.SIGTERM)
        for agent in self._world.agents.values():
            if agent.wait(_AGENTS_END_S) is None:
                self.display.say(f"agent {agent.name} does not end")

    def _read_log(self, history: History) -> None:
        server = self._world.log_server
        server.signal(signal.SIGTERM)
        server.wait(10.0)
        written: Counter[str] = Counter()
        for path in server.file.parent.glob(server.file.name + "*"):
            for line in path.read_text(errors="replace").splitlines():
                if found := _LOG_LINE.search(line):
                    written[found[1]] += 1
        for source, count in sorted(written.items()):
            history.log_written(source, count)

    @property
    def started_again(self) -> list[str]:
        """Members of the cluster that did not find back by themselves, and how they were found."""
        return self._caretaker.started_again

    @property
    def stranger_did(self) -> dict[str, int]:
        """How often it published what."""
        return self._world.stranger.state if self._world.stranger is not None else {}

    @property
    def facts(self) -> dict[str, str]:
        found = {name: str(value) for name, value in asdict(self.plan).items() if value not in (None, False)}
        del found["system"]
        if self.started_again:
            found["cluster members started again"] = str(len(self.started_again))
        return {**found, "faults": str(len(self.faults)), "processors busy": f"{self.busy:.0%}"}
