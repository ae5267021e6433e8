"""Asks agents how they are, and brokers who really consumes; a thread of the rig's own."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import Any

from servicebus.testing.processes import is_frozen
from tests.chaos import erlang
from tests.chaos.history import History
from tests.chaos.processes import AgentProcess
from tests.chaos.subscribers import event_queues
from tests.chaos.world import Endpoint, World

__all__ = ["HealthPoller", "who_consumes"]

_EVERY_S = 1.0
Consumers = dict[str, list[int]]
"""Of each queue, the pids of those who consume it."""
_QUEUES = (".rpc", ".control", ".messages", *event_queues())


class HealthPoller:
    """Tells the history of every agent whether it says that it lives and is ready, and of every worker whether it says
    that it is well and ready, and how many consumers it has.

    A worker that misses one of its queues counts as one without consumers: it does not do its work. So does one that is
    stopped, whose consumers the broker still has. Who has which queues of a cluster in pieces is unknown.
    """

    def __init__(self, world: World):
        self._world = world
        self._history = History(world.history_folder, "health")
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="health", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(10.0)
        self._history.ended()

    def _run(self) -> None:
        while not self._stopped.wait(_EVERY_S):
            # Asked before the brokers: whoever says it is well now has its consumers, or had them just now.
            asked_at = time.monotonic()
            said = {node: agent.status() for node, agent in self._world.agents.items()}
            hosts = {host: self._look_at(host) for host in self._world.plan.targets.hosts}
            for node, status in said.items():
                agent = self._world.agents[node]
                counts = self._record(asked_at, agent, status.get("workers", []), hosts)
                if "live" in status:
                    self._history.agent(node, status["live"], status["ready"], _best(counts), t=asked_at)
                elif not status:
                    self._history.agent(node, None, False, None, t=asked_at)

    def _look_at(self, host: str) -> Consumers | None:
        """Who consumes there: nobody if it is cut off; None if that cannot be said, or changes just now."""
        endpoints = self._world.proxied_brokers_of(host)
        is_cut_off = all(endpoint.is_cut_off for endpoint in endpoints)
        if len(endpoints) > 1 and not (is_cut_off or self._world.is_cluster_whole):
            return None  # nor is it asked: a member that is frozen would keep us from asking anybody else
        found = {} if is_cut_off else who_consumes(endpoints)
        return found if is_cut_off is all(endpoint.is_cut_off for endpoint in endpoints) else None

    def _record(
        self,
        asked_at: float,
        agent: AgentProcess,
        workers: list[dict[str, Any]],
        hosts: dict[str, Consumers | None],
    ) -> list[int | None]:
        """Of each worker how many consumers it has."""
        seen: dict[str, int] = {}
        found: list[int | None] = []
        for worker in workers:
            if "healthy" not in worker:
                continue  # 2.19 has nothing to say of its health
            host = worker.get("host", "")
            seen[host] = seen.get(host, 0) + 1
            target = f"{agent.name}@{host}#{seen[host]}"
            green, ready = bool(worker.get("healthy")), bool(worker.get("ready"))
            known, pid = hosts.get(host), worker.get("pid") or 0
            if known is None:
                self._history.health(target, green, None, ready=ready, t=asked_at)
                found.append(None)
                continue
            counts = {queue: _count(known, f"{agent.name}{queue}", pid) for queue in _QUEUES}
            consumers = 0 if pid and is_frozen(pid) else min(counts.values())
            self._history.health(target, green, consumers, ready=ready, t=asked_at)
            found.append(consumers)
            if green and known and not all(counts.values()):
                self._history.record("missed", target=target, counts=counts, queues=sorted(known))
        return found


def _best(counts: Iterable[int | None]) -> int | None:
    """The most consumers of a worker of an agent; None if one that may have some is not known."""
    found = list(counts)
    known = [count for count in found if count is not None]
    most = max(known, default=0)
    return most if most or len(known) == len(found) else None


def who_consumes(endpoints: Iterable[Endpoint]) -> Consumers | None:
    """The consumers of one host: each member of a cluster tells of those who are connected to it.

    None if a member that nothing cuts off does not answer: what it would tell nobody else knows.
    """
    found: Consumers = {}
    for endpoint in endpoints:
        told = erlang.read_consumers(endpoint.evaluate(erlang.CONSUMERS))
        if told is None and not endpoint.is_cut_off:
            return None
        for queue, pids in (told or {}).items():
            found[queue] = sorted([*pids, *found.get(queue, [])])
    return found or None


def _count(known: Consumers, queue: str, pid: int) -> int:
    """How many consumers of *queue*, or of one that stands in for it in a cluster, belong to process *pid*."""
    return sum(pids.count(pid) for name, pids in known.items() if name == queue or name.startswith(f"{queue}~"))
