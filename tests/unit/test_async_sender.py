"""AsyncSender on brokers in memory, in virtual time: calls, errors, cancellation, wake-ups, and loops that end."""

from __future__ import annotations

import asyncio
import gc
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from virtual_bus import NODE, TARGET, VirtualBus, virtual_bus
from virtual_tasks import VirtualTasks

from servicebus._discovering import Discovering
from servicebus.aio import AsyncSender
from servicebus.client.task_waker import TaskWaker, task_waker
from servicebus.errors import CallTimeout, DurationError, NodeUnavailable, OutboxUnavailable, RemoteError
from servicebus.protocol.interface import Incoming
from servicebus.sender import Sender
from servicebus.transport import forks
from servicebus.wire.fault import Fault


@pytest.fixture
def tasks(bus: VirtualBus) -> VirtualTasks:
    return VirtualTasks(bus)


def silence(_: Incoming) -> None: ...


def waker_of(tasks: VirtualTasks) -> TaskWaker:
    """The waker of the tasks' loop."""
    waker = task_waker(tasks.loop)
    assert waker.is_for(tasks.loop)
    return waker


def test_a_call_returns_its_id_and_result(bus: VirtualBus, tasks: VirtualTasks) -> None:
    bus.node()
    assert tasks.run(tasks.sender.call(TARGET, {"a": 1})) == (1, '{"a":1}')
    assert tasks.run(tasks.sender.call(TARGET, [2])) == (2, "[2]")


def test_what_a_service_raises_is_raised_by_the_await(bus: VirtualBus, tasks: VirtualTasks) -> None:
    bus.node().answer = lambda _: Fault("error", "no such account", "LookupError")
    with pytest.raises(RemoteError, match="no such account"):
        tasks.run(tasks.sender.call(TARGET))
    with pytest.raises(DurationError):
        tasks.run(tasks.sender.call(TARGET, timeout=-1))


def test_a_call_ends_at_its_deadline(bus: VirtualBus, tasks: VirtualTasks) -> None:
    bus.node().answer = silence
    began = bus.time.now
    with pytest.raises(CallTimeout):
        tasks.run(tasks.sender.call(TARGET, timeout=4))
    assert 4 <= bus.time.now - began < 4.5


def test_a_call_in_flight_fails_over_under_its_id(bus: VirtualBus, tasks: VirtualTasks) -> None:
    node = bus.node()
    node.answer = silence
    task = tasks.start(tasks.sender.call(TARGET, "p"))
    assert [broker for broker, _, _ in node.calls] == ["mq-a:5672"]
    node.answer = lambda incoming: incoming.raw_params.decode()
    bus.brokers[0].drop()
    bus.time.until(task.done)
    assert task.result() == (1, '"p"')
    (first, first_id, _), (second, second_id, _) = node.calls
    assert (first, second, first_id) == ("mq-a:5672", "mq-b:5672", second_id)


def test_a_message_returns_a_receipt(bus: VirtualBus, tasks: VirtualTasks) -> None:
    node = bus.node()
    receipt = tasks.run(tasks.sender.send(f"{NODE}.test.note", "m"))
    assert (receipt, receipt.confirmed_by, receipt.in_outbox) == (1, "mq-a:5672", False)
    assert node.messages == ['"m"']


def test_thousands_of_calls_are_gathered_with_few_wake_ups(bus: VirtualBus, tasks: VirtualTasks) -> None:
    bus.node()
    tasks.run(tasks.sender.call(TARGET))
    before = tasks.wakeups

    async def many() -> Any:
        return await asyncio.gather(*(tasks.sender.call(TARGET, number) for number in range(1000)))

    results = tasks.run(many())
    assert [result for _, result in results] == [str(number) for number in range(1000)]
    assert tasks.wakeups - before < 50


# -- cancellation ------------------------------------------------------------------------------------------------------


def test_a_cancelled_task_cancels_its_call_at_the_node(bus: VirtualBus, tasks: VirtualTasks) -> None:
    node = bus.node()
    node.answer = silence
    task = tasks.start(tasks.sender.call(TARGET))
    task.cancel()
    bus.time.settle()
    assert task.cancelled() and node.cancelled == [node.calls[0][1]]
    assert bus.engine.status()["travelling"] == 0


def test_a_time_limit_of_the_program_cancels_too(bus: VirtualBus, tasks: VirtualTasks) -> None:
    node = bus.node()
    node.answer = silence
    with pytest.raises(asyncio.TimeoutError):
        tasks.run(asyncio.wait_for(tasks.sender.call(TARGET), 2.0))
    bus.time.settle()
    assert len(node.cancelled) == 1


def test_a_call_that_is_cancelled_before_it_is_sent_is_not_sent(bus: VirtualBus, tasks: VirtualTasks) -> None:
    node = bus.node()
    tasks.run(tasks.sender.call(TARGET))
    task = tasks.loop.create_task(tasks.sender.call(TARGET))
    tasks.iterate()
    task.cancel()
    tasks.iterate()
    bus.time.advance(1)
    assert task.cancelled() and len(node.calls) == 1


