"""The world of a run: brokers behind fault proxies, agents, a log server, senders and a stranger."""

from __future__ import annotations

import contextlib
import random
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from servicebus.configuration.keys import ALL_KEYS
from servicebus.testing import Broker, BrokerPool, FaultProxy
from servicebus.testing.cluster import Cluster
from servicebus.testing.pool import launch_all, start_guard
from servicebus.testing.ports import free_ports
from servicebus.testing.processes import end_marked
from tests.chaos import erlang
from tests.chaos.clock import make_clock, set_clock
from tests.chaos.old_system import OldAgentProcess, OldSenderProgram
from tests.chaos.processes import AgentProcess, LogServer, Program, RigError
from tests.chaos.schedule import Targets
from tests.chaos.services import RETRY_SCHEDULE_S, SMALL_LIMIT

__all__ = ["Endpoint", "Plan", "World"]

SECRET = "the secret of the rig"
CLUSTER = "mq"
CLOCK_SKEW_S = 5.0
_GREEN_S = 60.0
_SMALL_LIMITS = f"max_message_size = {SMALL_LIMIT}\nframe_max = 8192\nchannel_max = 16"
"""Of one broker: large messages and replies, long traces, and who opens a channel for each request."""
_OPERATOR_S = 120.0
_TICKTIME_S = 8


@dataclass(frozen=True)
class Plan:
    """What a run consists of."""

    minutes: float = 2.0
    seed: int = 1
    agents: int = 2
    """Of different nodes; one more node is served by two workers per host."""
    senders: int = 4
    calls_per_s: float = 175.0
    messages_per_s: float = 175.0
    brokers: int = 3
    small_brokers: int = 1
    """The last so many of them take no large messages, no large frames, and few channels."""
    has_cluster: bool = True
    plant: str | None = None
    poison: bool = False
    system: str = "servicebus"
    events_per_s: float = 35.0

    @property
    def is_old(self) -> bool:
        """It is py-servicebus 2.19 that runs."""
        return self.system != "servicebus"

    @property
    def nodes(self) -> tuple[str, ...]:
        return tuple(f"NODE-{number}" for number in range(1, self.agents + 2))

    @property
    def targets(self) -> Targets:
        hosts: dict[str, tuple[str, ...]] = {name: (name,) for name in "abcdefg"[: self.brokers]}
        if self.has_cluster:
            hosts[CLUSTER] = ("m1", "m2", "m3")
        if self.is_old:
            return Targets(hosts, self.nodes, queues=("",), kept_queues=())
        return Targets(hosts, self.nodes)


