"""The world of a run: brokers behind fault proxies, agents, a log server, senders and a stranger."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from servicebus.testing import Broker, BrokerPool, FaultProxy
from servicebus.testing.cluster import Cluster
from servicebus.testing.erlang import MEMBERS
from servicebus.testing.pool import launch_all, start_guard
from servicebus.testing.ports import free_ports
from servicebus.testing.processes import end_marked
from tests.chaos import erlang
from tests.chaos.callers import CHANGING
from tests.chaos.clock import make_clock, set_clock
from tests.chaos.old_system import OldAgentProcess, OldSenderProgram
from tests.chaos.orders import Orders
from tests.chaos.plan import BRIDGE, CLUSTER, SECRET, Plan
from tests.chaos.processes import AgentProcess, LogServer, Program, RigError
from tests.chaos.services import SMALL_LIMIT

__all__ = ["Endpoint", "World"]

_GREEN_S = 120.0
_SMALL_LIMITS = f"max_message_size = {SMALL_LIMIT}\nframe_max = 8192\nchannel_max = 16"
"""Of one broker: large messages and replies, long traces, and who opens a channel for each request."""
_OPERATOR_S = 120.0
_TICKTIME_S = 8


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
        self.callers: dict[str, Program] = {}
        self.bridge: Program | None = None
        self.stranger: Program | None = None
        self.log_server = LogServer(folder, folder / "logs" / "records", SECRET, free_ports(1)[0])

    @cached_property
    def orders(self) -> Orders:
        """Once the brokers are there."""
        proxies = {name: endpoint.proxy for name, endpoint in self.proxied_brokers.items()}
        return Orders(self.plan, self.folder, self.home, proxies, self.log_server.port)

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
        self._start_brokers()
        for name in ("senders", *self.plan.nodes):
            make_clock(self.orders.clock(name))
        self.start(self.log_server)
        for number, node in enumerate(self.plan.nodes, 1):
            is_double = number == len(self.plan.nodes)
            make = OldAgentProcess if self.plan.is_old else AgentProcess
            self.agents[node] = make(self.folder, node, self.orders.agent(node, 2 if is_double else 1))
            self.start(self.agents[node])
        for agent in self.agents.values():
            if not agent.wait_green(_GREEN_S):
                raise RigError(f"{agent.name} does not consume everywhere: {agent.workers()}")
        for number in range(1, self.plan.senders + 1):
            name, orders = f"sender-{number}", self.orders.sender(number)
            self.senders.append(
                OldSenderProgram(self.folder, name, orders)
                if self.plan.is_old
                else Program(self.folder, "sender_program", name, orders)
            )
            self.start(self.senders[-1])
        if not self.plan.is_old:
            self._open_flows()
        for program in (*self.senders, *self.callers.values()):
            program.expect("ready")

    def _open_flows(self) -> None:
        """What py-servicebus 2.19 has no word for; and the stranger: whoever forges a token of 2.19 is believed."""
        self.bridge = Program(self.folder, "bridge_program", BRIDGE, self.orders.bridge())
        self.start(self.bridge)
        self.bridge.expect("ready")
        for name in CHANGING:
            self.give_key(name, self.orders.keys.known[name][0])
            self.callers[name] = Program(self.folder, "caller_program", f"caller-{name}", self.orders.caller(name))
            self.start(self.callers[name])
        urls = [endpoint.broker.url for endpoint in self.proxied_brokers.values()]
        self.stranger = Program(self.folder, "stranger_program", "stranger", self.orders.stranger(urls))

    def begin_load(self) -> None:
        if self.stranger is not None:
            self.start(self.stranger)
        for program in (*self.senders, *self.callers.values()):
            program.tell("go\n")

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

    # -- what is done to it --------------------------------------------------------------------------------------------

    def set_clock(self, name: str, offset_s: float) -> None:
        set_clock(self.orders.clock(name), offset_s)

    def give_key(self, caller: str, key: str) -> None:
        """Have the program of that *caller* sign with *key* from now on."""
        path = Path(self.orders.caller(caller)["key"])
        fresh = path.with_suffix(".new")
        fresh.write_text(key)
        fresh.replace(path)

    def tell_agents_keys(self) -> None:
        """Write the keys that are good now into the orders of each agent, which reads them on HUP."""
        for agent in self.agents.values():
            agent.orders["configuration"]["callers"] = self.orders.keys.section()
            agent.write_orders()

    def requeue(self, node: str, host: str, name: str) -> str:
        """Have an operator send back the dead letters of *node* on *host*; what the operator says of it.

        Raises:
            RigError: the operator failed.
        """
        operator = Program(self.folder, "operator_program", name, self.orders.operator(node, host))
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

    @property
    def loads(self) -> list[Program]:
        """The programs that make the load: senders, named callers and the stranger."""
        stranger = [] if self.stranger is None else [self.stranger]
        return [*self.senders, *self.callers.values(), *stranger]

    def member_views(self) -> dict[str, frozenset[str]]:
        """Of each member of the cluster that no fault keeps away: those with whom it shares its queues; none, if it
        is gone."""
        members = self.plan.targets.hosts.get(CLUSTER, ())
        found = {}
        for name in members:
            endpoint = self.proxied_brokers[name]
            if not endpoint.is_cut_off:
                answer = endpoint.evaluate(MEMBERS)
                # Who was cut off meanwhile could not answer.
                if not endpoint.is_cut_off:
                    found[name] = frozenset(each for each in members if f"servicebus-{each}@" in answer)
        return found

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
