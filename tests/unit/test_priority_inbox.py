"""The order in which a service of a node with priorities takes what waits for it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from operator import itemgetter
from queue import Empty
from typing import Any

import pytest

import servicebus.testing
from servicebus._context import OutgoingContext, priority_in, priority_of, with_priority, written_priority
from servicebus.configuration import Configuration
from servicebus.errors import EnvelopeError
from servicebus.policy.broker_versions import read_version, warnings_for
from servicebus.runtime.priority_inbox import PriorityInbox, line_up
from servicebus.runtime.transient_queues import TransientQueues
from servicebus.typed import Services


class Waiting:
    def __init__(self, name: str, priority: int):
        self.name, self.priority = name, priority


def inbox_of(*jobs: Any) -> PriorityInbox:
    inbox = PriorityInbox()
    for job in jobs:
        inbox.put(job)
    return inbox


def test_the_highest_comes_first_and_of_one_priority_the_first_that_came() -> None:
    jobs = [Waiting("a", 0), Waiting("b", 9), Waiting("c", 3), Waiting("d", 9), Waiting("e", 0)]
    inbox = inbox_of(None, *jobs)
    assert inbox.qsize() == 6
    taken = inbox.jobs()
    assert [next(taken).name for _ in jobs] == list("bdcae")  # type: ignore[union-attr]
    assert next(taken) is None and inbox.qsize() == 0
    with pytest.raises(Empty):
        inbox.get_nowait()


def test_threads_take_each_job_once() -> None:
    taken: list[Any] = []
    inbox = PriorityInbox()

    def take() -> None:
        taken.extend(iter(inbox.jobs().__next__, None))

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    jobs: list[Any] = [Waiting(str(n), n % 10) for n in range(2000)]
    for job in [*jobs, *[None] * 4]:
        inbox.put(job)
    for thread in threads:
        thread.join()
    assert len(taken) == 2000 and set(taken) == set(jobs)


@pytest.mark.parametrize(
    ("line", "entry", "after"),
    [([], 1, [1]), ([3, 1], 2, [3, 2, 1]), ([3, 1], 3, [3, 3, 1]), ([3, 1], 0, [3, 1, 0]), ([1, 1], 9, [9, 1, 1])],
)
def test_an_entry_lines_up_behind_its_equals(line: list[int], entry: int, after: list[int]) -> None:
    waiting = deque((n, str(at)) for at, n in enumerate(line))
    line_up(waiting, (entry, "new"), itemgetter(0))
    assert [n for n, _ in waiting] == after
    assert waiting.index((entry, "new")) == max((at for at, n in enumerate(after) if n == entry), default=0)


# -- on the wire -------------------------------------------------------------------------------------------------------


def test_a_priority_is_a_pair_of_the_context() -> None:
    assert with_priority(None, None) is None
    assert with_priority({"k": "v", "gone": None}, 3) == {"k": "v", "gone": None, "priority": "3"}
    assert isinstance(with_priority(OutgoingContext(k="v"), 3), OutgoingContext)
    with pytest.raises(EnvelopeError, match="a mapping is wanted"):
        with_priority(["k"], 3)  # type: ignore[arg-type]


@pytest.mark.parametrize(("pairs", "found"), [({}, None), ({"priority": "7"}, 7), ({"priority": "12"}, None)])
def test_it_is_read_where_it_is_one(pairs: dict[str, str], found: int | None) -> None:
    assert priority_in(pairs) == found
    assert priority_in({"priority": "high"}) is priority_in({"priority": "\u0665"}) is None


def test_it_is_found_in_an_envelope_and_nowhere_else() -> None:
    inside = b'<params><![CDATA[<context>{"priority":"9"}</context>'
    assert priority_of(b'<event><context>{"k":"v","priority":"4"}</context>' + inside) == 4
    assert priority_of(b"<event>" + inside) is None
    assert written_priority('{"k":",\\"priority\\":\\"9\\","}') is None


# -- in the worker; the rest: tests/contract ---------------------------------------------------------------------------

one = Services("one")
ran: list[Any] = []


@one.rpc(tasks=1)
async def task(number: int) -> None:
    await asyncio.sleep(0.2)
    ran.append(number)


@one.rpc(lock="name", threads=2, priority=5)
def locked(number: int, name: str) -> None:
    time.sleep(0.2)
    ran.append(number)


@pytest.mark.parametrize(
    ("target", "has_priorities", "order"),
    [("task", True, [0, 2, 4, 1, 3]), ("locked", True, [0, 2, 3, 4, 1]), ("task", False, [0, 1, 2, 3, 4])],
)
def test_tasks_and_locks_are_lined_up_if_the_node_has_priorities(
    target: str, has_priorities: bool, order: list[int]
) -> None:
    ran.clear()
    more = {"name": "a"} if target == "locked" else {}
    with servicebus.testing.bus(one, brokers=1, priorities=has_priorities) as world:
        asked = [
            world.sender.call_async(f"NODE-01.one.{target}", {"number": n, **more}, priority=priority)
            for n, priority in enumerate((None, 0, 9, None, 5))
        ]
        for each in asked:
            each.result()
    assert ran == order


def test_without_priorities_nothing_is_declared_for_them() -> None:
    with servicebus.testing.bus(one, brokers=1) as world:
        queues = world._network["mq-1:5672"].queues
        assert not [name for name, queue in queues.items() if "x-max-priority" in queue.arguments]
    with servicebus.testing.bus(one, brokers=1, priorities=True) as world:
        queues = world._network["mq-1:5672"].queues
        having = [name for name, queue in queues.items() if queue.arguments.get("x-max-priority") == 9]
        assert sorted(having) == ["NODE-01.messages", "NODE-01.rpc"]


@pytest.mark.parametrize("has_priorities", [True, False])
def test_a_queue_of_calls_that_others_have_made_otherwise_is_used_as_it_is(has_priorities: bool) -> None:
    told: list[str] = []
    config = Configuration(
        {"hosts": ["mq-a"], "secret_token": "s" * 16, "node_name": "N", "priorities": has_priorities}
    )
    queues = TransientQueues(config, 0, told.append)

    def declared(name: str) -> bool:
        """With priorities."""
        channel = _Channel()
        next(queues.declare_again(name))(channel, lambda _: None)  # type: ignore[arg-type]
        return "x-max-priority" in channel.arguments

    assert declared("N.rpc") is has_priorities and not declared("N.control")
    assert not queues.is_worth_another_try("N.control")
    assert queues.is_worth_another_try("N.rpc") and told == ["N.rpc"]
    assert declared("N.rpc") is not has_priorities
    assert not queues.is_worth_another_try("N.rpc"), "both forms were tried"
    assert declared("N.rpc") is has_priorities


class _Channel:
    def declare_queue(self, _name: str, _on_done: Any, *, arguments: dict[str, Any], **_how: Any) -> None:
        self.arguments = arguments


@pytest.mark.parametrize(
    ("version", "queue_type", "count"), [("3.10.8", "quorum", 1), ("4.0.5", "quorum", 0), ("3.10.8", "classic", 0)]
)
def test_a_broker_whose_quorum_queues_know_none_is_named(version: str, queue_type: str, count: int) -> None:
    read = read_version(version)
    assert read is not None
    found = warnings_for(read, is_cluster=False, queue_type=queue_type, has_priorities=True)
    assert len([each for each in found if "know no priorities" in each]) == count
