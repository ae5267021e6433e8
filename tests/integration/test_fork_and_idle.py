"""A Sender over a fork, and over a silence of many heartbeats."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest
from agents import Agent
from waiting import wait_until

import servicebus.client.session
from servicebus.configuration import Configuration
from servicebus.sender import Sender
from servicebus.testing import Broker
from servicebus.transport.iothread import client_loop

StartAgent = Callable[..., Agent]
MakeSender = Callable[[Configuration], Sender]

ADD = "NODE-01.math.add"
# Python 3.12 warns of every fork while threads run; a Sender that was used has one, and is made to bear it.
may_fork = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


class Child:
    """``work()`` in a forked child; ``result()`` is what it gave, or the repr of what it raised."""

    def __init__(self, work: Callable[[], Any]):
        self._read_end, write_end = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                answer = work()
            except BaseException as error:
                answer = repr(error)
            os.write(write_end, json.dumps(answer).encode())
            os._exit(0)
        os.close(write_end)

    def result(self) -> Any:
        with os.fdopen(self._read_end) as pipe:
            answer = json.load(pipe)
        os.waitpid(self._pid, 0)
        return answer


def sums(sender: Sender, start: int) -> list[int]:
    return [sender.call(ADD, [number, 1], timeout=20)[1] for number in range(start, start + 50)]


@may_fork
@pytest.mark.parametrize("is_used_before", [False, True])
def test_a_sender_made_before_a_fork_works_in_parent_and_child(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender, is_used_before: bool
) -> None:
    """At the same time, so that answers that reach the wrong process would be seen as missing or wrong."""
    agent = start_agent(brokers).wait_consuming()
    sender = make_sender(agent.configuration())
    if is_used_before:
        assert sender.call(ADD, [1, 1])[1] == 2
    child = Child(lambda: sums(sender, 1000))
    assert sums(sender, 0) == list(range(1, 51))
    assert child.result() == list(range(1001, 1051))
    assert sums(sender, 0) == list(range(1, 51)), "the child's end must not take the parent's connection along"


@may_fork
def test_children_of_one_sender_number_their_calls_for_themselves(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    """Ids that a parent and a child both used would be taken for replays."""
    agent = start_agent(brokers).wait_consuming()
    sender = make_sender(agent.configuration())
    sender.call(ADD, [1, 1])
    children = [Child(lambda: sender.call(ADD, [2, 2])) for _ in range(3)]
    assert [child.result() for child in children] == [[1, 4]] * 3
    assert sender.call(ADD, [3, 3]) == (2, 6)


@may_fork
def test_calls_in_flight_during_a_fork_are_answered_in_the_parent(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    agent = start_agent(brokers, threads={"test.sleep": 8}).wait_consuming()
    sender = make_sender(agent.configuration())
    futures = [sender.call_async("NODE-01.test.sleep", [0.3, number]) for number in range(8)]
    wait_until(lambda: len(agent.noted("started")) == 8)
    child = Child(lambda: sender.call(ADD, [20, 22])[1])
    assert [future.result(10)[1] for future in futures] == list(range(8))
    assert child.result() == 42


@may_fork
def test_a_fork_in_the_middle_of_another_threads_first_call_does_not_lock_the_child_out(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    """The lock that this other thread holds is copied locked, and in the child nobody is left to unlock it."""
    agent = start_agent(brokers).wait_consuming()
    sender = make_sender(agent.configuration())
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with servicebus.client.session._session_lock:
            held.set()
            release.wait(20)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(5)
    child = Child(lambda: _within(10, lambda: sender.call(ADD, [20, 22])[1]))
    assert child.result() == 42
    release.set()
    holder.join()


def _within(limit_s: float, work: Callable[[], Any]) -> Any:
    results: list[Any] = []
    worker = threading.Thread(target=lambda: results.append(work()), daemon=True)
    worker.start()
    worker.join(limit_s)
    return results[0] if results else "locked out"


# -- idle --------------------------------------------------------------------------------------------------------------


def test_the_first_call_after_many_heartbeats_of_silence_is_answered_at_once(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    """The broker closes connections that miss two heartbeats; benchmarks/idle.py is idle for ten minutes."""
    agent = start_agent(brokers).wait_consuming()
    sender = make_sender(agent.configuration(heartbeat_interval=1, path_ping_timeout=60))
    sender.call(ADD, [1, 1])
    _be_idle(6.0)
    assert _state(sender, brokers[0]) == "up", "its heartbeats kept the connection"
    assert sender.call(ADD, [20, 22])[1] == 42
    assert _calls(sender) == [2, 0], "neither sent again, nor elsewhere"


def test_the_first_call_after_the_broker_died_in_the_silence_takes_the_other_one(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    agent = start_agent(brokers).wait_consuming()
    sender = make_sender(agent.configuration(heartbeat_interval=1, path_ping_timeout=60))
    sender.call(ADD, [1, 1])
    brokers[0].kill()
    _be_idle(3.0)
    assert sender.call(ADD, [20, 22])[1] == 42
    assert _calls(sender) == [1, 1], "nothing was lost on the dead connection before"


def test_the_first_call_after_the_only_broker_was_restarted_in_the_silence_is_answered(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    agent = start_agent(brokers[:1]).wait_consuming()
    sender = make_sender(agent.configuration(heartbeat_interval=1))
    sender.call(ADD, [1, 1])
    lines = len(agent.log_lines("consuming for"))
    brokers[0].kill()
    brokers[0].start()
    wait_until(lambda: len(agent.log_lines("consuming for")) > lines)
    assert sender.call(ADD, [20, 22], timeout=5)[1] == 42


def test_senders_that_are_dropped_leave_no_connection(brokers: list[Broker], start_agent: StartAgent) -> None:
    """As a program does that makes one for each call."""
    agent = start_agent(brokers).wait_consuming()
    before = len(client_loop().streams)
    for number in range(20):
        assert Sender(agent.configuration()).call(ADD, [number, 1], timeout=20)[1] == number + 1
    wait_until(lambda: len(client_loop().streams) <= before)


def _be_idle(seconds: float) -> None:
    """The one thing here that only time can bring about."""
    threading.Event().wait(seconds)


def _calls(sender: Sender) -> list[int]:
    """How many were sent to each host."""
    return [int(host["calls"]) for host in sender.status()["hosts"]]


def _state(sender: Sender, broker: Broker) -> str:
    name = f"{broker.host}:{broker.port}"
    return next(str(host["state"]) for host in sender.status()["hosts"] if host["name"] == name)
