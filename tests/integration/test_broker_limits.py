"""A broker with small limits: what does not fit costs its own request, and not the node's place on the broker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from agents import Agent
from probe import Probe
from waiting import wait_until

from servicebus.configuration import Configuration
from servicebus.errors import RemoteError
from servicebus.sender import Sender
from servicebus.testing import Broker
from servicebus.testing import brokers as private_brokers
from servicebus.wire import headers

StartAgent = Callable[..., Agent]
MakeSender = Callable[[Configuration], Sender]

LIMIT = 200_000


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with private_brokers(count=1, rabbitmq_conf=f"frame_max = 4096\nmax_message_size = {LIMIT}") as (broker,):
        yield broker


def test_what_is_too_large_for_the_broker_costs_its_own_request(
    broker: Broker, start_agent: StartAgent, make_sender: MakeSender
) -> None:
    agent = start_agent([broker]).wait_consuming()
    sender, probe = make_sender(agent.configuration()), Probe(broker)

    # A failed message with more detail and trace than a frame holds.
    sender.send("NODE-01.audit.record", "boom" + "x" * 6_000)
    wait_until(lambda: probe.depth("NODE-01.dead"), 20, agent.log)
    ((_, marks),) = probe.take_all("NODE-01.dead")
    assert marks[headers.REASON] == "ValueError"

    # Replies beside each other, of which some are too large.
    largest = LIMIT - 1_000
    sizes = [10, largest, LIMIT + 5_000, 70_000, LIMIT, 20, LIMIT + 1]
    futures = [sender.call_async("NODE-01.test.large", size, timeout=30) for size in sizes]
    for size, future in zip(sizes, futures, strict=True):
        if size <= largest:
            assert future.result(30) == (future.result()[0], "x" * size)
        else:
            with pytest.raises(RemoteError, match="max_message_size") as told:
                future.result(30)
            assert told.value.type == "EnvelopeError"
    for _ in range(10):  # known now: it is not tried again
        with pytest.raises(RemoteError, match="oversized"):
            sender.call("NODE-01.test.large", 2 * LIMIT, timeout=30)

    def refused() -> int:
        return Path(broker.log_path).read_text().count("larger than configured max size")

    wait_until(refused, 20, what="the broker's log")
    assert refused() == 1
    assert "frame_too_large" not in Path(broker.log_path).read_text()
    assert agent.worker()["restarts"] == 0
    assert agent.log_lines("reconnecting") == []
