"""Calls while messages wait: a node whose message service is held up, beside one that has no messages at all.

Each has a broker of its own. The backlog is real: messages sent by a Sender, confirmed, signed, in the node's durable
queue. It only grows, so the points come one after the other; at each of them the node with the backlog and the one
without are measured in turn, and what counts is their ratio.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.progress import Progress

from benchmarks.suite.growth.curves import MANY, ONE, Stage
from benchmarks.suite.growth.nodes import Node, Order, host
from benchmarks.suite.growth.phases import ADD, in_flight, one_by_one
from benchmarks.suite.rounds import Measurement, interleaved
from benchmarks.suite.settings import Settings
from servicebus.sender import Sender
from servicebus.testing import Broker

LEVELS = (1_000, 10_000, 100_000, 1_000_000)
SERVICE = "audit.hold"
REFERENCE = 0
_WINDOW = 2000
_SETTLES_S = 3.0
_IN_QUEUES = (
    "[{{N, M}} || Q <- rabbit_amqqueue:list(), {{resource, _, queue, N}} <- [amqqueue:get_name(Q)],"
    " [{{messages, M}}] <- [rabbit_amqqueue:info(Q, [messages])], binary:match(N, <<{node}>>) =/= nomatch]."
)


class Backlog:
    """Messages that wait for *node* on *broker*."""

    def __init__(self, broker: Broker, node: Node, sender: Sender):
        self._broker = broker
        self._node = node
        self._sender = sender
        self.sent = 0

    def grow(self, total: int) -> float:
        """Send until *total* messages were confirmed; returns the messages a second."""
        started, count = time.monotonic(), total - self.sent
        pending: deque[Any] = deque()
        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(f"backlog: {total:,} messages", total=count)
            while self.sent < total:
                pending.append(self._sender.send_async(self._node.address(SERVICE), {"number": self.sent}, 120.0))
                self.sent += 1
                if len(pending) >= _WINDOW:
                    pending.popleft().result(120.0)
                    bar.advance(task)
            while pending:
                pending.popleft().result(120.0)
        return count / (time.monotonic() - started)

    @property
    def waiting(self) -> int:
        """How many are in the node's queues, those that were delivered and not acknowledged among them."""
        answer = self._broker.evaluate(_IN_QUEUES.format(node=f'"{self._node.name}."'))
        return sum(int(number) for number in re.findall(r">>,\s*(\d+)", answer))

    def counters(self) -> dict[str, int]:
        return dict(self._node.workers()[0]["counters"])


def measure(stage: Stage, settings: Settings, levels: Sequence[int]) -> list[dict[str, Any]]:
    """The rows of all levels; those of the node without messages have x 0 and say beside which ``level``."""
    beside, broker = stage.brokers(2)
    without, held = stage.nodes([_order("WITHOUT", beside), _order("HELD", broker)])
    senders = {node: stage.sender(node.order.hosts) for node in (without, held)}
    backlog = Backlog(broker, held, senders[held])
    rows = []
    for level in levels:
        per_s = backlog.grow(level)
        time.sleep(_SETTLES_S)
        measurements = []
        for line, make in ((ONE, one_by_one), (MANY, in_flight)):
            for node, x in ((without, REFERENCE), (held, level)):
                calls = make(senders[node], [(node.address(), *ADD)])
                measurements.append(_beside(stage.measurement("backlog", x, line, [node], calls), level, backlog))
        rows += interleaved(
            f"growth, {level:,} messages at {per_s:,.0f}/s", measurements, settings.rounds, settings.wait_limit_s
        )
    return rows


def _beside(measurement: Measurement, level: int, backlog: Backlog) -> Measurement:
    def measured(measure: Callable[[], dict[str, Any]] = measurement.measure) -> dict[str, Any]:
        found = measure()
        return {**found, "level": level, "waiting": backlog.waiting, "counters": backlog.counters()}

    return Measurement(measurement.name, measured, measurement.expected_s)


def _order(name: str, broker: Broker) -> Order:
    return Order(name, [host(broker)], messages={SERVICE: "Hold"})
