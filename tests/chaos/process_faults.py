"""Faults of processes: those of agents, the bridge, and the programs of named callers. As in ``faults``."""

from __future__ import annotations

import contextlib
import os
import random
import signal
from collections.abc import Iterator

from servicebus.testing.processes import is_alive
from tests.chaos.processes import AgentProcess, RigError
from tests.chaos.schedule import Fault
from tests.chaos.world import World

__all__ = [
    "Breaking",
    "FaultMissed",
    "agent_rolled",
    "bridge_kill",
    "chance_of",
    "key_changed",
    "worker_freeze",
    "worker_kill",
    "workers_rolled",
]

Breaking = Iterator[None]

_ROLL_S = 30.0
_ANSWERS_S = 60.0
_KEYS_TAKEN_S = 60.0
_KEY_USED_S = 20.0


class FaultMissed(Exception):
    """Raised when there is nothing to break: the worker is just starting, say. Nothing was done."""


def chance_of(fault: Fault) -> random.Random:
    """The same for the same fault of the same schedule."""
    return random.Random(repr(fault))


def worker_kill(world: World, fault: Fault) -> Breaking:
    _agent, pid = _worker(world, fault)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    yield


def worker_freeze(world: World, fault: Fault) -> Breaking:
    _agent, pid = _worker(world, fault)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
    yield
    # Its master may have given it up and killed it; nobody else can have its pid so soon.
    if is_alive(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def agent_rolled(world: World, fault: Fault) -> Breaking:
    world.agents[fault.target].roll(_ROLL_S)
    yield


def workers_rolled(world: World, fault: Fault) -> Breaking:
    world.agents[fault.target].hang_up(_ANSWERS_S)
    yield


def _worker(world: World, fault: Fault) -> tuple[AgentProcess, int]:
    node, _, host = fault.target.partition("@")
    agent = world.agents[node]
    pids = agent.worker_pids(host)
    if not pids:
        raise FaultMissed(f"{fault.kind} {fault.target}: no worker is there just now")
    return agent, chance_of(fault).choice(pids)


def bridge_kill(world: World, fault: Fault) -> Breaking:
    bridge = world.bridge
    assert bridge is not None
    bridge.close()
    yield
    bridge.start()


def key_changed(world: World, fault: Fault) -> Breaking:
    """As docs/callers says: the agents get a further key, then the program has that alone. The former one stays good
    until the next time: messages that it has signed may be under way."""
    name, keys = fault.target, world.orders.keys
    key = keys.add(name, in_use=_key_in_use(world, name))
    before = {agent.name: set(agent.worker_pids()) for agent in world.agents.values()}
    world.tell_agents_keys()
    for agent in world.agents.values():
        agent.hang_up(_ANSWERS_S)
    # Until then the program goes on with the key that it has, which is good everywhere.
    if not world.wait(lambda: not any(_living(before[node], world.agents[node]) for node in before), _KEYS_TAKEN_S):
        raise FaultMissed(f"{fault.kind} {fault.target}: not all workers were replaced in {_KEYS_TAKEN_S:g} s")
    world.give_key(name, key)
    if not world.wait(lambda: _key_in_use(world, name) == key, _KEY_USED_S):
        raise RigError(f"{fault.kind} {fault.target}: the program does not take its key")
    yield


def _key_in_use(world: World, caller: str) -> str:
    found: str = world.callers[caller].state.get("key") or world.orders.keys.known[caller][0]
    return found


def _living(pids: set[int], agent: AgentProcess) -> set[int]:
    """Those of *pids* that are workers of *agent* still."""
    return {pid for pid in pids if is_alive(pid)} & set(agent.worker_pids() or pids)
