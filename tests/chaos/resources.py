"""What is in use: counted before the load and after it, under the same names."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from pathlib import Path

from servicebus.configuration import Configuration
from servicebus.errors import ServiceBusError
from servicebus.sender import Sender
from tests.chaos import erlang
from tests.chaos.processes import RigError, session
from tests.chaos.world import World

__all__ = [
    "Processors",
    "agent_resources",
    "broker_resources",
    "open_publishers",
    "queue_lengths",
    "sender_resources",
]

_OPENED_S = 90.0


class Processors:
    """How busy the machine was since this was made, by all of its processes together."""

    def __init__(self) -> None:
        self._idle, self._all = _ticks()

    @property
    def busy(self) -> float:
        """1.0 for all processors, all the time."""
        idle, together = _ticks()
        return 1.0 - (idle - self._idle) / max(1, together - self._all)


def _ticks() -> tuple[int, int]:
    with Path("/proc/stat").open() as stat:
        counts = [int(word) for word in stat.readline().split()[1:9]]
    return counts[3] + counts[4], sum(counts)


def open_publishers(world: World) -> None:
    """Have each worker publish: the connections, the threads and the outbox for it are there from then on.

    Raises:
        RigError: one of them is not reached.
    """
    give_up_at = time.monotonic() + _OPENED_S
    for configuration in world.orders.each_configuration():
        with Sender(Configuration({**configuration, "node_name": "RIG"})) as sender:
            for agent in world.agents.values():
                missing = set(agent.worker_pids(configuration["hosts"][0]["name"]))
                while missing:
                    missing -= _opened(sender, f"{agent.name}.work.opens")
                    if time.monotonic() > give_up_at:
                        raise RigError(f"{agent.name}: workers {missing} are not called")


def _opened(sender: Sender, target: str) -> set[int]:
    """The pid of the worker that has answered; none if none did: on a busy machine the first calls may be too late."""
    with contextlib.suppress(ServiceBusError):
        return {sender.call(target, timeout=10)[1]}
    return set()


def broker_resources(world: World) -> dict[str, int]:
    """Connections and channels of all brokers, and queues of all hosts, together."""
    found: Counter[str] = Counter({"broker connections": 0, "channels": 0, "queues": 0})
    for host in world.plan.targets.hosts:
        for endpoint in world.proxied_brokers_of(host):
            use = erlang.read_use(endpoint.evaluate(erlang.USE))
            if use is not None:
                found["broker connections"] += use[0]
                found["channels"] += use[1]
                if endpoint is world.one_of(host):
                    found["queues"] += len(use[2])
    return dict(found)


def queue_lengths(world: World) -> dict[str, int]:
    """What waits, or is delivered and not settled, in each queue of each host but those of dead letters."""
    found = {}
    for host, endpoint in world.each_host():
        use = None if endpoint is None else erlang.read_use(endpoint.evaluate(erlang.USE))
        if use is None:
            found[f"{host}, which does not answer,"] = 1
        else:
            found.update({f"{host}/{name}": length for name, length in use[2].items() if not name.endswith(".dead")})
    return {name: length for name, length in found.items() if "amq.gen" not in name}


def agent_resources(world: World) -> dict[str, int]:
    """Processes, threads and sockets of all agents together."""
    found: Counter[str] = Counter({"agent processes": 0, "agent threads": 0, "agent sockets": 0})
    for agent in world.agents.values():
        for pid in session(agent.pid):
            found["agent processes"] += 1
            with contextlib.suppress(OSError):
                found["agent threads"] += len(list(Path(f"/proc/{pid}/task").iterdir()))
                found["agent sockets"] += _sockets(pid)
    return dict(found)


def sender_resources(world: World, when: str) -> dict[str, int]:
    """What the senders have counted of themselves: ``base`` before their first connection, ``end`` after the last."""
    found: Counter[str] = Counter({"sender sockets": 0, "sender threads": 0})
    for sender in world.senders:
        for name, count in sender.state.get(when, {}).items():
            found[f"sender {name}"] += count
    return dict(found)


def _sockets(pid: int) -> int:
    count = 0
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            count += str(fd.readlink()).startswith("socket:")
    return count
