"""Rolling restarts under load."""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack

from benchmarks.agent import Agent, place, sender_configuration
from benchmarks.figures import Figure
from benchmarks.traffic import Traffic
from benchmarks.trials import PAUSE_S, SENDERS
from benchmarks.waiting import counted, until
from servicebus.sender import Sender
from servicebus.testing import Broker


def rolling(brokers: list[Broker], count: int) -> list[Figure]:
    """Half by HUP, which replaces the workers of the only agent; half by TERM and a start of each of two agents."""
    hosts = [place(broker) for broker in brokers]
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
    """HUP; returns how long it took until all workers are others and healthy."""
    old = {worker["pid"] for worker in agent.workers()}
    os.kill(agent.pid, signal.SIGHUP)

    def all_new() -> bool:
        time.sleep(0.05)
        workers = agent.workers()
        return all(worker["healthy"] for worker in workers) and not old & {worker["pid"] for worker in workers}

    return until(all_new, "all workers replaced and healthy", 90.0)
