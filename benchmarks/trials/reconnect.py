"""Forced reconnects of a Sender and a worker, with requests on their way."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress

from benchmarks.agent import ADD, ENTER_CALL, ENTER_MESSAGE, Agent, sender_configuration
from benchmarks.figures import Figure
from benchmarks.footprint import Footprint, held_by
from benchmarks.trials import CHECKS, CLOSE_ALL
from benchmarks.waiting import counted, until
from servicebus.sender import Sender
from servicebus.testing import Broker, FaultProxy


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
                    processes = {"agent": agent.pid, "worker": agent.worker_pid, "sender": os.getpid()}
                    footprint = Footprint(broker, processes, memory_kib=4096, objects=max(500, count // 2))
                else:
                    footprint.check()
        assert footprint is not None
        return [took, not_right, *footprint.figures, *executions(agent, count)]


def links_of(broker: Broker) -> dict[str, int]:
    """What Sender and agent have open on *broker*."""
    return {name: count for name, count in held_by(broker).items() if name != "messages"}


def through_a_break(sender: Sender, number: int, break_all: Callable[[], object]) -> int:
    """Calls and messages are on their way when the connections break; returns how many do not end well."""
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

    def entered() -> Counter[str]:
        return Counter(agent.ledger_path.read_text().split())

    with suppress(TimeoutError):
        until(lambda: len(entered()) >= 6 * count, "all requests in the ledger", 30.0)
    found = entered()
    return [
        Figure("never executed", max_limit=0, unit="", samples=[6 * count - len(found)]),
        Figure("executed twice", max_limit=0, unit="", samples=[sum(each > 1 for each in found.values())]),
    ]