def test_nothing_is_left_of_a_thousand_cancelled_calls(bus: VirtualBus, tasks: VirtualTasks) -> None:
    def requests() -> int:
        return sum(type(each).__name__ == "PendingRequest" for each in gc.get_objects())

    before, node = requests(), bus.node()
    tasks.run(tasks.sender.call(TARGET))
    node.answer = silence

    async def cancelled(count: int) -> None:
        calls = [asyncio.ensure_future(tasks.sender.call(TARGET)) for _ in range(count)]
        await asyncio.sleep(0.01)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)

    for _ in range(10):
        tasks.run(cancelled(100))
    bus.time.settle()
    assert len(node.cancelled) == 1000 and waker_of(tasks)._waiting == {}
    bus.time.advance(400)  # past their deadlines
    node.answer = lambda _: "again"
    tasks.run(tasks.sender.call(TARGET))
    waker, pending = waker_of(tasks), bus.engine._pending
    assert waker._waiting == {} and not waker._ended
    assert (len(pending), len(pending.deadlines)) == (0, 1), "the last one's deadline"
    assert not any(path.outstanding for link in bus.links for path in link.paths.values())
    gc.collect()
    assert requests() - before < 10


# -- pings -----------------------------------------------------------------------------------------------------------


def test_pings_find_a_node_and_say_why_there_is_none(bus: VirtualBus, tasks: VirtualTasks) -> None:
    bus.node(bus.brokers[0])
    assert tasks.run(tasks.sender.ping(NODE)) is True
    assert tasks.run(tasks.sender.ping_all(NODE)) == (1, 2)
    assert isinstance(tasks.run(tasks.sender.ping_error("NODE-77")), NodeUnavailable)


def test_a_cancelled_ping_leaves_nothing(bus: VirtualBus, tasks: VirtualTasks) -> None:
    node = bus.node()
    node.answers_pings = False
    task = tasks.start(tasks.sender.ping(NODE, 60))
    bus.time.advance(1)
    task.cancel()
    bus.time.settle()
    assert task.cancelled() and len(bus.engine._pending) == 0


# -- the end -----------------------------------------------------------------------------------------------------------


def test_close_ends_what_is_unfinished_and_a_later_call_opens_again(bus: VirtualBus, tasks: VirtualTasks) -> None:
    node = bus.node()
    node.answer = silence
    call = tasks.start(tasks.sender.call(TARGET))
    links = bus.links
    tasks.run(tasks.sender.close())
    assert "the Sender was closed" in str(call.exception())
    assert all(link.connections.is_gone for link in links)
    node.answer = lambda _: "again"
    assert tasks.run(tasks.sender.call(TARGET)) == (1, "again")


def test_a_loop_that_is_closed_loses_its_own_calls_only(bus: VirtualBus, tasks: VirtualTasks) -> None:
    node = bus.node()
    node.answer = silence
    other = VirtualTasks(bus)
    gone = tasks.start(tasks.sender.call(TARGET))
    stays = other.start(other.sender.call(TARGET, "stays"))
    tasks.loop.close()
    node.answer = lambda incoming: incoming.raw_params.decode()
    bus.brokers[0].drop()
    bus.time.until(stays.done)
    assert stays.result() == (2, '"stays"') and not gone.done()
    assert len(node.calls) == 4, "both calls were answered by the second broker"
    del gone
    gc.collect()
    assert set(tasks.problems) <= {"Task was destroyed but it is pending!"}, "what asyncio says of any such task"
    assert bus.loop.failures.count == 0


def test_a_task_that_is_collected_cancels_its_call(bus: VirtualBus, tasks: VirtualTasks) -> None:
    node = bus.node()
    node.answer = silence
    call = tasks.sender.call(TARGET)
    task = tasks.start(call)
    tasks.loop.close()
    call.close()
    bus.time.settle()
    assert node.cancelled == [node.calls[0][1]]
    del task


def test_a_loop_that_stands_still_gets_all_when_it_goes_on(bus: VirtualBus, tasks: VirtualTasks) -> None:
    bus.node()
    tasks.run(tasks.sender.call(TARGET))
    calls = [tasks.loop.create_task(tasks.sender.call(TARGET, number)) for number in range(5)]
    calls.append(tasks.loop.create_task(tasks.sender.call("NODE-77.a.b", timeout=10)))
    tasks.iterate()
    before = tasks.wakeups
    bus.time.loops.remove(tasks)  # type: ignore[arg-type]
    bus.time.advance(30)
    assert not any(call.done() for call in calls) and tasks.wakeups == before + 1
    bus.time.loops.append(tasks)  # type: ignore[arg-type]
    bus.time.settle()
    assert [call.result()[1] for call in calls[:-1]] == list("01234")
    assert isinstance(calls[-1].exception(), NodeUnavailable)


