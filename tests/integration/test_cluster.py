"""A private RabbitMQ cluster; and a cluster as one host: it works through the loss of any one of its members."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pika
import pytest
from agents import Agent
from probe import Probe
from waiting import wait_until

from servicebus.configuration import Configuration
from servicebus.errors import CallInterrupted, NodeUnavailable, ServiceBusError
from servicebus.sender import Sender
from servicebus.testing import Broker, Cluster
from servicebus.testing.processes import marked_processes
from tests.chaos import erlang

StartAgent = Callable[..., Agent]
MakeSender = Callable[[Configuration], Sender]

pytestmark = pytest.mark.on_request


MESSAGES = "NODE-01.messages"


QUORUM = {"x-queue-type": "quorum"}


def put(broker: Broker, queue: str, body: bytes) -> None:
    with pika.BlockingConnection(pika.URLParameters(broker.url)) as connection:
        channel = connection.channel()
        channel.queue_declare(queue, durable=True, arguments=QUORUM)
        channel.confirm_delivery()
        channel.basic_publish("", queue, body, mandatory=True)


def take(broker: Broker, queue: str) -> bytes | None:
    with pika.BlockingConnection(pika.URLParameters(broker.url)) as connection:
        body: bytes | None = connection.channel().basic_get(queue, auto_ack=True)[2]
        return body


def as_host(members: list[Broker]) -> dict[str, Any]:
    return {"name": "mq", "members": [f"{member.host}:{member.port}" for member in members]}


def strike_off(member: Broker, queue: str) -> None:
    """As the broker does when the process of another queue of that name has ended."""
    name = f'rabbit_misc:r(<<"/">>, queue, <<"{queue}">>)'
    tables = ", ".join(f"mnesia:delete({{{table}, {name}}})" for table in ("rabbit_queue", "rabbit_durable_queue"))
    assert member.evaluate(f"mnesia:transaction(fun() -> {tables} end).") == "{atomic,ok}"


class Traffic:
    """Calls and messages without end, from threads of their own."""

    def __init__(self, sender: Sender):
        self._sender = sender
        self._ended = threading.Event()
        self.answered = 0
        self.confirmed: list[str] = []
        self.errors: list[str] = []
        self._threads = [threading.Thread(target=each) for each in (self._call, self._send)]

    def _call(self) -> None:
        while not self._ended.is_set():
            try:
                assert self._sender.call("NODE-01.math.add", [1, 2], timeout=20)[1] == 3
                self.answered += 1
            except ServiceBusError as error:
                self.errors.append(f"call: {error}")
            self._ended.wait(0.005)

    def _send(self) -> None:
        number = 0
        while not self._ended.is_set():
            number += 1
            try:
                self._sender.send("NODE-01.audit.record", f"message {number}", timeout=20)
                self.confirmed.append(f"message {number}")
            except ServiceBusError as error:
                self.errors.append(f"send: {error}")
            self._ended.wait(0.005)

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        self.wait_flowing()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def wait_flowing(self, timeout_s: float = 30.0) -> None:
        """Wait until ten more calls and messages have come through."""
        calls, messages = self.answered + 10, len(self.confirmed) + 10
        wait_until(
            lambda: self.answered >= calls and len(self.confirmed) >= messages,
            timeout_s,
            lambda: f"calls and messages flow; {self.errors[-3:]}",
        )


@pytest.mark.parametrize("lost", ["the leader of the messages", "the one that all are connected to"])
def test_calls_and_messages_go_on_when_a_member_is_killed(
    broker_cluster: Cluster, start_agent: StartAgent, make_sender: MakeSender, lost: str
) -> None:
    first, second, third = broker_cluster.members
    # A quorum queue is led by the member on which it was declared.
    Probe(first).declare(MESSAGES, durable=True, arguments=QUORUM)
    agent = start_agent([as_host([second, third, first])], queue_type="quorum").wait_consuming()
    assert broker_cluster.leader_of(MESSAGES) is first
    assert broker_cluster.leader_of("NODE-01.rpc") is second
    with Traffic(make_sender(agent.configuration())) as traffic:
        (first if "leader" in lost else second).kill()
        traffic.wait_flowing()
    assert traffic.errors == []
    wait_until(
        lambda: set(traffic.confirmed) <= set(agent.noted("recorded")), 20, lambda: f"all confirmed ones\n{agent.log()}"
    )
    assert max(Counter(agent.noted("recorded")).values()) == 1


def test_a_queue_for_calls_that_went_down_with_its_member_is_replaced_by_one_for_all_workers(
    broker_cluster: Cluster, start_agent: StartAgent, make_sender: MakeSender, tmp_path: Path
) -> None:
    settings = {"queue_type": "quorum", "journal": str(tmp_path / "journal")}
    first, second, third = broker_cluster.members
    agents = [
        start_agent([as_host(order)], **settings).wait_consuming()
        for order in ([first, second, third], [second, third, first], [third, second, first])
    ]
    assert broker_cluster.leader_of("NODE-01.rpc") is first
    sender = make_sender(agents[1].configuration())
    with Traffic(sender) as traffic:
        first.kill()
        traffic.wait_flowing()
        probe = Probe(third)
        wait_until(lambda: probe.consumers("NODE-01.rpc~2") == 3, 30, lambda: agents[2].log())
        broker_cluster.start()
        agents[0].stop()
        agents.append(start_agent([as_host([first, second, third])], **settings).wait_consuming())
        assert probe.consumers("NODE-01.rpc~2") == 3
        assert not probe.consumers("NODE-01.rpc")
        traffic.wait_flowing()
    assert traffic.errors == []

    def recorded() -> Counter[str]:
        return Counter(label for agent in agents for label in agent.noted("recorded"))

    wait_until(lambda: set(recorded()) >= set(traffic.confirmed), 20, lambda: f"all confirmed ones\n{agents[2].log()}")
    assert max(recorded().values()) == 1


def test_workers_leave_a_queue_that_the_cluster_has_lost_though_it_lives_on(
    broker_cluster: Cluster, start_agent: StartAgent, make_sender: MakeSender, tmp_path: Path
) -> None:
    """It has its consumers and tells them nothing. When the last one leaves it, the name goes with it a second time."""
    first, second, third = broker_cluster.members
    if "true" in first.evaluate("catch rabbit_khepri:is_enabled()."):
        pytest.skip("the definitions are not in Mnesia")
    settings = {"queue_type": "quorum", "journal": str(tmp_path / "journal")}
    agents = [
        start_agent([as_host(order)], **settings).wait_consuming()
        for order in ([first, second, third], [second, third, first])
    ]
    probe = Probe(third)
    wait_until(lambda: probe.consumers("NODE-01.rpc") == 2, 30, agents[0].log)
    for name in ("NODE-01.rpc", "NODE-01.control"):
        strike_off(first, name)
    wait_until(lambda: probe.consumers("NODE-01.rpc~2") == 2, 60, agents[1].log)
    wait_until(lambda: probe.consumers("NODE-01.control~2") == 2, 60, agents[1].log)
    with Traffic(make_sender(agents[0].configuration())) as traffic:
        traffic.wait_flowing()
    assert traffic.errors == []


def test_a_call_that_a_stopping_agent_refused_is_not_run_from_a_queue_that_came_back(
    broker_cluster: Cluster, start_agent: StartAgent, make_sender: MakeSender
) -> None:
    """The queue that comes back with its member is bound as before: it is given a copy of each call."""
    settings = {"queue_type": "quorum"}
    first, second, third = broker_cluster.members
    agent = start_agent([as_host([first, second, third])], **settings).wait_consuming()
    assert broker_cluster.leader_of("NODE-01.rpc") is first
    probe = Probe(third)
    first.kill()
    wait_until(lambda: probe.consumers("NODE-01.rpc~2") == 1, 60, agent.log)
    broker_cluster.start()
    sender = make_sender(agent.configuration())
    assert sender.call("NODE-01.math.add", [1, 2], timeout=60)[1] == 3
    wait_until(lambda: probe.depth("NODE-01.rpc") == 1, 60, agent.log)
    agent.stop()
    probe.publish("NODE-01.rpc", b"and what would be refused")
    again = start_agent([as_host([first, second, third])], **settings).wait_consuming()
    assert (probe.depth("NODE-01.rpc"), probe.consumers("NODE-01.rpc")) == (0, 1)
    assert sender.call("NODE-01.math.add", [1, 2], timeout=60)[1] == 3
    assert "call refused" not in again.log(), "it did not come"


def test_classic_messages_wait_for_their_member_while_calls_go_on(
    broker_cluster: Cluster, start_agent: StartAgent, make_sender: MakeSender
) -> None:
    first, second, third = broker_cluster.members
    Probe(first).declare(MESSAGES, durable=True)
    Probe(first).publish(MESSAGES, b"no envelope, a dead letter")
    agent = start_agent([as_host([second, third, first])])
    agent.wait_consuming()
    sender = make_sender(agent.configuration(send_timeout=2))
    first.kill()
    wait_until(lambda: sender.call("NODE-01.math.add", [1, 2], timeout=20)[1] == 3, 30)
    line = agent.wait_log("ERROR", MESSAGES)
    assert "mq" in line
    assert "is out of reach: its member of the cluster is away" in line
    assert "its messages wait until it is started again" in line
    wait_until(lambda: agent.worker()["state"] == "consuming" and not agent.worker()["healthy"], 10)
    assert MESSAGES in agent.worker()["last_error"]
    with pytest.raises(ServiceBusError):
        sender.send("NODE-01.audit.record", "too early")
    broker_cluster.start()
    wait_until(lambda: agent.worker()["healthy"], 30, agent.log)
    sender.send("NODE-01.audit.record", "in time", timeout=20)
    wait_until(lambda: "in time" in agent.noted("recorded"), 20, agent.log)


def asks_all_before_a_reply(broker: Broker) -> bool:
    """RabbitMQ 3.12 to 4.1.4 ask every member before each direct reply: one that is silent holds up all replies."""
    version = tuple(map(int, broker.evaluate("rabbit_misc:version().").strip('"').split(".")))
    return (3, 12) <= version < (4, 1, 5)


def set_ticktime(members: list[Broker], seconds: int) -> None:
    for member in members:
        member.evaluate(f"net_kernel:set_net_ticktime({seconds}, 0).")


def answers(sender: Sender) -> bool:
    try:
        return bool(sender.call("NODE-01.math.add", [1, 2], timeout=30)[1] == 3)
    except (CallInterrupted, NodeUnavailable):
        return False


def test_a_sender_passes_over_a_member_that_is_dead(
    broker_cluster: Cluster, start_agent: StartAgent, make_sender: MakeSender
) -> None:
    first, second, third = broker_cluster.members
    agent = start_agent([as_host([third, second, first])], queue_type="quorum").wait_consuming()
    first.kill()
    assert answers(make_sender(agent.configuration(hosts=[as_host([first, second, third])])))


def test_a_sender_passes_over_a_member_that_is_silent(
    broker_cluster: Cluster, start_agent: StartAgent, make_sender: MakeSender
) -> None:
    first, second, third = broker_cluster.members
    agent = start_agent([as_host([third, second, first])], queue_type="quorum").wait_consuming()
    is_held_up = asks_all_before_a_reply(third)
    if is_held_up:
        set_ticktime([first, second, third], 8)
    first.freeze()
    sender = make_sender(agent.configuration(hosts=[as_host([first, second, third])]))
    if is_held_up:
        wait_until(lambda: answers(sender), 60, "an answer after the others have given the silent member up")
        # With another member less the last one would pause.
        first.kill()
        set_ticktime([second, third], 60)
        return
    assert answers(sender)
    second.kill()
    assert answers(sender)


def test_a_message_in_a_quorum_queue_survives_the_member_that_led_it(broker_cluster: Cluster) -> None:
    first, *others = broker_cluster.members
    put(first, "kept", b"one")
    leader = broker_cluster.leader_of("kept")
    assert leader in broker_cluster.members
    leader.kill()
    other = next(member for member in (first, *others) if member.is_running)
    wait_until(lambda: broker_cluster.leader_of("kept") not in (None, leader))
    assert take(other, "kept") == b"one"


def test_a_killed_member_comes_back_into_the_cluster_and_healing_empties_it(broker_cluster: Cluster) -> None:
    put(broker_cluster.members[0], "left", b"one")
    broker_cluster.members[1].kill()
    broker_cluster.heal()
    assert [member.state for member in broker_cluster.members] == ["running"] * 3
    assert broker_cluster.leader_of("left") is None
    put(broker_cluster.members[1], "left", b"two")
    assert take(broker_cluster.members[2], "left") == b"two"


def test_each_member_tells_the_rig_of_the_consumers_that_are_connected_to_it(broker_cluster: Cluster) -> None:
    first, second, _ = broker_cluster.members
    Probe(first).declare(MESSAGES, durable=True, arguments=QUORUM)
    with ExitStack() as stack:
        for number, member in enumerate((first, second), 1):
            parameters = pika.URLParameters(member.url)
            parameters.client_properties = {"connection_name": f"pid {number}"}
            connection = stack.enter_context(pika.BlockingConnection(parameters))
            connection.channel().basic_consume(MESSAGES, lambda *_: None)
        told = [erlang.read_consumers(member.evaluate(erlang.CONSUMERS)) for member in broker_cluster.members]
    assert told == [{MESSAGES: [1]}, {MESSAGES: [2]}, {MESSAGES: []}]


def part_tables(one: Broker, other: Broker) -> None:
    """Have Mnesia on *one* take the one on *other* for down, as when their connection breaks for milliseconds."""
    peer = f"rpc:call('{other.node_name}', erlang, whereis, [mnesia_monitor])"
    one.evaluate(f"mnesia_monitor ! {{'EXIT', {peer}, parted}}.")


def test_a_cluster_whose_members_share_no_tables_is_not_whole_until_it_is_healed(broker_cluster: Cluster) -> None:
    first, second, third = broker_cluster.members
    if third.evaluate("catch rabbit_khepri:is_enabled().") == "true":
        pytest.skip("without Mnesia this cannot happen")
    for other in (first, second):
        part_tables(third, other)
        part_tables(other, third)
    with pytest.raises(ServiceBusError, match="is not whole"):
        broker_cluster.wait_whole(2)
    broker_cluster.heal()
    put(third, "shared", b"one")
    assert take(first, "shared") == b"one"


def test_a_cluster_ends_with_the_process_that_made_it(tmp_path: Path) -> None:
    program = (
        "import sys, servicebus.testing\n"
        f"with servicebus.testing.cluster(2, {str(tmp_path)!r}) as mq: print('up', flush=True); sys.stdin.read()"
    )
    owner = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"up\n"
        assert marked_processes(tmp_path)
        owner.send_signal(signal.SIGKILL)
    wait_until(lambda: not marked_processes(tmp_path), 10)
