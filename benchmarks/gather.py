#!/usr/bin/env python3
"""How long does it take to find nodes, and to call all of them? Real agents, and many more that are simulated.

One private broker. The real nodes are agents as anybody runs them, each with a master and a worker. The simulated ones
are in one process and on one connection, with the queues, envelopes and signatures of a node each, and nothing else::

    python -m benchmarks.gather --nodes 64 --simulated 1000 --rounds 15

The machine runs the broker, all nodes and the caller. The first gather of a Sender connects, too.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from benchmarks.suite.growth.nodes import Order, common, host, running, sender_configuration
from benchmarks.suite.machine import settle
from servicebus.configuration import Configuration
from servicebus.protocol.v2 import ProtocolV2
from servicebus.runtime.control import ControlRequests, Describe
from servicebus.runtime.refusal_log import RefusalLog
from servicebus.sender import Sender
from servicebus.testing import Broker, brokers
from servicebus.transport.amqp import AmqpConnection
from servicebus.transport.interface import BrokerChannel, BrokerConnection, Delivery, Script
from servicebus.transport.loop import EventLoop
from servicebus.transport.steps import bind_queue, consume, declare_exchange, declare_queue
from servicebus.wire.address import DISCOVERY_KEY, control_queue, rpc_queue
from servicebus.wire.envelope import CALL
from servicebus.wire.jsontext import decode_json
from servicebus.wire.signing import Keyring

GOALS_S = {"real": 0.1, "simulated": 2.0}
PARAMS = [1, 2]
_READY_S = 300.0


class SimulatedNode:
    """What of a node is on the wire: it says what it is, answers pings, and adds numbers.

    Args:
        calls: ``category.name`` of each service; all of them add.
        describe: tells what they take and return.
    """

    def __init__(
        self, name: str, hosts: list[str], calls: Sequence[str] = ("math.add",), describe: Describe | None = None
    ):
        counters: Counter[str] = Counter()
        self.config = Configuration({**common(hosts), "node_name": name})
        keyring = Keyring(self.config.secrets)
        self._protocol = ProtocolV2(self.config, keyring)
        dispatcher = SimpleNamespace(
            counters=counters,
            refusals=RefusalLog(counters, "simulated"),
            is_stopping=False,
            services=dict.fromkeys((CALL, call) for call in calls),
            look_up=lambda ids: [None] * len(ids),
            answered=lambda _ids: [],
        )
        self.services = dispatcher.services
        self.control = ControlRequests(self.config, keyring, self._protocol, cast(Any, dispatcher), describe)

    def script(self, channel: BrokerChannel) -> Script:
        node, exchange = self.config.node_name, self.config.exchange_name
        answers: dict[str, Callable[[Delivery], tuple[bytes, str] | None]] = {
            DISCOVERY_KEY: self.control.hear,
            control_queue(node): self.control.answer,
            rpc_queue(node): self._add,
        }
        for key, answer in answers.items():
            queue, _, _ = yield declare_queue(exclusive=True, auto_delete=True)
            yield bind_queue(queue, exchange, key)
            yield consume(queue, partial(_answer, channel, answer), no_ack=True)

    def _add(self, delivery: Delivery) -> tuple[bytes, str]:
        incoming = self._protocol.decode_request(delivery)
        return self._protocol.encode_result(incoming, sum(decode_json(incoming.raw_params))), incoming.reply_to


def _answer(channel: BrokerChannel, answer: Callable[[Delivery], tuple[bytes, str] | None], delivery: Delivery) -> None:
    said = answer(delivery)
    if said is not None:
        channel.publish("", said[1], said[0], correlation_id=delivery.correlation_id, mandatory=False)


class Simulation:
    """Many nodes on one connection to the first host of their file, or to that which is named; a line on stdout when
    all of them consume."""

    def __init__(self, nodes: Sequence[SimulatedNode], host_number: int = 0):
        self._nodes = nodes
        self._loop = EventLoop("simulated")
        config = self._nodes[0].config
        AmqpConnection(
            self._loop, config.hosts[host_number], self, label="simulated nodes", heartbeat_s=60,
            connect_timeout_s=30.0, handshake_timeout_s=30.0, most_bytes=1 << 20,
        )  # fmt: skip

    def run(self) -> None:
        self._loop.run()

    def connection_opened(self, connection: BrokerConnection) -> None:
        connection.open_channel(self._opened, self._ended)

    def _opened(self, channel: BrokerChannel) -> None:
        def script() -> Script:
            yield declare_exchange(self._nodes[0].config.exchange_name)
            for node in self._nodes:
                yield from node.script(channel)

        channel.run(script(), lambda: print("ready", flush=True))

    def _ended(self, *what: object) -> None:
        raise SystemExit(f"the simulated nodes are gone: {what}")

    connection_failed = connection_lost = _ended

    def connection_blocked(self, _connection: BrokerConnection, _reason: str | None) -> None: ...


@contextmanager
def simulated(count: int, broker: Broker) -> Iterator[None]:
    with simulating("benchmarks.gather", "--serve", str(count), host(broker)):
        yield


@contextmanager
def simulating(module: str, *arguments: str) -> Iterator[None]:
    """A process that runs a Simulation."""
    program = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise SystemExit("the simulated nodes did not come up")
            yield
        finally:
            process.terminate()


@contextmanager
def real(count: int, broker: Broker) -> Iterator[None]:
    with tempfile.TemporaryDirectory(prefix="gather-") as folder:
        orders = [Order(f"NODE-{number:03}", [host(broker)]) for number in range(1, count + 1)]
        with running(orders, Path(folder)):
            yield


class QuietWait:
    """Waits for a quiet machine, *limit_s* in all: on a busy one each of the rounds would else wait as long."""

    def __init__(self, limit_s: float):
        self._left_s = limit_s

    def settle(self) -> None:
        began = time.monotonic()
        settle(self._left_s)
        self._left_s = max(0.0, self._left_s - (time.monotonic() - began))


def measure(broker: Broker, count: int, rounds: int, wait_limit_s: float) -> dict[str, Any]:
    """Seconds of each gather and each discovery; the first gather of a Sender apart."""
    rest = QuietWait(wait_limit_s)
    first: list[float] = []
    took: dict[str, list[float]] = {"nodes": [], "gather": []}
    with Sender(sender_configuration([host(broker)])) as sender:
        until_all = time.monotonic() + _READY_S
        while len(sender.nodes(quiet=1.0)) < count:
            if time.monotonic() > until_all:
                raise SystemExit(f"{len(sender.nodes(quiet=1.0))} of {count} nodes were found")
        for number in range(1, rounds + 1):
            _say(f"{count} nodes: round {number} of {rounds}")
            rest.settle()
            began = time.monotonic()
            found = sender.nodes()
            took["nodes"].append(time.monotonic() - began)
            _must(len(found) == count, f"{len(found)} of {count} nodes were found")
            rest.settle()
            took["gather"].append(_gather(sender, count))
        peak_kib = _traced_kib(partial(_gather, sender, count))
    for _ in range(min(3, rounds)):
        rest.settle()
        with Sender(sender_configuration([host(broker)])) as sender:
            first.append(_gather(sender, count))
    rss_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"count": count, **took, "first gather": first, "traced_peak_kib": peak_kib, "rss_kib": rss_kib}


def _gather(sender: Sender, count: int) -> float:
    began = time.monotonic()
    found = sender.gather("*.math.add", PARAMS, 30)
    took = time.monotonic() - began
    missing = f"{len(found.results)} of {count} nodes gave a result, {len(found.errors)} an error"
    _must(len(found.results) == count and set(found.results.values()) == {3}, missing)
    return took


def _traced_kib(do: Callable[[], object]) -> int:
    """What it takes at most, of memory that Python hands out; at a rate of its own."""
    tracemalloc.start()
    do()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak // 1024


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def _must(holds: bool, what: str) -> None:
    if not holds:
        _say(f"short: {what}")


def report(kind: str, found: dict[str, Any]) -> bool:
    """Print it; whether the goal is reached."""
    print(f"{found['count']} {kind} nodes, one broker; ms: median (least to most)")
    for what in ("nodes", "gather", "first gather"):
        times = [1000 * each for each in found[what]]
        print(
            f"  {what:13} {statistics.median(times):7.1f}  ({min(times):.1f} to {max(times):.1f}, {len(times)} times)"
        )
    print(f"  memory of the caller: {found['traced_peak_kib']} KiB more during a gather, {found['rss_kib']} KiB in all")
    is_reached: bool = statistics.median(found["gather"]) < GOALS_S[kind]
    print(f"  goal: a gather in under {1000 * GOALS_S[kind]:.0f} ms: {'reached' if is_reached else 'MISSED'}")
    return is_reached


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=64, help="real ones; 0 for none")
    parser.add_argument("--simulated", type=int, default=1000, help="0 for none")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--wait", type=float, default=30.0, help="seconds to wait for a quiet machine, in all")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        names = [f"SIM-{number:05}" for number in range(1, int(args.serve[0]) + 1)]
        Simulation([SimulatedNode(name, [args.serve[1]]) for name in names]).run()
        return 0
    found: dict[str, Any] = {}
    reached: list[bool] = []
    for kind, fleet, count in (("real", real, args.nodes), ("simulated", simulated, args.simulated)):
        if count:
            _say(f"starting a broker and {count} {kind} nodes")
            began = time.monotonic()
            with brokers(count=1) as (broker,), fleet(count, broker):
                _say(f"started in {time.monotonic() - began:.1f} s")
                found[kind] = measure(broker, count, args.rounds, args.wait)
            reached.append(report(kind, found[kind]))
            sys.stdout.flush()
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))
    return 0 if all(reached) else 1


if __name__ == "__main__":
    sys.exit(main())
