"""A fleet for the console to show: nodes that are simulated on the wire of several brokers, and dead letters."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import pika

from benchmarks.gather import SimulatedNode, Simulation, simulating
from benchmarks.suite.growth.nodes import SECRET, host
from servicebus._describe import NodeDescription
from servicebus.contracts import NodeContract, ServiceContract
from servicebus.observability.histograms import Histogram
from servicebus.testing import Broker
from servicebus.wire import headers
from servicebus.wire.address import dead_queue
from servicebus.wire.envelope import Kind, make_id
from servicebus.wire.signing import Keyring
from servicebus.wire.stamps import DeadLetterStamp, write_dead_letter_stamp
from servicebus.wire.xmlcodec import write_event

REASONS = ("ConnectionError", "KeyError", "LookupError", "TimeoutError", "ValueError")
TRACE = "Traceback (most recent call last):\n" + '  File "shop/orders.py", line 71, in book\n    raise\n' * 8
_PARAMS = {"type": "object", "properties": {"sku": {"type": "string"}, "count": {"type": "integer"}}}


def node_names(count: int) -> list[str]:
    return [f"SIM-{number:03}" for number in range(1, count + 1)]


def service_names(node: str, count: int) -> list[str]:
    """Those of twenty nodes at a time are the same: with 200 nodes there are ten times *count*."""
    category = f"shop{(int(node[-3:]) - 1) // 20}"
    return [f"{category}.service{number:02}" for number in range(1, count + 1)]


class LoadedNode(SimulatedNode):
    """Also describes its services, and reports their load as the worker of an agent with metrics does."""

    def __init__(self, name: str, hosts: list[str], calls: Sequence[str]):
        named = [call.split(".") for call in calls]
        contract = NodeContract(
            tuple(ServiceContract("call", category, each, _PARAMS, {"type": "number"}) for category, each in named),
            name,
        )
        super().__init__(name, hosts, calls, NodeDescription(contract).text)
        self._began, self._runs = time.monotonic(), Histogram()
        for number in range(12):
            self._runs.add(0.0004 * 2**number)
        self.control.load = self._load

    def _load(self) -> dict[str, Any]:
        ended, run = int(100 * (time.monotonic() - self._began)), self._runs.used()
        about = {"kind": "call", "backlog": 3, "capacity": 16, "ended": ended, "failed": ended // 100}
        services = [{**about, "name": key, "run": run, "wait": run} for _, key in self.services]
        brokers = [each.name for each in self.config.hosts]
        return {"brokers": brokers, "services": services, "left_out": 0, "outbox": 0, "problems": [],
                "journal": {"unfinished": 3, "answers": 500}}  # fmt: skip


@contextmanager
def nodes_on(brokers: Sequence[Broker], nodes: int, services: int) -> Iterator[None]:
    """Until it is left: one process for each broker, since a worker of a node serves on one broker."""
    hosts = [host(broker) for broker in brokers]
    with ExitStack() as stack:
        for number in range(len(hosts)):
            told = (str(number), str(nodes), str(services), *hosts)
            stack.enter_context(simulating("benchmarks.console_fleet", *told))
        yield


def write_dead_letters(brokers: Sequence[Broker], node: str, services: Sequence[str], count: int) -> list[str]:
    """*count* of *node*, as workers write them, shared among the brokers; their ids."""
    keyring, incarnation, ids = Keyring([SECRET]), os.urandom(8).hex(), list[str]()
    for number, broker in enumerate(brokers):
        parameters = pika.ConnectionParameters(broker.host, broker.port, heartbeat=0)
        with closing(pika.BlockingConnection(parameters)) as connection:
            channel, queue = connection.channel(), dead_queue(node)
            channel.queue_declare(queue, durable=True)
            numbers = range(number, count, len(brokers))
            for each in numbers:
                ids.append(make_id(incarnation, each + 1))
                body, stamps = _dead_letter(keyring, ids[-1], node, services[each % len(services)], each)
                channel.basic_publish("", queue, body, pika.BasicProperties(headers=stamps, delivery_mode=2))
            while channel.queue_declare(queue, passive=True).method.message_count < len(numbers):
                connection.sleep(0.1)
    return ids


def _dead_letter(keyring: Keyring, id: str, node: str, service: str, number: int) -> tuple[bytes, dict[str, Any]]:
    now, reason = time.time(), REASONS[number % 7 % len(REASONS)]
    sent_ms, params = int((now - 700) * 1000), b'{"sku": "s-%d", "count": 2}' % number
    category, name = service.split(".")
    asked = (id, node, category, name, Kind.MESSAGE, sent_ms, 86_400_000, "", params)
    body = write_event(*asked, keyring.sign_event(*asked))
    stamp = DeadLetterStamp(int(now) - 60, int(now) - 600, 6, int(now) + 86_400, "")
    return body, {
        headers.REASON: reason,
        headers.DETAIL: f"no article s-{number}",
        headers.TRACE: TRACE + reason,
        headers.HOST: "simulated",
        headers.DEAD_LETTER: write_dead_letter_stamp(keyring, body, reason, stamp),
    }


def _serve(number: str, nodes: str, services: str, *hosts: str) -> None:
    names = node_names(int(nodes))
    simulated = [LoadedNode(name, list(hosts), service_names(name, int(services))) for name in names]
    Simulation(simulated, int(number)).run()


if __name__ == "__main__":
    _serve(*sys.argv[1:])