def test_an_error_that_no_task_fetches_any_more_is_not_complained_of(bus: VirtualBus, tasks: VirtualTasks) -> None:
    bus.node().answer = lambda _: Fault("error", "too late", "LookupError")
    task = tasks.loop.create_task(tasks.sender.call(TARGET))
    tasks.iterate()
    bus.time.loops.remove(tasks)  # type: ignore[arg-type]
    bus.time.settle()
    waker_of(tasks)._deliver()  # the future has ended, and the task does not run any more
    tasks.loop.close()
    del task
    gc.collect()
    assert [each for each in tasks.problems if "never retrieved" in each] == []


def test_what_nothing_ends_any_more_is_ended_by_the_loop_that_waits(
    bus: VirtualBus, tasks: VirtualTasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forked child has no thread that would end its parent's calls."""
    bus.node().answer = silence
    task = tasks.start(tasks.sender.call(TARGET))
    monkeypatch.setattr(forks, "count", forks.count + 1)
    bus.time.until(task.done)
    with pytest.raises(CallTimeout, match="the I/O thread of this process did not end it"):
        task.result()


def test_the_copy_of_a_waker_in_a_forked_child_is_not_used(
    tasks: VirtualTasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    waker = waker_of(tasks)
    assert task_waker(tasks.loop) is waker
    monkeypatch.setattr(forks, "count", forks.count + 1)
    assert task_waker(tasks.loop) is not waker


def test_no_timer_is_left_when_nothing_is_waited_for(bus: VirtualBus, tasks: VirtualTasks) -> None:
    bus.node()
    tasks.run(tasks.sender.call(TARGET))
    bus.time.advance(5)
    assert tasks.due_at == float("inf")


# -- the outbox --------------------------------------------------------------------------------------------------------


@pytest.fixture
def in_threads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a thread is asked to do, by its name; it is done here."""
    asked: list[str] = []

    async def to_thread(work: Any) -> Any:
        asked.append(work.__name__)
        return work()

    monkeypatch.setattr(asyncio, "to_thread", to_thread)
    return asked


def test_an_outbox_that_cannot_be_opened_costs_messages_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, in_threads: list[str]
) -> None:
    with virtual_bus(monkeypatch, outbox=tmp_path / "no-folder" / "outbox") as bus:
        bus.node()
        tasks = VirtualTasks(bus)
        for number in (1, 2):
            assert tasks.run(tasks.sender.call(TARGET, number)) == (number, str(number))
        assert in_threads == ["_current"], "a call does not try again to open it"
        with pytest.raises(OutboxUnavailable):
            tasks.run(tasks.sender.send(TARGET, 1))
        assert in_threads == ["_current", "need_outbox"]


def test_a_forked_child_opens_the_outbox_in_a_thread_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, in_threads: list[str]
) -> None:
    with virtual_bus(monkeypatch, outbox=tmp_path / "no-folder" / "outbox") as bus:
        tasks = VirtualTasks(bus)
        tasks.run(tasks.sender.status())
        monkeypatch.setattr(bus.sender._session, "mark", [False])
        tasks.run(tasks.sender.status())
        assert in_threads == ["_current", "_current"]


def test_the_outbox_keeps_what_no_broker_takes_and_is_opened_in_a_thread(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, in_threads: list[str]
) -> None:
    with virtual_bus(monkeypatch, outbox=tmp_path / "outbox") as bus:
        for broker in bus.brokers:
            broker.refuse()
        tasks = VirtualTasks(bus)
        assert tasks.run(tasks.sender.send(TARGET, 1)).in_outbox
        assert tasks.run(tasks.sender.status())["outbox"]["messages"] == 1
        assert in_threads == ["_current"]


# -- the surface -------------------------------------------------------------------------------------------------------

METHODS = ["call", "send", "ping", "ping_error", "ping_all", "status", "close"]
OF_NODES = ["offers", "describe", "nodes", "services", "gather"]


def test_it_has_every_method_of_a_sender() -> None:
    public = [
        [name for name in vars(each) if not name.startswith("_") and not name.endswith("_async")]
        for each in (Sender, Discovering)
    ]
    assert public == [[*METHODS[:2], "client", *METHODS[2:]], OF_NODES]


@pytest.mark.parametrize("name", METHODS + OF_NODES)
def test_a_method_takes_returns_and_raises_what_the_senders_does(name: str) -> None:
    ours, theirs = getattr(AsyncSender, name), getattr(Sender, name)
    assert inspect.iscoroutinefunction(ours)
    assert inspect.signature(ours) == inspect.signature(theirs)
    details = re.compile(r"\n +(Args|Returns|Raises):.*", re.DOTALL)
    told = [match.group() if (match := details.search(each.__doc__ or "")) else "" for each in (ours, theirs)]
    assert told[0] == told[1]
