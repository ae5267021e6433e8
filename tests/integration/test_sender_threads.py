"""Many threads on one Sender while a broker dies; benchmarks/load.py does it with 100,000 calls and more kills."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable

from agents import Agent

from servicebus.configuration import Configuration
from servicebus.errors import ServiceBusError
from servicebus.sender import Sender
from servicebus.testing import Broker

StartAgent = Callable[..., Agent]
MakeSender = Callable[[Configuration], Sender]

THREADS = 64
CALLS = 6000
LIMIT_S = 20.0


def test_64_threads_get_their_own_results_while_the_broker_in_use_dies_and_returns(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    agent = start_agent(brokers).wait_consuming()
    sender = make_sender(agent.configuration())
    outcomes = run_threads(sender, at_one_third=lambda: kill_and_start(brokers[0]))
    assert outcomes == {"right": CALLS}
    assert sender.status()["travelling"] == sender.status()["waiting"] == 0
    over = {host["name"]: host["calls"] for host in sender.status()["hosts"]}
    assert min(over.values()) > CALLS / 10, "both brokers have carried calls"


def kill_and_start(broker: Broker) -> None:
    broker.kill()
    broker.start()


def run_threads(sender: Sender, at_one_third: Callable[[], None]) -> Counter[str]:
    """How the calls ended: ``right``, ``wrong``, ``hung``, the name of an error of ours, or a foreign one's repr."""
    outcomes: list[str] = []
    numbers = itertools.count(1)
    is_one_third = threading.Event()

    def call_on() -> None:
        while (number := next(numbers)) <= CALLS:
            if number == CALLS // 3:
                is_one_third.set()
            outcomes.append(outcome_of(sender, number))

    threads = [threading.Thread(target=call_on, daemon=True) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    assert is_one_third.wait(30)
    at_one_third()
    for thread in threads:
        thread.join(LIMIT_S + 5)
    return Counter(outcomes + ["hung" for thread in threads if thread.is_alive()])


def outcome_of(sender: Sender, number: int) -> str:
    try:
        _, value = sender.call("NODE-01.math.add", [number, number * 7], timeout=LIMIT_S)
    except ServiceBusError as error:
        return f"{type(error).__name__}: {error}"
    except Exception as error:
        return f"foreign: {error!r}"
    return "right" if value == number * 8 else "wrong"


def test_an_answer_does_not_wait_for_the_next_call_of_its_service(
    brokers: list[Broker], start_agent: StartAgent, make_sender: MakeSender
) -> None:
    """Both are delivered together, to a service that turns the worker's loop itself and is busy with the second now."""
    sender = make_sender(start_agent(brokers[:1]).wait_consuming().configuration())
    for _ in range(50):
        sender.call("NODE-01.test.sleep", [0, "quick"], timeout=LIMIT_S)
    first, second = (sender.call_async("NODE-01.test.sleep", [s, s], timeout=LIMIT_S) for s in (0, 2))
    assert first.result()[1] == 0
    assert not second.done()
    assert second.result()[1] == 2
