#!/usr/bin/env python3
"""How long does a call take when the broker under it dies, falls silent, or was never there?

Two private brokers, one agent with both, and every setting at its default. Run it on a quiet machine, as root (packets
can only be dropped in a network of our own)::

    python -m benchmarks.failover --json failover.json

The broker in use is the first host of a new Sender that has only ever connected to that one, but in ``kill-again``,
where one Sender lives through all repetitions. The next call begins in the very moment of the fault. "Agent back" is
the time from the moment at which the broker accepts AMQP again to the agent's own log line that it consumes; that the
broker agrees is then shown by a ping over each. docs/failover.rst explains the figures.
"""

from __future__ import annotations

import argparse
import itertools
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.agent import ADD, NODE, SLEEP, Agent, place, sender_configuration
from benchmarks.faults import Drop, Fault, Freeze, Kill
from benchmarks.figures import Figure, report
from servicebus.sender import Sender
from servicebus.testing import Broker, BrokerPool
from tests.network import FAR, NOWHERE, Network, may_make_networks

IN_FLIGHT_S = (0.3, 0.3, 0.3, 0.3, 0.6, 0.6, 1.2, 2.5)
LIMITS_S = (0.1, 0.3, 0.6, 0.9, 1.2, 1.5, 1.8)
TOLERANCE_S = 0.1
"""A deadline is kept by a clock that ticks every 50 ms, on a machine that does other things as well."""
FORGIVING_S = 60.0
_numbers = itertools.count(1)


class Scenario:
    """One fault, repeated; its figures."""

    def __init__(
        self, name: str, title: str, fault: Fault, *, median: float | None, p99: float | None, top: float | None
    ):
        self.name = name
        self._fault = fault
        self._next_call = Figure(f"{title}: next call", median, p99, top)
        self._in_flight = Figure(f"{title}: calls in flight, last answer")
        self._not_right = Figure(f"{title}: calls in flight not right", max_limit=0, unit="")
        self._beyond = Figure(f"{title}: beyond a call's own limit", max_limit=TOLERANCE_S)
        self._agent_back = Figure(f"{title}: agent back", max_limit=3.0)

    @property
    def figures(self) -> list[Figure]:
        return [self._next_call, self._in_flight, self._not_right, self._beyond, self._agent_back]

    def round(self, sender: Sender, brokers: list[Broker], agent: Agent) -> None:
        """Break the broker that *sender* uses, see what becomes of the calls, and repair it."""
        check(sender.call(ADD, [1, 2])[1], 3)
        broker = in_use(sender, brokers)
        in_flight = [(value, sender.call_async(SLEEP, [pause_s, value])) for pause_s, value in numbered(IN_FLIGHT_S)]
        time.sleep(0.1)  # long enough for all of them to run
        struck_at = time.time()
        self._fault.strike(broker)
        started = time.monotonic()
        limited = [Limited(sender, limit_s) for limit_s in LIMITS_S]
        number = next(_numbers)
        check(sender.call(ADD, [number, 1], timeout=FORGIVING_S)[1], number + 1)
        self._next_call.samples.append(time.monotonic() - started)
        self._not_right.samples.append(sum(not is_right(value, future) for value, future in in_flight))
        self._in_flight.samples.append(time.monotonic() - started)
        self._beyond.samples += [each.beyond_s() for each in limited]
        back_at = self._fault.undo(broker, agent, struck_at)
        consuming_at = agent.wait_for(f"{broker.host}:{broker.port}: consuming", since=struck_at)
        self._agent_back.samples.append(max(0.0, consuming_at - back_at))
        all_paths_work(brokers)


class Limited:
    """A call with a short limit of its own, which ends by then, however it ends."""

    def __init__(self, sender: Sender, limit_s: float):
        self._limit_s = limit_s
        self._ended: float | None = None
        self._started = time.monotonic()
        self._future: Future[Any] = sender.call_async(ADD, [1, 1], timeout=limit_s)
        self._future.add_done_callback(self._end)

    def _end(self, _future: Future[Any]) -> None:
        self._ended = time.monotonic()

    def beyond_s(self) -> float:
        """How long it outlived its limit."""
        self._future.exception(timeout=FORGIVING_S)
        while self._ended is None:
            time.sleep(0.001)
        return max(0.0, self._ended - self._started - self._limit_s)


def numbered(values: tuple[float, ...]) -> Iterator[tuple[float, int]]:
    return ((value, next(_numbers)) for value in values)


def is_right(expected: Any, future: Future[Any]) -> bool:
    try:
        value = future.result(timeout=FORGIVING_S)[1]
    except Exception as error:
        print(f"a call in flight failed: {error!r}", file=sys.stderr)
        return False
    return bool(value == expected)


def check(value: Any, expected: Any) -> None:
    if value != expected:
        raise SystemExit(f"wrong result: {value!r} where {expected!r} was asked for")


