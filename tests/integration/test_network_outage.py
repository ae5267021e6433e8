"""A network that drops packets for a while: a broker in a network namespace of its own, behind a veth pair."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest
from agents import Agent
from probe import Probe
from waiting import wait_until

from servicebus.configuration import Configuration
from servicebus.sender import Sender
from servicebus.testing import Broker, BrokerPool
from tests.network import FAR, Network, may_make_networks

StartAgent = Callable[..., Agent]
MakeSender = Callable[[Configuration], Sender]
MakeProbe = Callable[..., Probe]

ADD = "NODE-01.math.add"

pytestmark = [
    pytest.mark.xdist_group("network"),  # of which there is one on a machine
    pytest.mark.skipif(
        not may_make_networks(),
        reason="needs root, and to be let into network namespaces, which a plain chroot is not",
    ),
]


@pytest.fixture
def network() -> Iterator[Network]:
    with Network() as network:
        yield network


@pytest.fixture
def far_broker(network: Network, broker_pool: BrokerPool) -> Iterator[Broker]:
    broker = Broker(broker_pool.folder / "far", "far", "loopback_users = none", host=FAR)
    try:
        with network.entered():
            broker.launch()
        broker.wait_ready()
        yield broker
    finally:
        broker.close()


def test_after_an_outage_no_call_goes_to_a_consumer_that_is_dead(
    network: Network, far_broker: Broker, start_agent: StartAgent, make_sender: MakeSender, make_probe: MakeProbe
) -> None:
    """The resets that the agent sent into the outage are lost: the broker must be told again, or it would give every
    second call to the connections from before, until its heartbeat finds out (which is slow here, to see it)."""
    agent = start_agent([far_broker], watcher_interval=0.5, watcher_timeout=1.0, heartbeat_interval=60)
    agent.wait_consuming()
    network.drop()
    agent.wait_log("no echo")
    agent.wait_log("no connection within")  # so that the resets were sent, too, while nothing got through
    network.heal()
    wait_until(lambda: len(agent.log_lines("consuming for")) == 2, 20, agent.log)
    probe = make_probe(far_broker)
    wait_until(lambda: probe.consumers("NODE-01.rpc") == 1, 20)
    sender = make_sender(agent.configuration(path_ping_timeout=60))
    assert [sender.call(ADD, [number, 1], timeout=60)[1] for number in range(20)] == list(range(1, 21))
    assert sender.status()["hosts"][0]["calls"] == 20, "none had to be sent again"


@pytest.mark.brokers(count=1)
def test_dropped_packets_are_found_by_a_ping(
    network: Network,
    far_broker: Broker,
    brokers: list[Broker],
    start_agent: StartAgent,
    make_sender: MakeSender,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "servicebus.client")
    agent = start_agent([far_broker, *brokers]).wait_consuming()
    sender = make_sender(agent.configuration())
    assert sender.call(ADD, [1, 1])[1] == 2
    network.drop()
    assert sender.call(ADD, [1, 2])[1] == 3
    wait_until(lambda: "silent for 2 s" in caplog.text, 20, "found by a ping, and not by TCP or at a heartbeat")
    network.heal()
