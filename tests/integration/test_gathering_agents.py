"""Nodes are found, and all of them called: real agents, on real brokers, of which some are down or lie."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pika
import pytest
from agents import Agent
from probe import Probe
from waiting import wait_until

from servicebus.configuration import Configuration
from servicebus.errors import CallInterrupted, CallTimeout, NodeUnavailable, RemoteError
from servicebus.sender import Discovered, NodeInfo, Sender
from servicebus.testing import Broker

StartAgent = Callable[..., Agent]
MakeSender = Callable[[Configuration], Sender]


def names(*brokers: Broker) -> tuple[str, ...]:
    return tuple(f"{broker.host}:{broker.port}" for broker in brokers)


class Fleet:
    """Node A on both brokers, B on the first alone, C on the second alone."""

    def __init__(self, brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender):
        self.brokers = brokers
        hosts = {"A": brokers, "B": brokers[:1], "C": brokers[1:]}
        self.agents = {name: start_agent(on, node_name=f"NODE-{name}") for name, on in hosts.items()}
        for agent in self.agents.values():
            agent.wait_consuming(timeout_s=60)
        self.sender = make_sender(self.agents["A"].configuration())

    def servicebus(self, *arguments: str) -> tuple[int, Any, str]:
        """Run the command: its status, what it has printed as JSON, and stderr."""
        program = [sys.executable, "-c", "from servicebus.cli.main import main; main()", "--json", *arguments]
        environment = {**os.environ, "SERVICEBUS_CONFIG": str(self.agents["A"].folder / "agent.yaml")}
        done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, json.loads(done.stdout) if done.stdout else None, done.stderr


@pytest.fixture
def fleet(brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender) -> Fleet:
    return Fleet(brokers, start_agent, make_sender)


def test_several_agents_are_found_and_called(fleet: Fleet) -> None:
    first, second = fleet.brokers
    assert fleet.sender.nodes(quiet=1) == (
        NodeInfo("NODE-A", names(first, second)),
        NodeInfo("NODE-B", names(first)),
        NodeInfo("NODE-C", names(second)),
    )
    found = {each.name: each for each in fleet.sender.services("NODE-[AB]", quiet=1)}
    assert found["math.add"].nodes == ("NODE-A", "NODE-B") and found["audit.record"].kind == "message"
    gathered = fleet.sender.gather("NODE-*.math.add", [1, 2], 20, quiet=1)
    assert gathered.results == {"NODE-A": 3, "NODE-B": 3, "NODE-C": 3}
    assert not (gathered.errors or gathered.unanswered or gathered.lacking or gathered.unreachable)
    raised = fleet.sender.gather("NODE-[BC].test.raises", 1, 20, quiet=1)
    assert sorted(raised.errors) == ["NODE-B", "NODE-C"] and not raised.results
    assert all(isinstance(error, RemoteError) for error in raised.errors.values())


def test_the_commands_find_and_call_them(fleet: Fleet) -> None:
    status, said, _ = fleet.servicebus("nodes", "NODE-[AB]", "--quiet", "1")
    assert status == 0 and [each["name"] for each in said["nodes"]] == ["NODE-A", "NODE-B"]
    status, said, _ = fleet.servicebus("services", "NODE-C", "--quiet", "1")
    assert status == 0 and {"name": "math.add", "kind": "call", "nodes": ["NODE-C"]} in said["services"]
    status, said, _ = fleet.servicebus("gather", "*.math.add", "[3, 4]", "--quiet", "1")
    assert status == 0 and said["results"] == {"NODE-A": 7, "NODE-B": 7, "NODE-C": 7}
    assert fleet.servicebus("nodes", "OTHER-*")[0] == 4
    assert fleet.servicebus("gather", "*.test.missing", "--quiet", "1")[0] == 8


def test_an_agent_that_is_killed_or_frozen_is_told(fleet: Fleet) -> None:
    os.killpg(fleet.agents["B"].pid, signal.SIGKILL)
    wait_until(lambda: [each.name for each in fleet.sender.nodes()] == ["NODE-A", "NODE-C"])
    (worker,) = fleet.agents["C"].worker_pids()
    os.kill(worker, signal.SIGSTOP)
    try:
        wait_until(lambda: [each.name for each in fleet.sender.nodes()] == ["NODE-A"])
        given = fleet.sender.gather("*.math.add", [1, 2], 6, nodes=["NODE-A", "NODE-B", "NODE-C"])
    finally:
        os.kill(worker, signal.SIGCONT)
    assert given.results == {"NODE-A": 3}
    assert isinstance(given.unanswered["NODE-B"], NodeUnavailable)
    assert isinstance(given.unanswered["NODE-C"], NodeUnavailable | CallTimeout | CallInterrupted)


def has_reason(found: Discovered[NodeInfo], host: str, text: str) -> Discovered[NodeInfo] | None:
    return found if text in found.unreachable.get(host, "") else None


def test_a_broker_that_is_down_hides_no_node_that_others_reach(fleet: Fleet) -> None:
    first, second = fleet.brokers
    first.kill()
    # An attempt that was under way then ended by another reason.
    found = wait_until(lambda: has_reason(fleet.sender.nodes(quiet=1), names(first)[0], "refused"), 30)
    assert tuple(found.unreachable) == names(first)
    assert found == (NodeInfo("NODE-A", names(second)), NodeInfo("NODE-C", names(second)))
    gathered = fleet.sender.gather("*.math.add", [1, 2], 20, quiet=1)
    assert gathered.results == {"NODE-A": 3, "NODE-C": 3} and tuple(gathered.unreachable) == names(first)
    status, said, _ = fleet.servicebus("nodes", "--quiet", "1")
    assert status == 10 and list(said["unreachable"]) == list(names(first))
    second.kill()
    status, _, stderr = fleet.servicebus("nodes")
    assert status == 4 and json.loads(stderr)["error"] == "NoBrokerAvailable"


@pytest.mark.brokers(count=1)
def test_what_is_deleted_is_bound_again(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    """The worker's own queue lives on, and nothing tells it that the exchange has gone, and its bindings with it."""
    agent = start_agent(brokers).wait_consuming()
    sender = make_sender(agent.configuration())
    Probe(brokers[0]).delete_exchange("servicebus")
    wait_until(lambda: [each.name for each in sender.nodes()] == ["NODE-01"], 30, agent.log)
    assert agent.worker()["restarts"] == 0


