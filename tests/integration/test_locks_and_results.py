"""Services with locks, and services that say what becomes of a request: through a real broker and several workers."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from agents import Agent
from lock_worker import Interval
from probe import Probe
from waiting import wait_until

from servicebus.configuration import Configuration
from servicebus.errors import CallTimeout, RemoteError, ServiceBusy
from servicebus.runtime.lock_keys import lock_finder
from servicebus.runtime.node_locks import Locks, locks_of
from servicebus.runtime.registration import Service
from servicebus.sender import Sender
from servicebus.testing import Broker
from servicebus.wire.envelope import Kind

pytestmark = pytest.mark.brokers(count=1)

MakeSender = Callable[[Configuration], Sender]
DRAIN_S = 200
SERVICES = [
    {"kind": kind, "category": "bank", "name": name, "target": f"locking_services:{target}"}
    for kind, name, target in [
        ("message", "transfer", "Transfer"),
        ("message", "fussy", "Fussy"),
        ("rpc", "close", "Close"),
        ("rpc", "warm", "Warm"),
    ]
]


@pytest.fixture
def agent(brokers: list[Broker], start_agent: Callable[..., Agent]) -> Agent:
    return start_agent(brokers, services=SERVICES, workers_per_host=3, drain_timeout=DRAIN_S).wait_consuming()


def noted(agent: Agent, name: str) -> list[Interval]:
    parts = [line.split() for line in agent.noted(name)]
    return [Interval(key, float(start), float(end), int(pid)) for key, start, end, pid, *_ in parts]


def overlaps(found: list[Interval]) -> bool:
    ordered = sorted(found, key=lambda interval: interval.start)
    return any(next.start < one.end for one, next in itertools.pairwise(ordered))


def holding(agent: Agent, kind: Kind, name: str, **how: Any) -> tuple[Locks, int]:
    """The locks of the agent's node, as one more of its workers, and the lock that a request to a service needs."""
    settings = {"hosts": ["mq-a"], "secret_token": "any", "node_name": "NODE-01"}
    locks = locks_of(Configuration({**settings, "journal": agent.settings["journal"]}))
    lock = lock_finder(Service(kind, "bank", name, None, **how))(["A", 0])
    assert lock is not None
    assert locks.take(lock)
    return locks, lock


def test_what_has_a_lock_never_runs_twice_at_a_time_even_if_a_worker_is_killed(
    agent: Agent, make_sender: MakeSender
) -> None:
    sender = make_sender(agent.configuration())
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(sender.call, "NODE-01.bank.close", n, timeout=60) for n in range(60)]
        for number in range(240):  # four accounts: the broker deals them out to three workers in turn
            sender.send("NODE-01.bank.transfer", ["ABCD"[number % 4], number])
            if number == 120:
                wait_until(lambda: agent.noted("begun"))
                os.kill(int(agent.noted("begun")[-1].split()[1]), signal.SIGKILL)
        ended = [call.exception() for call in calls]
    numbers = {str(number) for number in range(240)}
    wait_until(
        lambda: numbers <= {line.split()[4] for line in agent.noted("intervals")}, 60, lambda: f"all\n{agent.log()}"
    )
    for account in "ABCD":
        mine = [interval for interval in noted(agent, "intervals") if interval.key == account]
        assert not overlaps(mine)
        assert len({interval.pid for interval in mine}) > 1
    assert overlaps(noted(agent, "intervals")), "other accounts are worked on side by side"
    assert not overlaps(noted(agent, "closing"))
    # One that ran in the worker that was killed is reported as interrupted: nobody can know how far it came.
    assert sum(error is not None for error in ended) <= 1


def test_a_call_that_waits_for_its_lock_until_its_deadline_is_never_run(agent: Agent, make_sender: MakeSender) -> None:
    sender = make_sender(agent.configuration())
    locks, lock = holding(agent, Kind.CALL, "close", concurrency="node")
    with pytest.raises(CallTimeout):
        sender.call("NODE-01.bank.close", timeout=0.7)
    wait_until(lambda: sum(worker["counters"].get("expired", 0) for worker in agent.workers()) == 1)
    locks.release(lock)
    assert sender.call("NODE-01.bank.close", timeout=20)[1] in agent.worker_pids()
    assert len(agent.noted("closing")) == 1


def test_a_stop_leaves_what_waits_for_the_lock_of_another_process_to_the_broker(
    agent: Agent, make_sender: MakeSender, brokers: list[Broker]
) -> None:
    sender = make_sender(agent.configuration())
    locks, lock = holding(agent, Kind.MESSAGE, "transfer", lock=0)
    sender.send("NODE-01.bank.transfer", ["A", 1])
    wait_until(lambda: locks.is_wanted(lock))
    assert agent.stop(timeout_s=DRAIN_S / 2) == 0, "it did not wait for the whole of drain_timeout, or for half of it"
    probe = Probe(brokers[0])
    assert (probe.depth("NODE-01.messages.delay.1"), probe.depth("NODE-01.messages")) == (1, 0)
    assert agent.noted("intervals") == []


def test_a_service_says_itself_what_becomes_of_a_message(
    agent: Agent, make_sender: MakeSender, brokers: list[Broker]
) -> None:
    sender = make_sender(agent.configuration())
    whats = ("reject", "requeue", "retry", "always")
    for what in whats:
        sender.send("NODE-01.bank.fussy", what)

    def seen(what: str) -> list[tuple[int, float]]:
        parts = [line.split() for line in agent.noted("fussy")]
        return [(int(attempt), float(at)) for name, attempt, at in parts if name == what]

    probe = Probe(brokers[0])
    wait_until(lambda: [len(seen(what)) for what in whats] == [1, 3, 2, 3], 30, lambda: f"{agent.noted('fussy')}")
    wait_until(lambda: probe.depth("NODE-01.dead") == 2, 30)
    assert [attempt for attempt, _ in seen("requeue")] == [1, 1, 1]
    assert [attempt for attempt, _ in seen("retry")] == [1, 2]
    assert seen("retry")[1][1] - seen("retry")[0][1] >= 1.4
    assert [attempt for attempt, _ in seen("always")] == [1, 2, 3]
    reasons = {
        headers["x-servicebus-reason"]: headers["x-servicebus-detail"] for _, headers in probe.take_all("NODE-01.dead")
    }
    assert reasons == {"Reject": "nobody wants it", "Retry": "never satisfied"}


def test_a_service_says_itself_what_becomes_of_a_call(agent: Agent, make_sender: MakeSender) -> None:
    sender = make_sender(agent.configuration())
    assert sender.call("NODE-01.bank.warm", "up", timeout=20)[1] == "warm"
    assert agent.noted("warm") == ["up"] * 3
    with pytest.raises(RemoteError) as caught:
        sender.call("NODE-01.bank.warm", "reject", timeout=20)
    assert (caught.value.type, caught.value.message) == ("Reject", "no such customer")


def test_a_caller_whose_time_is_over_is_told_why_the_service_would_not(agent: Agent, make_sender: MakeSender) -> None:
    with pytest.raises(ServiceBusy, match=r"NODE-01\.bank\.warm: asked too early"):
        make_sender(agent.configuration()).call("NODE-01.bank.warm", "never", timeout=1)
