#!/usr/bin/env python3
"""Does anything go wrong, or grow, when it is done a thousand times?

Four parts, each of which runs alone; two private brokers at most, and every setting at its default but where said::

    python benchmarks/endurance.py --only rolling       # 200 rolling restarts under load
    python benchmarks/endurance.py --only failback      # 1,000 times away from the preferred broker and back
    python benchmarks/endurance.py --only reconnect     # 1,000 forced reconnects of a Sender and a worker
    python benchmarks/endurance.py --only timeouts      # 100,000 calls that nobody answers in time
    python benchmarks/endurance.py --count 5            # a glance at each

What must be flat is compared with what there was after the first tenth, or the first two of the timed-out calls.
docs/endurance.rst explains the figures.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from agent import ADD, ENTER_CALL, ENTER_MESSAGE, SLEEP, Agent, sender_configuration
from figures import Figure, report
from footprint import Footprint, held_by
from traffic import Traffic
from waiting import counted, until

from servicebus.errors import ServiceBusError
from servicebus.sender import Sender
from servicebus.testing import Broker, BrokerPool, FaultProxy, Mode

PAUSE_S = 0.02
SENDERS = 4
FAILBACK_AFTER_S = 0.2
CHECKS = 10
"""So often a footprint is compared along the way."""
IN_FLIGHT = 256
SHORT_S = (0.02, 0.2)
STUCK_S = 4.0
"""The master takes a worker that is silent for 10 s for dead."""
CLOSE_ALL = '[catch rabbit_networking:close_connection(P, "endurance") || P <- rabbit_networking:connections()], ok.'


# -- rolling restarts --------------------------------------------------------------------------------------------------


def rolling(brokers: list[Broker], count: int) -> list[Figure]:
    """Half by HUP, which replaces the workers of the only agent; half by TERM and a start of each of two agents."""
    hosts = [name(broker) for broker in brokers]
    folder = brokers[1].folder
    took = Figure("rolling restart")
    not_clean = Figure("agents that did not end with status 0", max_limit=0, unit="")
    with ExitStack() as stack:
        first = stack.enter_context(Agent(folder, hosts, "first"))
        # Half of them prefer the one broker, half the other, so that whichever worker is replaced has something to do.
        configurations = [sender_configuration(hosts[:: (-1) ** number]) for number in range(SENDERS)]
        senders = [stack.enter_context(Sender(configuration)) for configuration in configurations]
        traffic = Traffic(senders, PAUSE_S)
        with traffic.running():
            for _ in counted("rolling by HUP", count - count // 2):
                took.samples.append(replace_workers(first))
            second = stack.enter_context(Agent(folder, hosts, "second"))
            for _ in counted("rolling by TERM", count // 2):
                started = time.monotonic()
                for agent in (first, second):
                    not_clean.samples.append(abs(agent.stop()))
                    agent.start()
                took.samples.append(time.monotonic() - started)
        return [took, not_clean, *traffic.figures(first.ledger_path)]


def replace_workers(agent: Agent) -> float:
    """HUP; gives how long it took until all workers are others and healthy."""
    old = {worker["pid"] for worker in agent.workers()}
    os.kill(agent.pid, signal.SIGHUP)

    def all_new() -> bool:
        time.sleep(0.05)
        workers = agent.workers()
        return all(worker["healthy"] for worker in workers) and not old & {worker["pid"] for worker in workers}

    return until(all_new, "all workers replaced and healthy", 90.0)


# -- fail-backs --------------------------------------------------------------------------------------------------------


def failback(brokers: list[Broker], count: int) -> list[Figure]:
    """The preferred broker is lost and found in turn in four ways; the traffic must leave it, and come back."""
    preferred, other = brokers
    left = Figure("traffic on the other broker")
    returned = Figure("traffic back on the preferred one")
    with ExitStack() as stack:
        agent = stack.enter_context(Agent(other.folder, [name(broker) for broker in brokers]))
        proxy = stack.enter_context(FaultProxy(preferred.port))
        hosts = [f"{proxy.host}:{proxy.port}", name(other)]
        sender = stack.enter_context(Sender(sender_configuration(hosts, failback_after=FAILBACK_AFTER_S)))
        traffic = Traffic([sender] * SENDERS, PAUSE_S)
        with traffic.running():
            wait_for_calls(sender, 0, 0)
            for number in counted("fail-backs", count):
                before = calls_over(sender, 1)
                way, undo = lose(preferred, proxy, number)
                try:
                    left.samples.append(wait_for_calls(sender, 1, before))
                    undo()
                    back_s = until(lambda: is_preferred(sender), "the first broker preferred again")
                    returned.samples.append(back_s + wait_for_calls(sender, 0, calls_over(sender, 0)))
                except TimeoutError as error:
                    print(f"fail-back {number}, {way}: {sender.status()}, {agent.workers()}", file=sys.stderr)
                    raise SystemExit(str(error)) from error
        return [left, returned, *traffic.figures(agent.ledger_path)]


def lose(broker: Broker, proxy: FaultProxy, number: int) -> tuple[str, Callable[[], None]]:
    """Take the way to *broker* away; gives how, and how it is given back."""
    if number % 50 and number % 3 == 0:
        broker.evaluate(CLOSE_ALL)  # of the agent's worker too; both may come back as soon as they like
        return "closed", lambda: None
    mode = Mode.DROP if number % 50 == 0 else Mode.REFUSE if number % 3 == 1 else Mode.RESET
    proxy.set_mode(mode)
    return mode.value, proxy.heal


def wait_for_calls(sender: Sender, host: int, before: int) -> float:
    return until(lambda: calls_over(sender, host) > before, f"calls over host {host + 1}")


def calls_over(sender: Sender, host: int) -> int:
    return int(sender.status()["hosts"][host]["calls"])


def is_preferred(sender: Sender) -> bool:
    return bool(sender.status()["hosts"][0]["preferred"])


# -- reconnects --------------------------------------------------------------------------------------------------------


def reconnect(brokers: list[Broker], count: int) -> list[Figure]:
    """One broker, one Sender, one agent: all their connections are broken at once, with requests on their way."""
    broker = brokers[0]
    took = Figure("reconnect: all requests answered")
    not_right = Figure("requests not right", max_limit=0, unit="")
    with ExitStack() as stack:
        proxy = stack.enter_context(FaultProxy(broker.port))
        hosts = [f"{proxy.host}:{proxy.port}"]
        agent = stack.enter_context(Agent(broker.folder, hosts))
        sender = stack.enter_context(Sender(sender_configuration(hosts)))
        ways: list[Callable[[], object]] = [proxy.cut, lambda: broker.evaluate(CLOSE_ALL), proxy.tear]
        sender.call(ADD, [1, 2], timeout=30.0)
        whole = links_of(broker)
        footprint: Footprint | None = None
        for number in counted("reconnects", count):
            started = time.monotonic()
            not_right.samples.append(through_a_break(sender, number, ways[number % len(ways)]))
            took.samples.append(time.monotonic() - started)
            if number % max(1, count // CHECKS) == 0:
                # A worker answers before it consumes everything, and its own word for that is up to a second old.
                until(lambda: links_of(broker) == whole, "everything opened again")
                if footprint is None:
                    processes = {"agent": agent.pid, "worker": worker_pid(agent), "sender": os.getpid()}
                    footprint = Footprint(broker, processes, memory_kib=4096, objects=max(500, count // 2))
                else:
                    footprint.check()
        assert footprint is not None
        return [took, not_right, *footprint.figures, *executions(agent, count)]


def links_of(broker: Broker) -> dict[str, int]:
    """What Sender and agent have open on *broker*."""
    return {name: count for name, count in held_by(broker).items() if name != "messages"}


def through_a_break(sender: Sender, number: int, break_all: Callable[[], object]) -> int:
    """Calls and messages are on their way when the connections break; gives how many do not end well."""
    waited = [sender.call_async(ENTER_CALL, [f"call-{number}-{each}", 0.05 * each]) for each in range(3)]
    waited += [sender.send_async(ENTER_MESSAGE, [f"message-{number}-{each}", 0.0]) for each in range(3)]
    waited[0].result(60.0)
    break_all()
    wrong = 0
    for future in waited:
        try:
            future.result(60.0)
        except Exception as error:  # whatever it is, it should not be
            print(f"reconnect {number}: {error!r}", file=sys.stderr)
            wrong += 1
    return wrong


def executions(agent: Agent, count: int) -> list[Figure]:
    """Six requests of each round are in the ledger, each once."""
    entered = lambda: Counter(agent.ledger_path.read_text().split())  # noqa: E731
    with suppress(TimeoutError):
        until(lambda: len(entered()) >= 6 * count, "all requests in the ledger", 30.0)
    found = entered()
    return [
        Figure("never executed", max_limit=0, unit="", samples=[6 * count - len(found)]),
        Figure("executed twice", max_limit=0, unit="", samples=[sum(each > 1 for each in found.values())]),
    ]


def worker_pid(agent: Agent) -> int:
    return int(agent.workers()[0]["pid"])


# -- timed-out calls ---------------------------------------------------------------------------------------------------


def timeouts(brokers: list[Broker], count: int) -> list[Figure]:
    """Calls that a service does not answer in time, and calls to a node whose worker is stopped."""
    broker = brokers[0]
    with ExitStack() as stack:
        agent = stack.enter_context(Agent(broker.folder, [name(broker)]))
        sender = stack.enter_context(Sender(sender_configuration([name(broker)])))
        outlived = Figure("beyond a call's own limit")
        crowd = Crowd(sender, outlived)
        serves(sender, 0)  # connected: until then calls with such short limits end otherwise
        not_served = Figure("calls and messages not right afterwards", max_limit=0, unit="")
        footprint: Footprint | None = None
        rounds = min(CHECKS, count)
        for number in counted(f"timeouts, {count // rounds} calls each", rounds):
            if number % 2:
                crowd.call(SLEEP, [1.0, number], count // rounds)
            else:
                stuck(crowd, worker_pid(agent), count // rounds)
            not_served.samples.append(serves(sender, number))
            if number == min(2, rounds):  # it has seen both
                processes = {"agent": agent.pid, "worker": worker_pid(agent), "sender": os.getpid()}
                footprint = Footprint(broker, processes, memory_kib=8192, objects=max(500, count // 100))
            elif footprint is not None:
                footprint.check()
        assert footprint is not None
        kinds = [Figure(f"ended as {kind}", unit="", samples=[ends]) for kind, ends in sorted(crowd.ends.items())]
        hung = Figure("hung calls", max_limit=0, unit="", samples=[crowd.hung])
        return [*kinds, hung, outlived, not_served, *footprint.figures, *left_behind(sender, agent)]


class Crowd:
    """Makes many calls at once that must not be answered in time."""

    def __init__(self, sender: Sender, outlived: Figure):
        self.ends: Counter[str] = Counter()
        self.hung = 0
        self._sender = sender
        self._outlived = outlived
        self._room = threading.BoundedSemaphore(IN_FLIGHT)

    def call(self, address: str, params: Any, count: int, until_at: float = float("inf")) -> int:
        """*count* calls, or fewer if the time ``until_at`` comes first; gives how many, when all have ended."""
        made = 0
        while made < count and time.monotonic() < until_at:
            self._room.acquire()
            limit_s = random.uniform(*SHORT_S)
            started = time.monotonic()
            future = self._sender.call_async(address, params, timeout=limit_s)
            future.add_done_callback(lambda done, ends_at=started + limit_s: self._ended(done, ends_at))
            made += 1
        for taken in range(IN_FLIGHT):
            if not self._room.acquire(timeout=10.0):
                self.hung += IN_FLIGHT - taken
                raise TimeoutError(f"{IN_FLIGHT - taken} calls hang")
        self._room.release(IN_FLIGHT)
        return made

    def _ended(self, future: Any, ends_at: float) -> None:
        error = future.exception()
        self.ends["answered" if error is None else type(error).__name__] += 1
        self._outlived.samples.append(max(0.0, time.monotonic() - ends_at))
        self._room.release()


def stuck(crowd: Crowd, pid: int, count: int) -> None:
    """Stop the worker, and call it meanwhile, in as many turns as it takes."""
    while count > 0:
        os.kill(pid, signal.SIGSTOP)
        try:
            count -= crowd.call(ADD, [1, 2], count, time.monotonic() + STUCK_S)
        finally:
            os.kill(pid, signal.SIGCONT)
        time.sleep(1.0)  # let it beat


def serves(sender: Sender, number: int) -> int:
    """How many of a few calls and messages are not right."""
    wrong = 0
    for each in range(20):
        try:
            wrong += sender.call(ADD, [number, each], timeout=30.0)[1] != number + each
            sender.send(ENTER_MESSAGE, [f"message-{number}-{each}", 0.0], timeout=30.0)
        except ServiceBusError as error:
            print(f"afterwards: {error!r}", file=sys.stderr)
            wrong += 1
    return wrong


def left_behind(sender: Sender, agent: Agent) -> list[Figure]:
    """What Sender and agent say of themselves."""
    with suppress(TimeoutError):
        until(lambda: agent.workers()[0]["backlog"] == 0, "an empty inbox", 10.0)
        time.sleep(2.0)  # a worker tells its state once a second
    worker, status = agent.workers()[0], sender.status()
    unfinished = status["travelling"] + status["waiting"]
    print(f"the worker: {worker}\nthe Sender: {status}", file=sys.stderr)
    return [
        Figure("requests unfinished in the Sender", max_limit=0, unit="", samples=[unfinished]),
        Figure("calls in the inboxes of the worker", max_limit=0, unit="", samples=[worker["backlog"]]),
        Figure("ids unfinished in the journal", max_limit=0, unit="", samples=[worker["journal"]["unfinished"]]),
        *(Figure(f"worker counted: {kind}", unit="", samples=[n]) for kind, n in sorted(worker["counters"].items())),
    ]


# ----------------------------------------------------------------------------------------------------------------------


def name(broker: Broker) -> str:
    return f"{broker.host}:{broker.port}"


PARTS: dict[str, tuple[Callable[[list[Broker], int], list[Figure]], int, int]] = {
    "rolling": (rolling, 200, 2),
    "failback": (failback, 1000, 2),
    "reconnect": (reconnect, 1000, 1),
    "timeouts": (timeouts, 100_000, 1),
}
"""What runs, how often, and with how many brokers."""


def measure(part: str, count: int | None, json_path: Path | None) -> int:
    run, usual_count, broker_count = PARTS[part]
    count = count or usual_count
    pool = BrokerPool()
    started = time.monotonic()
    try:
        figures = run(pool.take(broker_count), count)
    finally:
        pool.close()
    facts = {"count": count, "minutes": round((time.monotonic() - started) / 60, 1)}
    path = None if json_path is None else json_path.with_stem(f"{json_path.stem}-{part}")
    return report(f"Endurance: {part}", figures, path, facts)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--count", type=int, help="how often; by default as often as the design asks for")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the name of each part is put behind its stem")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    return max(measure(part, options.count, options.json) for part in options.only)


if __name__ == "__main__":
    sys.exit(main())