@dataclass
class Endpoint:
    """A broker, or a member of a cluster, and the proxy through which everybody reaches it but the rig."""

    name: str
    broker: Broker
    proxy: FaultProxy
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Whoever asks the broker something holds it: a broker takes one question at a time."""
    is_cut_off: bool = False
    """A fault keeps everybody from it just now."""

    def evaluate(self, expressions: str) -> str:
        """The value of Erlang *expressions*; empty if the broker does not answer."""
        with self.lock:
            if self.broker.state != "running":
                return ""
            with contextlib.suppress(OSError, ValueError):
                return self.broker.evaluate(expressions)
        return ""

    def do(self, expressions: str) -> str:
        """As ``evaluate()``, for what must not be left undone.

        Raises:
            RigError: the broker does not understand it.
        """
        answer = self.evaluate(expressions)
        if erlang.is_misunderstood(answer):
            raise RigError(f"{self.name} does not understand {expressions} It says: {answer[:300]}")
        return answer


class World:
    """Everything of a run but its faults.

    Made by ``prepare()`` and ``open()``; ended by ``close()``, and also if this process is killed.
    """

    def __init__(self, plan: Plan, folder: Path):
        self.plan = plan
        self.folder = folder
        self.history_folder = folder / "history"
        self.home = Path()
        """What carries the mark of this run; sockets lie there, as their paths must be short."""
        self._stack = contextlib.ExitStack()
        self.proxied_brokers: dict[str, Endpoint] = {}
        self.cluster: Cluster | None = None
        self.is_cluster_whole = True
        """Its members agree on who of them is running."""
        self.agents: dict[str, AgentProcess] = {}
        self.senders: list[Program] = []
        self.stranger: Program | None = None
        self.log_server = LogServer(folder, folder / "logs" / "records", SECRET, free_ports(1)[0])

    # -- making and ending ---------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Make the folders, and see to it that whatever is started ends with this process."""
        for name in ("history", "logs", "orders", "state", "journals", "outboxes", "clocks"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.home = Path(tempfile.mkdtemp(prefix="chaos-"))
        guard = start_guard(self.home, keeps_data=False)
        self._stack.callback(lambda: shutil.rmtree(self.home, ignore_errors=True))
        self._stack.callback(guard.wait)
        self._stack.callback(guard.kill)
        self._stack.callback(lambda: end_marked(self.home))

    def open(self) -> None:
        """Start brokers, log server, agents, and senders that wait for ``begin_load()``."""
        for name in ("senders", *self.plan.nodes):
            make_clock(self._clock(name))
        self._start_brokers()
        self.start(self.log_server)
        for number, node in enumerate(self.plan.nodes, 1):
            is_double = number == len(self.plan.nodes)
            make = OldAgentProcess if self.plan.is_old else AgentProcess
            self.agents[node] = make(self.folder, node, self._agent_orders(node, 2 if is_double else 1))
            self.start(self.agents[node])
        for agent in self.agents.values():
            if not agent.wait_green(_GREEN_S):
                raise RigError(f"{agent.name} does not consume everywhere: {agent.workers()}")
        for number in range(1, self.plan.senders + 1):
            orders = self._sender_orders(number)
            sender = (
                OldSenderProgram(self.folder, f"sender-{number}", orders)
                if self.plan.is_old
                else Program(self.folder, "sender_program", f"sender-{number}", orders)
            )
            self.senders.append(sender)
            self.start(sender)
        if not self.plan.is_old:  # whoever forges a token of 2.19 is believed
            self.stranger = Program(self.folder, "stranger_program", "stranger", self._stranger_orders())
        for sender in self.senders:
            sender.expect("ready")

    def begin_load(self) -> None:
        if self.stranger is not None:
            self.start(self.stranger)
        for sender in self.senders:
            sender.tell("go\n")

    def close(self) -> None:
        self._stack.close()

    def start(self, program: Program) -> None:
        program.mark = str(self.home)
        self._stack.callback(program.close)
        program.start()

    def _start_brokers(self) -> None:
        pool = BrokerPool()
        self._stack.callback(pool.close)
        if self.plan.has_cluster:
            self.cluster = Cluster(3, ticktime_s=_TICKTIME_S)
            self._stack.callback(self.cluster.close)
            starting = threading.Thread(target=self.cluster.start)
            starting.start()
        brokers = self._independent(pool)
        if self.cluster is not None:
            starting.join()
            self.cluster.wait_whole()
            brokers = [*brokers, *self.cluster.members]
        for broker in brokers:
            proxy = self._stack.enter_context(FaultProxy(broker.port))
            self.proxied_brokers[broker.name] = Endpoint(broker.name, broker, proxy)

    def _independent(self, pool: BrokerPool) -> list[Broker]:
        """The brokers that stand alone; the last of them have small limits."""
        first_small = self.plan.brokers - (0 if self.plan.is_old else self.plan.small_brokers)
        names = "abcdefg"[: self.plan.brokers]
        brokers = [
            Broker(pool.folder / name, name, _SMALL_LIMITS if number >= first_small else "")
            for number, name in enumerate(names)
        ]
        for broker in brokers:
            self._stack.callback(broker.close)
        launch_all(brokers)
        return brokers

    # -- orders --------------------------------------------------------------------------------------------------------

    def _configuration(self, **more: Any) -> dict[str, Any]:
        hosts: list[dict[str, Any]] = []
        for name, endpoints in self.plan.targets.hosts.items():
            proxies = [self.proxied_brokers[endpoint].proxy for endpoint in endpoints]
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
            "queue_type": "quorum" if self.plan.has_cluster else "classic",
            "retry_schedule": list(RETRY_SCHEDULE_S * 2),
            **more,
        }
        return {key: value for key, value in found.items() if key in ALL_KEYS}

    def each_configuration(self) -> Iterator[dict[str, Any]]:
        """For each host one that names no other."""
        configuration = self._configuration()
        for host in configuration["hosts"]:
            yield {**configuration, "hosts": [host]}

    def _agent_orders(self, node: str, workers_per_host: int) -> dict[str, Any]:
        return {
            "configuration": self._configuration(
                node_name=node,
                workers_per_host=workers_per_host,
                status_socket=str(self.home / node),
                journal=str(self.folder / "journals" / f"{node}.journal"),
                logging={"port": self.log_server.port, "secret": SECRET},
            ),
            "history": str(self.history_folder),
            "clock": str(self._clock(node)),
            "plant": self.plan.plant,
            "poison": self.plan.poison,
            "wiretap": str(self.home / "wiretap"),
            "nodes": list(self.plan.nodes),
        }

    def _sender_orders(self, number: int) -> dict[str, Any]:
        hosts = self._configuration()
        # Each prefers another broker, so that all of them have work.
        order = random.Random(number).sample(hosts["hosts"], len(hosts["hosts"]))
        first = (number - 1) % len(order)
        preferred = hosts["hosts"][first]
        hosts["hosts"] = [preferred, *(host for host in order if host is not preferred)]
        return {
            "number": number,
            "configuration": {**hosts, "node_name": f"SENDER-{number}"},
            "history": str(self.history_folder),
            "clock": str(self._clock("senders")),
            "plant": self.plan.plant,
            "nodes": list(self.plan.nodes),
            "calls_per_s": self.plan.calls_per_s / self.plan.senders,
            "messages_per_s": self.plan.messages_per_s / self.plan.senders,
            "events_per_s": 0.0 if self.plan.is_old else self.plan.events_per_s / self.plan.senders,
            "outbox": str(self.folder / "outboxes" / str(number)),
            "log": {"port": self.log_server.port, "secret": SECRET},
            "wiretap": str(self.home / "wiretap"),
            "state": str(self.folder / "state" / f"sender-{number}.json"),
            "seed": self.plan.seed,
            "poison": self.plan.poison,
        }

    def _stranger_orders(self) -> dict[str, Any]:
        return {
            "urls": [endpoint.broker.url for endpoint in self.proxied_brokers.values()],
            "nodes": list(self.plan.nodes),
            "wiretap": str(self.home / "wiretap"),
            "per_s": 10,
            "state": str(self.folder / "state" / "stranger.json"),
            "seed": self.plan.seed,
        }

    def _clock(self, name: str) -> Path:
        return self.folder / "clocks" / name

    def set_clock(self, name: str, offset_s: float) -> None:
        set_clock(self._clock(name), offset_s)

    def requeue(self, node: str, host: str, name: str) -> str:
        """Have an operator send back the dead letters of *node* on *host*; what the operator says of it.

        Raises:
            RigError: the operator failed.
        """
        orders = {
            "configuration": self._configuration(node_name=node),
            "host": host,
            "history": str(self.history_folder),
            "plant": self.plan.plant,
        }
        operator = Program(self.folder, "operator_program", name, orders)
        operator.mark = str(self.home)
        operator.start()
        try:
            code = operator.wait(_OPERATOR_S)
            said = operator.said()
        finally:
            operator.close()
        if code != 0:
            raise RigError(f"{name} ended with {code}; see {self.folder}/logs/{name}.log")
        return said

    # -- looking -------------------------------------------------------------------------------------------------------

    def proxied_brokers_of(self, host: str) -> list[Endpoint]:
        return [self.proxied_brokers[name] for name in self.plan.targets.hosts[host]]

    def one_of(self, host: str) -> Endpoint | None:
        """An endpoint of *host* that can be asked something; None if there is none."""
        return next((each for each in self.proxied_brokers_of(host) if each.broker.state == "running"), None)

    def counts(self) -> Counter[str]:
        """What the senders have counted so far, together."""
        found: Counter[str] = Counter()
        for sender in self.senders:
            found.update(sender.state.get("counts", {}))
        return found

    def wait(self, condition: Any, timeout_s: float) -> bool:
        """Wait for *condition*; false if it does not come true."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)
        return True

    def each_host(self) -> Iterator[tuple[str, Endpoint | None]]:
        for host in self.plan.targets.hosts:
            yield host, self.one_of(host)
