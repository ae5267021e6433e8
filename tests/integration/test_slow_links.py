"""Slow links: bytes that move are life, and a path on which none move is found as soon as ever."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import pytest
from agents import Agent
from waiting import wait_until

from servicebus.configuration import Configuration
from servicebus.sender import Sender
from servicebus.testing import Broker, FaultProxy, Mode

StartAgent = Callable[..., Agent]
MakeSender = Callable[[Configuration], Sender]

ECHO = "NODE-01.test.echo"
RATE = 500_000
"""Bytes a second: the lowest that docs/failover.rst promises."""
LONG = "x" * (3 * RATE)
"""Each way takes three seconds, twice as long as a ping may, and three times as long as the echo below."""


def place(host: Broker | FaultProxy) -> str:
    return f"{host.host}:{host.port}"


def test_a_long_call_over_a_senders_slow_link_arrives_once_with_small_ones_beside_it(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    agent = start_agent(brokers).wait_consuming()
    with FaultProxy(brokers[0].port) as first, FaultProxy(brokers[1].port) as second:
        hosts = [place(first), place(second)]
        sender = make_sender(agent.configuration(hosts=hosts, call_timeout=60))
        assert sender.call(ECHO, "warm")[1] == "warm"
        first.set_rate(RATE)
        second.set_rate(RATE)
        long = sender.call_async(ECHO, LONG)
        time.sleep(0.2)
        small = sender.call_async(ECHO, "small")
        assert small.result(60)[1] == "small"
        assert long.result(60)[1] == LONG
        executed = sum(agent.counters(index).get("executed.call", 0) for index in (0, 1))
        assert executed <= 3, "none was run twice"
        assert second.forwarded < len(LONG), "nothing long went another way"


def test_a_worker_behind_a_slow_link_takes_and_answers_long_calls_without_connecting_anew(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    with FaultProxy(brokers[0].port) as proxy:
        agent = start_agent([place(proxy)], watcher_interval=0.5, watcher_timeout=1.0).wait_consuming()
        accepted = proxy.accepted
        # Pings wait behind the payload where no Sender sees it: its limit is what docs/failover.rst says to set.
        sender = make_sender(agent.configuration(hosts=[place(brokers[0])], call_timeout=60, path_ping_timeout=20))
        proxy.set_rate(RATE)
        assert sender.call(ECHO, LONG)[1] == LONG
        assert sender.call(ECHO, "small")[1] == "small"
        assert proxy.accepted == accepted, agent.log()


def test_a_link_that_falls_silent_in_the_middle_of_a_long_call_is_found_as_soon_as_ever(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "servicebus.client")
    agent = start_agent(brokers).wait_consuming()
    with FaultProxy(brokers[0].port) as proxy:
        sender = make_sender(agent.configuration(hosts=[place(proxy), place(brokers[1])], call_timeout=60))
        assert sender.call(ECHO, "warm")[1] == "warm"
        proxy.set_rate(RATE)
        long = sender.call_async(ECHO, LONG)
        time.sleep(1.5)
        proxy.set_mode(Mode.DROP)
        assert long.result(60)[1] == LONG
        wait_until(lambda: "silent for 2 s" in caplog.text)


def test_a_trickle_of_deliveries_does_not_keep_a_worker_on_a_link_that_swallows_its_answers(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    """They go on until the window is full, which takes minutes here."""
    with FaultProxy(brokers[0].port) as proxy:
        agent = start_agent([place(proxy)], watcher_interval=0.5, watcher_timeout=1.0, prefetch=5000).wait_consuming()
        sender = make_sender(agent.configuration(hosts=[place(brokers[0])]))
        proxy.set_mode(Mode.DROP_TO_SERVER)
        for number in range(600):
            sender.send("NODE-01.audit.record", number)
            if agent.log_lines("no echo through the broker"):
                break
            time.sleep(0.05)
        else:
            raise AssertionError(f"600 deliveries later it still hopes\n{agent.log()}")
