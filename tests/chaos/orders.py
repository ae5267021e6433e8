"""Orders: what each program of the rig is told, by which it knows its world."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from servicebus.configuration.keys import ALL_KEYS
from servicebus.testing import FaultProxy
from tests.chaos.callers import FLEET, CallerKeys, signs_as
from tests.chaos.pipelines import bridge_entry
from tests.chaos.plan import SECRET, Plan
from tests.chaos.services import RETRY_SCHEDULE_S

__all__ = ["CLOCK_SKEW_S", "Orders"]

CLOCK_SKEW_S = 5.0
_STRANGER_PER_S = 10
_CALLER_PER_S = 4.0


class Orders:
    """Of the programs of *plan*.

    Args:
        folder: of the run.
        home: where sockets lie, as their paths must be short.
        proxies: by which everybody reaches the brokers, by the names of these.
        log_port: of the log server.
    """

    def __init__(self, plan: Plan, folder: Path, home: Path, proxies: Mapping[str, FaultProxy], log_port: int):
        self.keys = CallerKeys()
        self._plan = plan
        self._folder = folder
        self._home = home
        self._proxies = proxies
        self._log = {"port": log_port, "secret": SECRET}

    def configuration(self, **more: Any) -> dict[str, Any]:
        hosts: list[dict[str, Any]] = []
        for name, endpoints in self._plan.targets.hosts.items():
            proxies = [self._proxies[endpoint] for endpoint in endpoints]
            if len(proxies) == 1:
                hosts.append({"name": name, "host": proxies[0].host, "port": proxies[0].port})
            else:
                hosts.append({"name": name, "members": [f"{proxy.host}:{proxy.port}" for proxy in proxies]})
        found = {
            "hosts": hosts,
            "secret_token": SECRET,
            "clock_skew": CLOCK_SKEW_S,
            "failback_after": 5,
            "drain_timeout": 10,
            "queue_type": self._plan.queue_type,
            "retry_schedule": list(RETRY_SCHEDULE_S * 2),
            **more,
        }
        return {key: value for key, value in found.items() if key in ALL_KEYS}

    def each_configuration(self) -> Iterator[dict[str, Any]]:
        """For each host one that names no other."""
        configuration = self.configuration()
        for host in configuration["hosts"]:
            yield {**configuration, "hosts": [host]}

    def agent(self, node: str, workers_per_host: int) -> dict[str, Any]:
        callers = {} if self._plan.is_old else {"callers": self.keys.section()}
        return {
            "configuration": self.configuration(
                node_name=node,
                workers_per_host=workers_per_host,
                status_socket=str(self._home / node),
                journal=str(self._folder / "journals" / f"{node}.journal"),
                logging=self._log,
                **callers,
            ),
            "poison": self._plan.poison,
            "pipes": {
                "moved_host": self._plan.bridged_hosts[1],
                "arguments": self._queue_arguments,
                "retry": RETRY_SCHEDULE_S * 2,
            },
            **self._all(node),
        }

    def sender(self, number: int) -> dict[str, Any]:
        hosts = self.configuration()
        # Each prefers another broker, so that all of them have work.
        order = random.Random(number).sample(hosts["hosts"], len(hosts["hosts"]))
        first = (number - 1) % len(order)
        preferred = hosts["hosts"][first]
        hosts["hosts"] = [preferred, *(host for host in order if host is not preferred)]
        plan = self._plan
        configuration = {**hosts, "node_name": f"SENDER-{number}"}
        if number % 2 == 0 and not plan.is_old:
            configuration = signs_as(configuration, FLEET, self.keys.known[FLEET][0])
        flows = {"events": plan.events_per_s, "streams": plan.streams_per_s, "plain": plan.plain_per_s}
        return {
            "number": number,
            "configuration": configuration,
            "calls_per_s": plan.calls_per_s / plan.senders,
            "messages_per_s": plan.messages_per_s / plan.senders,
            **{f"{name}_per_s": 0.0 if plan.is_old else per_s / plan.senders for name, per_s in flows.items()},
            "bridged_host": plan.bridged_hosts[0],
            "outbox": str(self._folder / "outboxes" / str(number)),
            "log": self._log,
            "state": self._state(f"sender-{number}"),
            "seed": plan.seed,
            "poison": plan.poison,
            **self._all("senders"),
        }

    def caller(self, name: str) -> dict[str, Any]:
        return {
            "caller": name,
            "configuration": self.configuration(node_name=f"CALLER-{name}"),
            "key": str(self._folder / "orders" / f"{name}.key"),
            "per_s": _CALLER_PER_S,
            "state": self._state(f"caller-{name}"),
            "seed": self._plan.seed,
            **self._all("senders"),
        }

    def bridge(self) -> dict[str, Any]:
        entry = bridge_entry(self._plan.bridged_hosts, self._queue_arguments)
        return {"configuration": self.configuration(node_name="BRIDGE", bridges=[entry]), **self._all("senders")}

    def operator(self, node: str, host: str) -> dict[str, Any]:
        callers = self.keys.section()
        return {"configuration": self.configuration(node_name=node, callers=callers), "host": host, **self._all(node)}

    def stranger(self, urls: list[str]) -> dict[str, Any]:
        return {
            "urls": urls,
            "per_s": _STRANGER_PER_S,
            "state": self._state("stranger"),
            "seed": self._plan.seed,
            **self._all("senders"),
        }

    def clock(self, name: str) -> Path:
        return self._folder / "clocks" / name

    @property
    def _queue_arguments(self) -> dict[str, Any]:
        return {"x-queue-type": self._plan.queue_type}

    def _all(self, clock: str) -> dict[str, Any]:
        return {
            "history": str(self._folder / "history"),
            "clock": str(self.clock(clock)),
            "plant": self._plan.plant,
            "nodes": list(self._plan.nodes),
            "wiretap": str(self._home / "wiretap"),
        }

    def _state(self, name: str) -> str:
        return str(self._folder / "state" / f"{name}.json")