@contextmanager
def stranger(broker: Broker, answers: list[bytes], times: int) -> Iterator[list[bytes]]:
    """A client of *broker* without the secret, that is asked with all nodes, and answers *answers*, so often.

    Gives what it was asked, and plays that again to all nodes.
    """
    asked: list[bytes] = []
    ready = threading.Event()
    connection = pika.BlockingConnection(pika.ConnectionParameters(broker.host, broker.port))
    channel = connection.channel()
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.queue_bind(queue, "servicebus", "*.discover")

    def hear(_channel: Any, _method: Any, properties: Any, body: bytes) -> None:
        if body in asked:
            return  # our own replay
        asked.append(body)
        about = pika.BasicProperties(correlation_id=properties.correlation_id)
        for number in range(times):
            channel.basic_publish("", properties.reply_to, answers[number % len(answers)], about)
        again = pika.BasicProperties(reply_to=properties.reply_to, correlation_id=properties.correlation_id)
        for _ in range(10):
            channel.basic_publish("servicebus", "*.discover", body, again)

    def serve() -> None:
        channel.basic_consume(queue, hear, auto_ack=True)
        ready.set()
        channel.start_consuming()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        assert ready.wait(20)
        yield asked
    finally:
        connection.add_callback_threadsafe(channel.stop_consuming)
        thread.join()
        connection.close()


@pytest.mark.brokers(count=1)
def test_a_stranger_who_answers_in_floods_is_neither_believed_nor_waited_for(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    agent = start_agent(brokers).wait_consuming(timeout_s=60)
    sender = make_sender(agent.configuration())
    true = sender.nodes(quiet=1)
    assert true == (NodeInfo("NODE-01", names(*brokers)),)
    forged = [b"", b"<response", b"x" * 1000, (Path(__file__).read_bytes())]
    with stranger(brokers[0], forged, 2000) as asked:
        assert sender.nodes(quiet=1) == true
        wait_until(lambda: len(asked) == 1 and sender.status()["unverified_replies"] > 100)
        wait_until(lambda: agent.counters().get("refused.replayed", 0) >= 10, 20, agent.log)
    assert sender.nodes(quiet=1) == true
