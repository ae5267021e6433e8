"""What becomes of a bus in memory when the node's workers end: in order, killed, or beside a broker that is frozen."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import servicebus.testing
from servicebus.errors import CallInterrupted
from servicebus.services import MessageService, Request, RpcService
from servicebus.testing import MemoryBus
from servicebus.typed import Services

RUN = "NODE-01.math.run"
NOTE = "NODE-01.log.note"


class Run(RpcService):
    def __init__(self, function: Callable[[Request], Any], **options: Any):
        self.function = function
        for name, value in options.items():
            setattr(self, name, value)

    def handle(self, request: Request) -> Any:
        return self.function(request)


class Note(MessageService):
    """Notes what comes, when *function* has returned."""

    def __init__(self, function: Callable[[Request], Any] = lambda _request: None):
        self.function = function
        self.notes: list[Any] = []
        self.torn_down: list[float] = []
        self.teardown_s = 0.0

    def handle(self, request: Request) -> None:
        self.function(request)
        self.notes.append(request.params)

    def teardown(self) -> None:
        time.sleep(self.teardown_s)
        self.torn_down.append(time.monotonic())


def bus(*services: Any, brokers: int = 1, **how: Any) -> MemoryBus:
    return servicebus.testing.bus(*services, brokers=brokers, **how)


# -- stop --------------------------------------------------------------------------------------------------------------


def test_a_worker_that_stopped_while_its_broker_was_frozen_takes_nothing() -> None:
    note = Note()
    with bus({"log.note": note}) as world:
        world.brokers[0].freeze()
        world.node.stop()
        future = world.sender.send_async(NOTE, 1)
        world.brokers[0].thaw()
        world.advance(1)
        assert future.done() and not note.notes, "it is stored, and nobody takes it"
        world.node.start()
        world.advance(1)
        assert note.notes == [1]
        world.assert_executed_once(future)


@pytest.mark.parametrize("stops", [1, 3])
def test_messages_of_workers_that_came_and_went_while_their_broker_was_frozen_are_run(stops: int) -> None:
    note = Note()
    with bus({"log.note": note}, brokers=2) as world:
        futures = [world.sender.send_async(NOTE, 1)]
        world.brokers[0].freeze()
        for _ in range(stops):
            futures.append(world.sender.send_async(NOTE, len(futures) + 1))
            world.node.stop()
            world.advance(30)
            world.node.start()
            world.advance(30)
        world.brokers[0].thaw()
        world.advance(200)
        assert sorted(note.notes) == list(range(1, stops + 2))
        for future in futures:
            world.assert_executed_once(future)


def test_a_message_that_comes_while_the_services_end_waits_for_the_next_worker() -> None:
    note = Note()
    with bus({"log.note": note}, drain_timeout=0.3) as world:
        world.sender.ping("NODE-01")
        # The order to deliver no more takes as long to the broker as the message to the worker.
        world.brokers[0].delay(0.45)
        future = world.sender.send_async(NOTE, 1)
        world.advance(0.01)
        world.node.stop()
        assert note.torn_down and not note.notes
        world.brokers[0].delay(0)
        world.node.start()
        world.advance(1)
        assert note.notes == [1]
        world.assert_executed_once(future)


def test_what_a_worker_has_sent_before_it_ends_arrives() -> None:
    note = Note()
    with bus({"log.note": note}, drain_timeout=0.1) as world:
        world.sender.ping("NODE-01")
        world.brokers[0].delay(1)
        future = world.sender.send_async(NOTE, 1)
        world.advance(2)
        assert note.notes == [1]
        world.node.stop()
        world.brokers[0].delay(0)
        assert world.brokers[0].queues["NODE-01.messages"] == 0, "the ack was on its way"
        world.assert_executed_once(future)


def test_a_node_that_runs_is_not_started_again() -> None:
    with bus(brokers=2) as world:
        world.node.start()
        assert world.node.states == ["consuming", "consuming"]


def test_a_worker_finds_out_that_its_broker_is_frozen() -> None:
    with bus({"math.run": Run(lambda request: None)}) as world:
        assert world.sender.ping("NODE-01")
        world.brokers[0].freeze()
        world.advance(15)
        assert world.node.states != ["consuming"]


# -- kill --------------------------------------------------------------------------------------------------------------


def test_a_killed_node_finishes_nothing_and_tears_nothing_down() -> None:
    note = Note(lambda request: time.sleep(10))
    with bus({"log.note": note}) as world:
        receipt = world.sender.send(NOTE, 1)
        world.node.kill()
        assert world.node.states == [] and world.brokers[0].queues["NODE-01.messages"] == 1
        world.advance(100)
        assert not note.notes and not note.torn_down and not world.history.only("executed")
        world.node.start()
        world.advance(11)
        assert note.notes == [1]
        world.assert_executed_once(receipt)


def test_no_time_passes_while_a_node_is_killed() -> None:
    with bus({"math.run": Run(lambda request: time.sleep(10), threads=8)}, brokers=2) as world:
        for _ in range(8):
            world.sender.call_async(RUN)
        began = world.now
        world.node.kill()
        assert world.now == began


def test_no_time_passes_for_a_thread_that_has_it_stand_still(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[bool] = []

    with bus({"math.run": Run(lambda request: time.sleep(10))}) as world:
        world.sender.call_async(RUN)
        began, flows = world.now, world._driver._flows

        def look() -> bool:
            looked.append(flows())
            return looked[-1]

        monkeypatch.setattr(world._driver, "_flows", look)
        with world._driver.time_stands_still():
            looked.clear()
            while len(looked) < 3:
                time.sleep(0.001)
        assert not any(looked) and world.now == began


def test_a_message_that_kills_its_node_three_times_is_a_dead_letter() -> None:
    note = Note(lambda request: world.node.kill())
    with bus({"log.note": note}) as world:
        world.sender.send(NOTE, 1)
        for _ in range(3):
            world.node.start()
            world.advance(1)
        (entry,) = world.history.only("dead-lettered")
        assert "killed-worker" in entry.detail and not note.notes
        assert world.node.states == ["consuming"]


def test_a_call_that_was_running_is_reported_as_interrupted() -> None:
    runs: list[int] = []

    def run(_request: Request) -> None:
        runs.append(1)
        world.node.kill()
        runs.append(2)

    with bus({"math.run": Run(run)}, brokers=2) as world:
        future = world.sender.call_async(RUN)
        world.node.start()
        with pytest.raises(CallInterrupted):
            future.result()
        assert runs == [1] and not world.history.only("executed")


def test_a_call_of_an_idempotent_service_is_run_again() -> None:
    kills = [1]

    def run(_request: Request) -> str:
        if kills:
            kills.pop()
            world.node.kill()
        return "done"

    with bus({"math.run": Run(run, idempotent=True)}, brokers=2) as world:
        future = world.sender.call_async(RUN)
        world.node.start()
        assert future.result()[1] == "done"
        world.assert_executed_once(future)


def test_what_only_waited_is_run_by_the_next_worker() -> None:
    seen: list[Any] = []

    def run(request: Request) -> Any:
        seen.append(request.params)
        if len(seen) == 1:
            time.sleep(10)
        return request.params

    with bus({"math.run": Run(run)}) as world:
        first, second = (world.sender.call_async(RUN, number, timeout=60) for number in (1, 2))
        world.node.kill()
        world.node.start()
        assert second.result()[1] == 2
        with pytest.raises(CallInterrupted):
            first.result()
        assert seen == [1, 2]


def test_a_service_that_waits_for_something_else_ends_when_it_goes_on() -> None:
    gate, ended, went_on = threading.Event(), threading.Event(), []

    def run(_request: Request) -> None:
        try:
            gate.wait()
            went_on.append(1)
        finally:
            ended.set()

    with bus({"math.run": Run(run)}) as world:
        world.sender.call_async(RUN)
        world.node.kill()
        world.node.start()
        gate.set()
        assert ended.wait(60) and not went_on


def test_an_asynchronous_service_is_cancelled_and_leaves_the_bus_alone() -> None:
    group, ended = Services("slow"), []

    @group.rpc
    async def sleep(seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
        finally:
            ended.append(seconds)

    with bus(group) as world:
        future = world.sender.call_async("NODE-01.slow.sleep", [60], timeout=100)
        world.node.kill()
        assert ended == [60]
        world.node.start()
        with pytest.raises(CallInterrupted):
            future.result()
        assert world.sender.call("NODE-01.slow.sleep", [1])[1] is None


def test_a_lock_ends_with_the_node_that_held_it() -> None:
    def run(request: Request) -> str:
        if request.params[0] == "first":
            gate.wait()
        return "done"

    gate = threading.Event()
    with bus({"math.run": Run(run, lock=1)}) as world:
        world.sender.call_async(RUN, ["first", "key"])
        world.node.kill()
        world.node.start()
        assert world.sender.call(RUN, ["second", "key"])[1] == "done"
        gate.set()


@pytest.mark.parametrize("fault", ["freeze", "kill", "cut"])
def test_a_node_killed_beside_another_fault_loses_nothing(fault: str) -> None:
    note = Note(lambda request: time.sleep(1))
    with bus({"log.note": note}, brokers=2) as world:
        futures = [world.sender.send_async(NOTE, number) for number in range(5)]
        getattr(world.brokers[0], fault)()
        world.node.kill()
        futures += [world.sender.send_async(NOTE, number) for number in range(5, 10)]
        world.advance(10)
        world.node.start()
        world.advance(10)
        if fault != "cut":
            getattr(world.brokers[0], {"freeze": "thaw", "kill": "start"}[fault])()
        world.advance(200)
        for future in futures:
            world.assert_executed_once(future)
        assert sorted(set(note.notes)) == list(range(10))