def in_use(sender: Sender, brokers: list[Broker]) -> Broker:
    used = next(host["name"] for host in sender.status()["hosts"] if host["preferred"])
    return next(broker for broker in brokers if place(broker) == used)


def all_paths_work(brokers: list[Broker]) -> None:
    """Both brokers carry pings to the agent and back; a repetition begins with a whole bus."""
    for broker in brokers:
        with Sender(sender_configuration([place(broker)])) as probe:
            if not probe.ping(NODE, timeout=10.0):
                raise SystemExit(f"{broker!r} is back, but the agent does not answer over it")


# -- the scenarios -----------------------------------------------------------------------------------------------------


def break_brokers(scenario: Scenario, brokers: list[Broker], repetitions: int, *, renews_sender: bool) -> list[Figure]:
    hosts = [place(broker) for broker in brokers]
    with ExitStack() as stack:
        agent = stack.enter_context(Agent(brokers[1].folder, hosts))
        sender = stack.enter_context(Sender(sender_configuration(hosts)))
        for number in range(1, repetitions + 1):
            progress(f"{scenario.name} {number}/{repetitions}")
            scenario.round(sender, brokers, agent)
            if renews_sender:
                sender.close()
    return scenario.figures


def kill(brokers: list[Broker], repetitions: int) -> list[Figure]:
    scenario = Scenario("kill", "kill -9", Kill(), median=0.1, p99=0.5, top=None)
    return break_brokers(scenario, brokers, repetitions, renews_sender=True)


def kill_again(brokers: list[Broker], repetitions: int) -> list[Figure]:
    scenario = Scenario("kill-again", "kill -9 again and again", Kill(), median=0.1, p99=0.5, top=None)
    return break_brokers(scenario, brokers, repetitions, renews_sender=False)


def freeze(brokers: list[Broker], repetitions: int) -> list[Figure]:
    scenario = Scenario("freeze", "SIGSTOP", Freeze(), median=None, p99=None, top=3.0)
    return break_brokers(scenario, brokers, repetitions, renews_sender=True)


def drop(brokers: list[Broker], repetitions: int) -> list[Figure]:
    with Network() as net:
        far = Broker(brokers[0].folder.parent / "far", "far", "loopback_users = none", host=FAR)
        try:
            with net.entered():
                far.launch()
            far.wait_ready()
            scenario = Scenario("drop", "packets dropped", Drop(net), median=None, p99=None, top=3.0)
            return break_brokers(scenario, [far, brokers[1]], repetitions, renews_sender=True)
        finally:
            far.close()


def first_host(brokers: list[Broker], repetitions: int) -> list[Figure]:
    """A new Sender's first call: with both hosts well, and with a first host that is worse than dead."""
    good = place(brokers[1])
    normal = Figure("new Sender, all hosts well: first call")
    swallowing = Figure("new Sender, first host swallows packets: over normal", max_limit=0.5)
    deaf = Figure("new Sender, first host never answers: over normal", max_limit=0.5)
    with ExitStack() as stack:
        hosts = [(normal, place(brokers[0])), (deaf, stack.enter_context(_Deaf()).name)]
        if may_make_networks():
            stack.enter_context(Network())
            hosts.append((swallowing, f"{NOWHERE}:5672"))
        stack.enter_context(Agent(brokers[1].folder, [place(broker) for broker in brokers]))
        for number in range(1, repetitions + 1):
            progress(f"first-host {number}/{repetitions}")
            for figure, first in hosts:
                figure.samples.append(first_call_s([first, good]))
    for figure in (swallowing, deaf):
        figure.samples = [max(0.0, sample - normal.median) for sample in figure.samples]
    return [normal, swallowing, deaf]


def first_call_s(hosts: list[str]) -> float:
    with Sender(sender_configuration(hosts)) as sender:
        started = time.monotonic()
        check(sender.call(ADD, [2, 3], timeout=FORGIVING_S)[1], 5)
        return time.monotonic() - started


class _Deaf:
    """Accepts connections and never answers."""

    def __enter__(self) -> _Deaf:
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=1000)
        self.name = f"127.0.0.1:{self._socket.getsockname()[1]}"
        return self

    def __exit__(self, *_exception: object) -> None:
        self._socket.close()


SCENARIOS: dict[str, Callable[[list[Broker], int], list[Figure]]] = {
    "kill": kill,
    "kill-again": kill_again,
    "freeze": freeze,
    "drop": drop,
    "first-host": first_host,
}


def progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as an exception, so that brokers and networks are removed
    if "drop" in options.only and not may_make_networks():
        parser.error("packets are dropped in a network namespace, which needs root; leave it out by --only")
    pool = BrokerPool()
    try:
        brokers = pool.take(2)
        figures = [figure for each in options.only for figure in SCENARIOS[each](brokers, options.repetitions)]
    finally:
        pool.close()
    progress("")
    return report("Failover, default settings", figures, options.json, {"repetitions": options.repetitions})


if __name__ == "__main__":
    sys.exit(main())
