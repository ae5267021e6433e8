"""What a broker does to a consumer: its timeout, a channel that crashes, a queue that goes with the calls in it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from agents import Agent, service_entries
from probe import Probe
from waiting import wait_until

from servicebus.configuration import Configuration
from servicebus.sender import Sender
from servicebus.testing import Broker

pytestmark = pytest.mark.brokers(count=1)

StartAgent = Callable[..., Agent]
MakeSender = Callable[[Configuration], Sender]

LONG = {"kind": "message", "category": "audit", "name": "long", "target": "sample_services:LongRecord"}


class Background:
    """A call in a thread of its own."""

    def __init__(self, call: Callable[[], Any]):
        self.result: Any = None
        self._thread = threading.Thread(target=self._run, args=(call,))
        self._thread.start()

    def _run(self, call: Callable[[], Any]) -> None:
        try:
            self.result = call()
        except Exception as error:
            self.result = error

    def wait(self) -> Any:
        self._thread.join(30)
        return self.result


@pytest.fixture
def hasty(brokers: list[Broker]) -> Iterator[Broker]:
    """A broker that takes a delivery back after 2.5 s without an ack, where the default is half an hour."""
    brokers[0].evaluate(
        "application:set_env(rabbit, consumer_timeout, 2500), application:set_env(rabbit, channel_tick_interval, 200)."
    )
    yield brokers[0]
    brokers[0].evaluate(
        "application:set_env(rabbit, consumer_timeout, 1800000),"
        " application:set_env(rabbit, channel_tick_interval, 60000)."
    )


def has_timeout_of_queues(broker: Broker) -> bool:
    version = broker.evaluate("rabbit_misc:version().").strip('"').split(".")
    return tuple(map(int, version[:2])) >= (4, 3)


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
def test_what_takes_longer_than_the_consumer_timeout_is_done_once_and_answered(
    hasty: Broker, start_agent: StartAgent, make_sender: MakeSender, queue_type: str
) -> None:
    agent = start_agent([hasty], services=[*service_entries(), LONG], queue_type=queue_type).wait_consuming()
    sender = make_sender(agent.configuration())
    call = Background(lambda: sender.call("NODE-01.test.sleep", [4, "call"], timeout=30)[1])
    sender.send("NODE-01.audit.long", [4, "message"])
    # From 4.3 on it is the quorum queues that have this timeout; before, it was the channels.
    if queue_type == "quorum" or not has_timeout_of_queues(hasty):
        agent.wait_log("a service took longer than the broker's consumer_timeout")
    assert sender.call("NODE-01.math.add", [1, 2], timeout=30)[1] == 3
    assert call.wait() == "call", agent.log()
    wait_until(lambda: agent.noted("recorded") == ["message"], 20, agent.log)
    # Nothing is delivered for ever: the broker has its acks, and the worker keeps its connection.
    probe = Probe(hasty)
    agent.wait_consuming()
    wait_until(lambda: probe.depth("NODE-01.messages") == 0, 10)
    assert Counter(agent.noted("started")) == {"call": 1, "message": 1}


def test_a_channel_that_crashes_in_the_broker_is_opened_again(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    agent = start_agent(brokers).wait_consuming()
    sender = make_sender(agent.configuration())
    sender.send("NODE-01.audit.record", "before")
    brokers[0].evaluate("[exit(Channel, kill) || Channel <- rabbit_channel:list()], ok.")
    agent.wait_log("reconnecting")
    assert sender.call("NODE-01.math.add", [1, 2], timeout=30)[1] == 3
    sender.send("NODE-01.audit.record", "after", timeout=30)
    wait_until(lambda: agent.noted("recorded") == ["before", "after"], 20, agent.log)
    assert agent.worker()["restarts"] == 0


def test_calls_that_went_with_their_queue_are_sent_again_and_run_once(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    """The Sender's connection lives, the node answers its pings: only the age of the queue tells that they are gone."""
    agent = start_agent(brokers).wait_consuming()
    sender = make_sender(agent.configuration())
    calls = [
        Background(partial(sender.call, "NODE-01.test.sleep", [1, label], timeout=60))
        for label in ("running", "waiting")
    ]
    wait_until(lambda: agent.noted("started"), 10)
    Probe(brokers[0]).delete("NODE-01.rpc")
    assert [call.wait()[1] for call in calls] == ["running", "waiting"]
    assert max(Counter(agent.noted("started")).values()) == 1
