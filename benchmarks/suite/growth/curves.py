"""The curves of ``bench growth``: what there is more and more of, and how a call is measured at each point.

All points of a curve are there at the same time and are measured round by round, so that a busy moment of the
machine hits all of them. Nodes that a point does not need are stopped (SIGSTOP) while it is measured: what they do at
rest costs the others nothing.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.journal import FILL_CALLS_PER_S, Load, apart, open_files
from benchmarks.suite.growth.nodes import Node, Order, host, running, sender_configuration
from benchmarks.suite.growth.phases import ADD, WIDTH, Ask, Costs, in_flight, in_threads, one_by_one
from benchmarks.suite.rounds import Measurement
from servicebus.sender import Sender
from servicebus.testing import Broker, brokers

ONE, MANY, TO_ONE = "one caller", f"{WIDTH} in flight", f"{WIDTH} in flight to one"
SERVICES = (1, 10, 100, 1000)
HOSTS = (1, 2, 4, 8)
CALLERS = (1, 4, 16, 64, 256)
NODES = (1, 4, 16, 64)
BYTES = (10, 100, 1_000, 10_000, 100_000, 1_000_000, 4_000_000)
WORKERS = (1, 2, 4)
IDS = (0, 100_000, 1_000_000, 10_000_000)
MOST_BYTES_IN_FLIGHT = 8_000_000
_AWAKE_S = 0.3
"""Between two measurements every process is awake for so long: time enough to answer a ping."""

Calls = Callable[[float], int]


class Stage:
    """Where a curve is measured: its brokers and nodes, and the Senders that call them."""

    def __init__(self, folder: Path, seconds: float, stack: ExitStack):
        self.folder = folder
        self.seconds = seconds
        self._stack = stack
        self._nodes: list[Node] = []
        self._brokers: list[Broker] = []

    def brokers(self, count: int) -> list[Broker]:
        self._brokers += self._stack.enter_context(brokers(count=count))
        return self._brokers

    def nodes(self, orders: Sequence[Order]) -> list[Node]:
        self._nodes += self._stack.enter_context(running(orders, self.folder))
        return self._nodes

    def sender(self, hosts: Sequence[str]) -> Sender:
        return self._stack.enter_context(Sender(sender_configuration(hosts)))

    def measurement(self, curve: str, x: float, line: str, nodes: Sequence[Node], calls: Calls) -> Measurement:
        """One point of one line: *calls* are measured while only *nodes* are awake."""

        def measure() -> dict[str, Any]:
            time.sleep(_AWAKE_S)
            with asleep([node for node in self._nodes if node not in nodes]):
                return {
                    "curve": curve,
                    "x": x,
                    "line": line,
                    **Costs(nodes, self._brokers).measure(calls, self.seconds),
                }

        return Measurement(f"{curve} {x:,}, {line}", measure, self.seconds + 1.0)

    def both(
        self, curve: str, x: float, nodes: Sequence[Node], sender: Sender, asks: Sequence[Ask]
    ) -> list[Measurement]:
        """One call at a time, and many."""
        one = self.measurement(curve, x, ONE, nodes, one_by_one(sender, asks))
        return [one, self.measurement(curve, x, MANY, nodes, in_flight(sender, asks))]


@contextmanager
def asleep(nodes: Sequence[Node]) -> Iterator[None]:
    for node in nodes:
        node.freeze()
    try:
        yield
    finally:
        for node in nodes:
            node.thaw()


def services(stage: Stage) -> list[Measurement]:
    (broker,) = stage.brokers(1)
    names = {count: {f"many.add{number}": "Add" for number in range(count)} for count in SERVICES}
    nodes = stage.nodes([Order(f"SERVICES-{count}", [host(broker)], calls=names[count]) for count in SERVICES])
    sender = stage.sender([host(broker)])
    measurements = []
    for count, node in zip(SERVICES, nodes, strict=True):
        asks = [(node.address(name), *ADD) for name in names[count]]
        measurements += stage.both("services", count, [node], sender, asks)
        measurements.append(stage.measurement("services", count, TO_ONE, [node], in_flight(sender, asks[:1])))
    return measurements


def hosts(stage: Stage) -> list[Measurement]:
    all_hosts = [host(broker) for broker in stage.brokers(max(HOSTS))]
    nodes = stage.nodes([Order(f"HOSTS-{count}", all_hosts[:count]) for count in HOSTS])
    measurements = []
    for count, node in zip(HOSTS, nodes, strict=True):
        measurements += stage.both("hosts", count, [node], stage.sender(all_hosts[:count]), [(node.address(), *ADD)])
    return measurements


def callers(stage: Stage) -> list[Measurement]:
    (broker,) = stage.brokers(1)
    nodes = stage.nodes([Order("CALLED", [host(broker)])])
    sender = stage.sender([host(broker)])
    asks = [(nodes[0].address(), *ADD)]
    return [stage.measurement("callers", count, "threads", nodes, in_threads(sender, asks, count)) for count in CALLERS]


def nodes(stage: Stage) -> list[Measurement]:
    (broker,) = stage.brokers(1)
    all_nodes = stage.nodes([Order(f"NODE-{number}", [host(broker)]) for number in range(max(NODES))])
    sender = stage.sender([host(broker)])
    measurements = []
    for count in NODES:
        asks = [(node.address(), *ADD) for node in all_nodes[:count]]
        measurements += stage.both("nodes", count, all_nodes[:count], sender, asks)
        measurements.append(stage.measurement("nodes", count, TO_ONE, all_nodes[:count], in_flight(sender, asks[:1])))
    return measurements


def params(stage: Stage) -> list[Measurement]:
    (broker,) = stage.brokers(1)
    (node,) = stage.nodes([Order("SIZED", [host(broker)], calls={"text.size": "Size"})])
    sender = stage.sender([host(broker)])
    measurements = []
    for size in BYTES:
        ask: Ask = (node.address("text.size"), "x" * size, size)
        width = max(1, min(WIDTH, MOST_BYTES_IN_FLIGHT // size))
        measurements.append(stage.measurement("params", size, ONE, [node], one_by_one(sender, [ask])))
        measurements.append(stage.measurement("params", size, "in flight", [node], in_flight(sender, [ask], width)))
    return measurements


def workers(stage: Stage) -> list[Measurement]:
    (broker,) = stage.brokers(1)
    orders = [Order(f"WORKERS-{count}", [host(broker)], settings={"workers_per_host": count}) for count in WORKERS]
    found = stage.nodes(orders)
    sender = stage.sender([host(broker)])
    measurements = []
    for count, node in zip(WORKERS, found, strict=True):
        measurements += stage.both("workers", count, [node], sender, [(node.address(), *ADD)])
    return measurements


def journal(stage: Stage) -> list[Measurement]:
    (broker,) = stage.brokers(1)
    names = {ids: f"IDS-{ids}" for ids in IDS}
    apart(lambda: fill_journals(stage.folder, names))
    found = stage.nodes([Order(name, [host(broker)]) for name in names.values()])
    sender = stage.sender([host(broker)])
    measurements = []
    for ids, node in zip(names, found, strict=True):
        measurements += stage.both("journal", ids, [node], sender, [(node.address(), *ADD)])
    return measurements


def fill_journals(folder: Path, names: dict[int, str]) -> None:
    """One journal grows, and at each size the node of that size gets a copy."""
    with_ids = folder / "filled"
    with_ids.mkdir()
    load: Load | None = None
    for ids, name in sorted(names.items()):
        log = open_files(with_ids)
        if load is None:
            load = Load(log, 1)
            load.now -= max(names) / FILL_CALLS_PER_S + 60  # it must not end in the future
        load.journal = log
        load.fill(ids)
        log.close()
        for file in with_ids.iterdir():
            shutil.copy(file, folder / file.name.replace("journal", f"{name}.journal", 1))


@dataclass(frozen=True)
class Curve:
    """What there is more and more of, how it is measured, and what one should know to read it."""

    x_label: str
    measurements: Callable[[Stage], list[Measurement]]
    note: str = ""


_TO_ALL = "Calls go to all of them in turn; *to one*: the others are only there."
CURVES = {
    "services": Curve("services of the node", services, _TO_ALL),
    "hosts": Curve("hosts of the node, a worker and a broker each", hosts, "Calls take the first."),
    "callers": Curve(
        "threads that call, on one Sender", callers, "Microseconds on the clock, of all threads together."
    ),
    "nodes": Curve("nodes on one broker", nodes, _TO_ALL),
    "params": Curve(
        "bytes of params", params, f"In flight are {WIDTH} calls, or as many as have {MOST_BYTES_IN_FLIGHT:,} bytes."
    ),
    "workers": Curve("workers per host", workers),
    "journal": Curve("ids in the journal", journal),
}
