"""What the failover benchmark does to a broker, and how it is undone."""

from __future__ import annotations

import os
import random
import signal
import time
from typing import Protocol

from benchmarks.agent import Agent
from servicebus.testing import Broker
from tests.network import Network


class Fault(Protocol):
    """Breaks one broker at a time."""

    def strike(self, broker: Broker) -> None:
        """Break it, and return at once: the next call must not profit from our waiting."""

    def undo(self, broker: Broker, agent: Agent, struck_at: float) -> float:
        """Repair it once the agent has noticed; returns the Unix time at which the broker accepted AMQP again."""


class Kill:
    """``kill -9`` of the broker, and a start on the same data."""

    def strike(self, broker: Broker) -> None:
        os.kill(broker.pid, signal.SIGKILL)

    def undo(self, broker: Broker, agent: Agent, struck_at: float) -> float:
        broker.kill()
        broker.start()
        return time.time()


class Freeze:
    """SIGSTOP: the kernel goes on to accept connections and data, and nothing is ever answered."""

    def strike(self, broker: Broker) -> None:
        broker.freeze()

    def undo(self, broker: Broker, agent: Agent, struck_at: float) -> float:
        _wait_until_noticed(broker, agent, struck_at)
        broker.thaw()
        return _answers_at(broker)


class Drop:
    """All packets between the programs and the broker are lost, in both directions."""

    def __init__(self, network: Network):
        self._network = network

    def strike(self, broker: Broker) -> None:
        self._network.drop()

    def undo(self, broker: Broker, agent: Agent, struck_at: float) -> float:
        _wait_until_noticed(broker, agent, struck_at)
        self._network.heal()
        return _answers_at(broker)


def _wait_until_noticed(broker: Broker, agent: Agent, struck_at: float) -> None:
    agent.wait_for(f"{broker.host}:{broker.port}: no echo", since=struck_at)
    # Where in its backoff the agent is when the broker returns is chance, so let it be chance here.
    time.sleep(random.uniform(0.0, 3.0))


def _answers_at(broker: Broker) -> float:
    while not broker.answers(timeout_s=0.2):
        time.sleep(0.005)
    return time.time()
