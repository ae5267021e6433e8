"""One peer, once: its processes are started, go through phases, and are ended, on a broker as new."""

from __future__ import annotations

import itertools
import os
import shutil
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.suite import node
from benchmarks.suite.child import Child, PeerFailed
from benchmarks.suite.environment import command
from benchmarks.suite.machine import busy_s
from benchmarks.suite.peers import PROGRAMS, Peer
from servicebus.testing import Broker
from servicebus.testing.processes import MARK, end_marked

WARM_S = 0.3
STARTS_WITHIN_S = 60.0
BEGINS_WITHIN_S = 60.0
_SLOTS = 512
_numbers = itertools.count(1)


class Visit:
    """Started by ``with``. ``found`` is what there is to keep of it: ``start_s`` and the phases.

    Args:
        brokers: the first is used and watched; the others are told of, too.
        servers: so many processes of the server.
        clients: so many of the client, each of which does every phase.
        consumers: so many on its queue mean that the peer serves; one for each server by default.
        are_nodes: each server gets all that is published.
    """

    def __init__(
        self,
        peer: Peer,
        brokers: Sequence[Broker],
        *,
        servers: int = 1,
        clients: int = 1,
        consumers: int = 0,
        are_nodes: bool = False,
    ):
        self.peer = peer
        self.found: dict[str, Any] = {"phases": {}, "failed": {}}
        self.servers: list[Child] = []
        self.clients: list[Child] = []
        self._brokers = list(brokers)
        self._broker = brokers[0]
        self._counts = servers, clients
        self._consumers = consumers or (1 if are_nodes else servers)
        self._queues = [peer.ready.format(number) for number in range(servers)] if are_nodes else [peer.ready]
        self._folder = self._broker.folder.parent / "visits" / str(next(_numbers))
        # The mark lets the brokers' guard end the processes of a suite that was killed.
        self._environment = {
            **{key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
            "PYTHONPATH": str(PROGRAMS),
            "PYTHONUNBUFFERED": "1",
            "PEER_HOSTS": ",".join(f"{broker.host}:{broker.port}" for broker in brokers),
            "PEER_FOLDER": str(self._folder),
            "PEER_NODES": str(servers if are_nodes else 1),
            "PEER_COUNTER": str(self._folder / "counter"),
            MARK: str(self._folder),
            **peer.environment,
        }

    def __enter__(self) -> Visit:
        for broker in self._brokers:
            broker.heal()
        self._folder.mkdir(parents=True)
        (self._folder / "counter").write_bytes(bytes(_SLOTS * 8))
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        self._end()

    def phase(self, name: str, seconds: float, *, key: str = "", **order: Any) -> dict[str, Any] | None:
        """What the clients did in a phase, with what it cost; kept as *key*. None if it failed, which is kept, too.

        After a failure the clients are new ones.
        """
        key = key or name
        try:
            measured = self._measure(name, seconds, order)
        except PeerFailed as error:
            self.found["failed"][key] = str(error)
            self._renew_clients()
            return None
        self.found["phases"][key] = measured
        if measured.get("stuck"):
            self._renew_clients()
        return measured

    def stop_servers(self) -> None:
        """Messages wait from now on; waits until the broker sees no consumer any more."""
        for server in self.servers:
            server.stop()
        self._wait(lambda: not any(self._consumers_now()), "still consumes")
        self.servers.clear()

    def note_memory(self) -> None:
        """Keep what the processes hold now."""
        self.found["memory_mib"] = {
            "client": sum(client.memory_mib() for client in self.clients),
            "server": sum(server.memory_mib() for server in self.servers),
        }

    # -- inside --------------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        """``start_s`` is from starting a server until a client that has imported everything got its first answer."""
        servers, clients = self._counts
        self._make_clients(clients)
        started = time.monotonic()
        for number in range(servers):
            self.servers.append(self._child("server", number))
        self._wait(lambda: min(self._consumers_now()) >= self._consumers, "does not consume")
        self._connect("first" if self.peer.idioms else "connect")
        self.found["start_s"] = time.monotonic() - started

    def _consumers_now(self) -> list[int]:
        return [node.consumers(self._broker, queue) for queue in self._queues]

    def _wait(self, condition: Any, otherwise: str) -> None:
        deadline = time.monotonic() + STARTS_WITHIN_S
        while not condition():
            if time.monotonic() > deadline:
                raise PeerFailed(f"the server {otherwise} after {STARTS_WITHIN_S:g} s: {self.servers[0].log_tail}")
            for server in self.servers:
                if otherwise == "does not consume" and not server.is_running:
                    raise PeerFailed(f"the server ended: {server.log_tail}")
            time.sleep(0.01)

    def _make_clients(self, count: int) -> None:
        self.clients = [self._child("client", number) for number in range(count)]
        for client in self.clients:
            client.expect("imported", STARTS_WITHIN_S)

    def _connect(self, how: str) -> None:
        for client in self.clients:
            client.order(phase=how)
        for client in self.clients:
            client.expect("end", STARTS_WITHIN_S)

    def _renew_clients(self) -> None:
        for client in self.clients:
            client.stop(1.0)
        self._make_clients(len(self.clients))
        self._connect("connect")

    def _child(self, role: str, number: int) -> Child:
        name = f"{role}-{number}-{next(_numbers)}"
        environment = {**self._environment, "PEER_NUMBER": str(number)}
        return Child(command(self.peer, role), environment, self._folder, name, is_client=role == "client")

    def _measure(self, name: str, seconds: float, order: dict[str, Any]) -> dict[str, Any]:
        for client in self.clients:
            client.order(phase=name, seconds=seconds, warm=WARM_S, **order)
        for client in self.clients:
            client.expect("begin", BEGINS_WITHIN_S + 10 * seconds)
        before, all_before, own_before = self._cpu_s(), busy_s(), time.process_time()
        for client in self.clients:
            client.order(phase="go")
        ends = [client.expect("end", 90.0 + 4 * seconds) for client in self.clients]
        after, all_after, own = self._cpu_s(), busy_s(), time.process_time() - own_before
        cpu = {who: after[who] - before[who] for who in before}
        took_s = max(end["seconds"] for end in ends)
        count = sum(end["count"] for end in ends)
        others_s = all_after - all_before - sum(cpu.values()) - own
        more = {key: value for key, value in ends[0].items() if key not in ("kind", "count", "seconds", "stuck")}
        measured = {
            "count": count, "seconds": took_s, "rate": count / took_s, "cpu_s": cpu,
            "noise_cores": max(0.0, others_s) / took_s, "stuck": sum(end.get("stuck", 0) for end in ends), **more,
        }  # fmt: skip
        if name in ("pub", "pubw"):
            measured["waiting"] = node.messages(self._broker)
        return measured

    def _cpu_s(self) -> dict[str, float]:
        return {
            "client": sum(client.cpu_s() for client in self.clients),
            "server": sum(server.cpu_s() for server in self.servers),
            "broker": node.cpu_s(self._broker),
        }

    def _end(self) -> None:
        for child in (*self.clients, *self.servers):
            child.stop()
        end_marked(self._folder)
        shutil.rmtree(self._folder, ignore_errors=True)
