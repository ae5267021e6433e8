"""The bus in memory that users test with: ``servicebus.testing.bus()``."""

from __future__ import annotations

import asyncio
import select
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest
from waiting import wait_until

import servicebus.testing
from servicebus.configuration import Configuration
from servicebus.errors import (
    CallInterrupted,
    CallRefused,
    CallTimeout,
    ConfigurationError,
    DurationError,
    InvalidParams,
    LifecycleError,
    NoBrokerAvailable,
    RemoteError,
    UnknownService,
)
from servicebus.middleware import Middleware, Outgoing
from servicebus.service import ServiceBus
from servicebus.services import MessageService, Reject, Request, RpcService
from servicebus.testing import MemoryBus
from servicebus.testing.clock import VirtualTime
from servicebus.testing.driver import Driver
from servicebus.testing.memory_sender import RecordingSender
from servicebus.transport.memory_queues import Message
from servicebus.transport.memory_sessions import ServerChannel
from servicebus.typed import Services

ADD = "NODE-01.math.add"
NOTE = "NODE-01.log.note"


class Add(RpcService):
    def handle(self, request: Request) -> Any:
        return sum(request.params)


class Run(RpcService):
    """Returns what a function of the test returns."""

    def __init__(self, function: Callable[[Request], Any], **options: Any):
        self.function = function
        for name, value in options.items():
            setattr(self, name, value)

    def handle(self, request: Request) -> Any:
        return self.function(request)


class Note(MessageService):
    """Notes what comes, and fails as often as it is told."""

    retry = (600.0, 600.0)

    def __init__(self, failures: int = 0):
        self.notes: list[Any] = []
        self.left = [failures]

    def handle(self, request: Request) -> None:
        if self.left[0]:
            self.left[0] -= 1
            raise ValueError("not now")
        self.notes.append(request.params)


def bus(*services: Any, **how: Any) -> MemoryBus:
    return servicebus.testing.bus(*(services or ({"math.add": Add()},)), **how)


# -- calls and messages ------------------------------------------------------------------------------------------------


def test_a_call_is_answered_and_stands_in_the_history() -> None:
    with bus() as world:
        id, result = world.sender.call(ADD, [1, 2])
        assert result == 3
        world.assert_executed_once(id)
        assert [entry.what for entry in world.history] == ["called", "executed"]
        assert world.history[1].broker == "mq-1"
        assert world.now == 0.0


def test_what_has_run_twice_has_not_run_once() -> None:
    with bus() as world:
        id, _ = world.sender.call(ADD, [1])
        world.record("executed", world.history[0].id, "math.add")
        with pytest.raises(AssertionError, match="executed 2 times"):
            world.assert_executed_once(id)


def test_pings_are_not_in_the_history() -> None:
    with bus() as world:
        assert world.sender.ping("NODE-01")
        assert world.history == []


def test_what_a_service_raises_and_what_no_node_has_come_to_the_caller() -> None:
    def fail(request: Request) -> None:
        raise ValueError("of the test")

    with bus({"math.fail": Run(fail)}) as world:
        with pytest.raises(RemoteError, match="of the test"):
            world.sender.call("NODE-01.math.fail")
        assert world.history[-1].detail == "ValueError: of the test"
        with pytest.raises(UnknownService):
            world.sender.call("NODE-01.math.other")


def test_ten_minutes_between_two_attempts_pass_in_no_time() -> None:
    note = Note(failures=2)
    with bus({"log.note": note}) as world:
        receipt = world.sender.send(NOTE, "hello")
        assert receipt.confirmed_by == "mq-1"
        world.advance(599)
        assert not note.notes and len(world.history.only("retried")) == 1
        world.advance(602)
        assert note.notes == ["hello"] and 1200 <= world.now <= 1203
        world.assert_executed_once(receipt)
        assert [entry.what for entry in world.history] == ["sent", "retried", "retried", "executed"]


def test_a_message_that_fails_too_often_is_dead_lettered() -> None:
    with bus({"log.note": Note(failures=9)}) as world:
        receipt = world.sender.send(NOTE)
        world.advance(1300)
        (dead,) = world.history.only("dead-lettered")
        assert dead.attempt == 3 and "not now" in dead.detail
        assert world.brokers[0].queues["NODE-01.dead"] == 1
        with pytest.raises(AssertionError, match="executed 0 times"):
            world.assert_executed_once(receipt)


def test_services_call_each_other() -> None:
    def ask(request: Request) -> Any:
        return request.get_sender().call(ADD, request.params)[1] * 10

    with bus({"math.add": Add(), "math.tenfold": Run(ask)}) as world:
        assert world.sender.call("NODE-01.math.tenfold", [1, 2])[1] == 30
        assert len(world.history.only("executed")) == 2
        nested = world.history.only("called")[1]
        assert nested.event_id == 0


# -- failover ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["kill", "stop", "freeze", "cut"])
def test_a_call_goes_on_when_the_first_broker_fails(fault: str) -> None:
    with bus() as world:
        world.sender.call(ADD, [0])
        getattr(world.brokers[0], fault)()
        id, result = world.sender.call(ADD, [1, 2])
        assert result == 3
        world.assert_executed_once(id)
        assert fault == "cut" or world.history[-1].broker == "mq-2"


@pytest.mark.parametrize("fault", ["kill", "freeze"])
def test_a_broker_that_fails_while_a_call_runs_costs_no_second_run(fault: str) -> None:
    runs: list[str] = []

    def fail_once(request: Request) -> str:
        runs.append(request.get_event().id)
        getattr(world.brokers[0], fault)()
        return "done"

    with bus({"math.fail": Run(fail_once)}) as world:
        future = world.sender.call_async("NODE-01.math.fail")
        assert future.result()[1] == "done"
        world.assert_executed_once(future)
        assert len(runs) == 1


@pytest.mark.parametrize(
    "target, outcome",
    [
        pytest.param("NODE-01.math.add", 3, id="result"),
        pytest.param("NODE-01.math.breaks", RemoteError, id="error"),
        pytest.param("NODE-01.math.none", CallInterrupted, id="refusal"),  # perhaps by another worker
    ],
)
def test_an_answer_that_the_broker_drops_comes_by_another_attempt(
    monkeypatch: pytest.MonkeyPatch, target: str, outcome: Any
) -> None:
    """RabbitMQ 4 drops direct replies while it starts, and members of a cluster those to others that they have lost."""
    handed_over, lost = ServerChannel._answer, list[str]()

    def lose_one(self: ServerChannel, message: Message) -> bool:
        if lost:
            return handed_over(self, message)
        lost.append(message.properties[0] or "")
        return True

    def breaks(_request: Request) -> Any:
        ran.append("breaks")
        raise OSError("broken")

    ran: list[str] = []
    with bus({"math.add": Add(), "math.breaks": Run(breaks)}) as world:
        monkeypatch.setattr(ServerChannel, "_answer", lose_one)
        call = world.sender.call_async(target, [1, 2], timeout=3600)
        began = world.now
        if isinstance(outcome, type):
            with pytest.raises(outcome):
                call.result()
        else:
            assert call.result()[1] == outcome
        assert world.now - began < 10
        assert len(lost) == 1 and len(ran) <= 1


def test_calls_go_back_to_the_preferred_broker_after_failback_after() -> None:
    with bus(failback_after=3600) as world:
        world.brokers[0].kill()
        world.sender.call(ADD, [1])
        world.brokers[0].start()
        world.advance(1800)
        world.sender.call(ADD, [1])
        world.advance(1900)
        world.sender.call(ADD, [1])
        assert [entry.broker for entry in world.history.only("executed")] == ["mq-2", "mq-2", "mq-1"]


def test_the_state_of_a_broker() -> None:
    with bus(brokers=1) as world:
        broker = world.brokers[0]
        assert broker.state == "running"
        broker.freeze()
        assert broker.state == "frozen"
        broker.thaw()
        broker.refuse()
        assert broker.state == "running"
        assert world.sender.ping_error("NODE-01") is not None, "new connections are refused"
        broker.kill()
        assert broker.state == "down"
        with pytest.raises(LifecycleError, match="mq-1 is down"):
            broker.freeze()
        with pytest.raises(NoBrokerAvailable):
            world.sender.call(ADD, [1], timeout=60)
        broker.start()
        assert broker.state == "running"
        assert world.sender.call(ADD, [1])[1] == 1


def test_a_delay_holds_for_both_directions() -> None:
    with bus() as world:
        world.sender.call(ADD, [1])
        world.brokers[0].delay(0.1)
        began = world.now
        world.sender.call(ADD, [1])
        # To the broker, to the node, and back again.
        assert world.now - began == pytest.approx(0.4)
        with pytest.raises(DurationError):
            world.brokers[0].delay(-1)


def test_the_outbox_delivers_when_a_broker_is_back(tmp_path: Path) -> None:
    note = Note()
    with bus({"log.note": note}, outbox=tmp_path / "outbox") as world:
        for broker in world.brokers:
            broker.kill()
        receipt = world.sender.send(NOTE, 1)
        assert receipt.in_outbox
        world.advance(3600)
        assert not note.notes
        world.brokers[1].start()
        world.advance(120)
        assert note.notes == [1]
        world.assert_executed_once(receipt)


def test_a_message_older_than_token_max_age_is_not_executed() -> None:
    note = Note()
    with bus({"log.note": note}, token_max_age=3600) as world:
        world.node.stop()
        world.sender.send(NOTE, 1)
        world.advance(2 * 3600)
        world.node.start()
        world.advance(10)
        assert not note.notes and len(world.history.only("dead-lettered")) == 1


# -- time --------------------------------------------------------------------------------------------------------------


def test_a_service_that_sleeps_too_long_costs_the_caller_no_time() -> None:
    def sleep(request: Request) -> float:
        began = time.monotonic()
        time.sleep(100)
        return time.monotonic() - began

    with bus({"math.sleep": Run(sleep)}) as world:
        began = time.perf_counter()
        with pytest.raises(CallTimeout):
            world.sender.call("NODE-01.math.sleep", timeout=60)
        assert world.now == pytest.approx(60, abs=1)
        world.advance(60)
        assert world.sender.call("NODE-01.math.sleep", timeout=200)[1] == pytest.approx(100)
        assert time.perf_counter() - began < 60


def test_a_service_that_waits_for_the_test_goes_on_when_the_test_lets_it() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def wait_for_test(request: Request) -> str:
        begun.set()
        return "went on" if go_on.wait(60) else "waited in vain"

    with bus({"math.wait": Run(wait_for_test)}) as world:
        future = world.sender.call_async("NODE-01.math.wait")
        assert begun.is_set(), "an asynchronous call returns when the bus is at rest"
        world.brokers[0].cut()
        world.advance(10)
        assert not future.done()
        go_on.set()
        assert future.result()[1] == "went on"
        world.assert_executed_once(future)


def test_a_test_that_waits_by_other_means_is_seen_to_wait() -> None:
    with bus() as world:
        world.brokers[0].freeze()
        future = world.sender.call_async(ADD, [1])
        assert future.result(timeout=60)[1] == 1
        world.brokers[0].thaw()
        futures = [world.sender.call_async(ADD, [number]) for number in range(10)]
        world.brokers[1].freeze()
        assert wait(futures, timeout=60).not_done == set()
        world.brokers[1].thaw()
        world.brokers[0].freeze()
        with ThreadPoolExecutor(4) as pool:
            results = pool.map(lambda number: world.sender.call(ADD, [number])[1], range(20))
        assert list(results) == list(range(20))


def test_time_does_not_pass_for_ever_for_a_test_that_waits_by_other_means(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("servicebus.testing.driver._LIMIT_S", 0.0)
    flows: list[bool] = []
    is_over, me = threading.Event(), threading.get_ident()

    def look() -> None:
        while not world._driver.stands_still(me):
            time.sleep(0.001)
        flows.append(world._driver._flows())
        is_over.set()

    with bus() as world:
        world.advance(1)
        thread = threading.Thread(target=look)
        thread.start()
        assert is_over.wait(60)
        thread.join(60)
    assert flows == [False]


def test_the_clock_of_the_program_is_left_alone() -> None:
    seen: list[float] = []

    def look(request: Request) -> None:
        seen.append(time.time())

    with bus({"math.look": Run(look)}) as world:
        before = time.monotonic(), time.time()
        world.advance(100_000)
        assert time.monotonic() - before[0] < 60 and time.time() - before[1] < 60
        world.sender.call("NODE-01.math.look")
        assert seen[0] - before[1] > 99_000, "what a service does goes by the clock of the bus"


def test_a_callback_that_waits_for_an_answer_is_told_so() -> None:
    errors: list[BaseException] = []

    def ask(_: Future[Any]) -> None:
        try:
            world.sender.call(ADD, [1])
        except LifecycleError as error:
            errors.append(error)

    with bus() as world:
        world.brokers[0].freeze()
        future = world.sender.call_async(ADD, [1])
        future.add_done_callback(ask)
        assert future.result()[1] == 1
        assert errors


# -- the node ----------------------------------------------------------------------------------------------------------


def test_the_node_stops_and_starts() -> None:
    torn_down: list[str] = []
    service = Run(lambda request: "done")
    setattr(service, "teardown", lambda: torn_down.append("down"))  # noqa: B010 - a hook of one object
    with bus({"math.run": service}) as world:
        assert world.node.states == ["consuming", "consuming"]
        world.node.stop()
        assert world.node.states == [] and torn_down == ["down", "down"]
        assert not world.sender.ping("NODE-01")
        world.node.start()
        assert world.sender.call("NODE-01.math.run")[1] == "done"


def test_a_retry_outlives_the_worker_that_ordered_it() -> None:
    note = Note(failures=1)
    with bus({"log.note": note}) as world:
        world.sender.send(NOTE, 1)
        world.node.stop()
        world.advance(300)
        world.node.start()
        world.advance(301)
        assert note.notes == [1]


def test_an_agent_lends_its_services_and_its_name() -> None:
    agent = ServiceBus(Configuration({"hosts": ["never.example"], "node_name": "SHOP-7", "secret_token": "s"}))
    agent.add_rpc_service("math", "add", Add(), threads=4)
    with bus(agent, {"math.more": Add()}) as world:
        assert world.node.name == "SHOP-7"
        assert world.sender.call("SHOP-7.math.add", [1])[1] == world.sender.call("SHOP-7.math.more", [1])[1] == 1


def test_a_group_of_typed_functions_is_served() -> None:
    group = Services("math")

    @group.rpc
    def add(a: int, b: int = 1) -> int:
        return a + b

    with bus(group) as world:
        world.brokers[0].kill()
        assert world.sender.call(ADD, {"a": 1})[1] == 2
        with pytest.raises(InvalidParams):
            world.sender.call(ADD, {"a": "one"})


def test_what_an_asynchronous_service_waits_for_goes_by_the_clock_of_the_bus() -> None:
    group, ended = Services("slow"), []

    @group.rpc
    async def sleep(seconds: float) -> str:
        try:
            await asyncio.sleep(seconds)
            return "slept"
        finally:
            ended.append(seconds)

    threads = threading.active_count()
    began = time.perf_counter()
    with bus(group) as world:
        assert world.sender.call("NODE-01.slow.sleep", [100], timeout=200)[1] == "slept"
        assert world.now == pytest.approx(100)
        with pytest.raises((CallTimeout, RemoteError)):
            world.sender.call("NODE-01.slow.sleep", [1001], timeout=10)
        assert ended == [100, 1001] and world.now < 120, "its deadline cancels it"
        future = world.sender.call_async("NODE-01.slow.sleep", [1002])
        assert not future.done()
    assert ended[2:] == [1002], "the end of the bus cancels it"
    assert threading.active_count() == threads
    assert time.perf_counter() - began < 60


def test_one_lock_holds_on_all_brokers() -> None:
    running: list[int] = []
    most: list[int] = []

    def work(request: Request) -> None:
        running.append(1)
        most.append(len(running))
        time.sleep(1)
        running.pop()

    with bus({"math.work": Run(work, threads=4, lock=0)}) as world:
        world.sender.ping_all("NODE-01")
        futures = [world.sender.call_async("NODE-01.math.work", ["a"], reverse=bool(n % 2)) for n in range(8)]
        for future in futures:
            future.result()
        assert max(most) == 1 and {entry.broker for entry in world.history.only("executed")} == {"mq-1", "mq-2"}


def test_a_fault_does_not_wait_for_a_service_that_computes_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("servicebus.testing.driver._WAIT_LIMIT_S", 0.01)
    is_cut = threading.Event()

    def compute(_request: Request) -> bool:
        give_up_at = time.perf_counter() + 30
        while not is_cut.is_set() and time.perf_counter() < give_up_at:
            select.select([], [], [], 0.001)
        return is_cut.is_set()

    with bus({"math.compute": Run(compute)}) as world:
        future = world.sender.call_async("NODE-01.math.compute")
        world.brokers[0].cut()
        is_cut.set()
        assert future.result()[1] is True


def test_no_time_passes_for_a_thread_that_is_about_to_take_a_job_while_others_of_its_service_wait() -> None:
    def work(request: Request) -> float:
        time.sleep(request.params[1])
        return time.monotonic()

    with bus({"math.work": Run(work, threads=4, lock=0)}) as world:
        first = world.sender.call_async("NODE-01.math.work", ["a", 3.0])
        for number in range(20):
            began = world.now
            world.sender.call("NODE-01.math.work", [f"b{number}", 0.0])
            assert world.now == began
        assert not first.done()


def test_no_time_passes_for_a_call_that_has_begun_and_does_not_wait_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    make, answers = RecordingSender._make, []

    def make_and_lose_the_processor(self: RecordingSender, *what: Any, **how: Any) -> Any:
        made = make(self, *what, **how)
        select.select([], [], [], 0.2)
        return made

    monkeypatch.setattr(RecordingSender, "_make", make_and_lose_the_processor)
    with bus({"math.add": Add()}) as world:
        thread = threading.Thread(target=lambda: answers.append(world.sender.call(ADD, [1, 2], timeout=5)))
        thread.start()
        thread.join()
    assert [answer for _, answer in answers] == [3]


def test_a_thread_that_has_been_notified_does_not_stand_still_before_it_runs() -> None:
    """It has locked its waiter once more by then, as one that waits has."""
    driver, condition = Driver(VirtualTime(0.0, 0.0)), threading.Condition()

    def wait_for_it() -> None:
        with condition:
            condition.wait()

    thread = threading.Thread(target=wait_for_it)
    thread.start()
    wait_until(lambda: driver.stands_still(thread.ident))
    (waiter,) = condition._waiters  # type: ignore[attr-defined]
    with condition:
        condition.notify()
        wait_until(waiter.locked)
        assert not driver.stands_still(thread.ident)
    thread.join()


def test_a_message_may_be_rejected() -> None:
    class Never(MessageService):
        def handle(self, request: Request) -> None:
            raise Reject("never")

    with bus({"log.never": Never()}) as world:
        world.sender.send("NODE-01.log.never")
        world.advance(1)
        assert "never" in world.history.only("dead-lettered")[0].detail
        assert "dead-lettered log.never" in str(world.history)


class Shout(Middleware):
    def call(self, outgoing: Outgoing, proceed: Callable[[], Any]) -> Any:
        event_id, result = proceed()
        return event_id, f"{result}!"

    async def call_async(self, outgoing: Outgoing, proceed: Callable[[], Any]) -> Any:
        event_id, result = await proceed()
        return event_id, f"{result}!"


def test_middleware_goes_around_the_calls_of_the_test_and_that_of_an_agent_around_those_of_its_services() -> None:
    nested = Run(lambda request: request.get_sender().call(ADD, [1])[1])
    agent = ServiceBus(Configuration({"hosts": ["mq"], "secret_token": "s"}), middleware=[Shout()])
    agent.add_rpc_service("math", "nested", nested)
    with bus({"math.add": Add()}, agent, node="NODE-01") as world:
        assert world.sender.call("NODE-01.math.nested")[1] == "1!"
    with bus({"math.add": Add()}, middleware=[Shout()]) as world:
        assert world.sender.call(ADD, [2])[1] == "2!"
        assert world.make_sender(middleware=[Shout(), Shout()]).call(ADD, [2])[1] == "2!!"


def test_a_test_may_have_more_senders_with_settings_of_their_own(tmp_path: Path) -> None:
    with bus() as world:
        with pytest.raises(CallRefused):
            world.make_sender(secret_token="another secret").call(ADD, [1])
        sender = world.make_sender(call_timeout=1, outbox=tmp_path / "outbox")
        future = sender.call_async(ADD, [1])
        assert future.result()[1] == 1
        world.assert_executed_once(future)
        sender.close()
        assert world.sender.call(ADD, [1])[1] == 1
        sender.close()
    with pytest.raises(LifecycleError, match="closed"):
        world.make_sender()


def test_a_bus_that_fails_says_so_instead_of_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("of the test")

    with pytest.raises(AssertionError, match="a defect of servicebus") as caught, bus() as world:
        world.brokers[0].freeze()
        monkeypatch.setattr(world._driver, "on_time", fail)
        world.sender.call(ADD, [1])
    assert str(caught.value.__cause__) == "of the test"


@pytest.mark.parametrize("of_node", [True, False])
def test_what_a_callback_of_the_bus_raises_fails_the_test(of_node: bool) -> None:
    def fail() -> None:
        raise RuntimeError("of the test")

    with pytest.raises(AssertionError, match="a defect of servicebus"), bus() as world:
        (world.node._workers[0].loop if of_node else world._loop).post(fail)
        world.advance(1)
        world.node.stop()


def test_the_error_of_the_test_comes_before_that_of_a_callback() -> None:
    with pytest.raises(LookupError), bus() as world:
        world._loop.post(lambda: 1 / 0)  # type: ignore[arg-type]
        world.advance(1)
        raise LookupError


# -- opening and closing -----------------------------------------------------------------------------------------------


def test_nothing_is_left() -> None:
    functions = time.monotonic, time.time, time.sleep
    threads, files = threading.active_count(), len([*Path("/proc/self/fd").iterdir()])
    for _ in range(3):
        with bus() as world:
            world.sender.call(ADD, [1])
            world.brokers[0].freeze()
            world.sender.call_async(ADD, [1])
    assert (threading.active_count(), len([*Path("/proc/self/fd").iterdir()])) == (threads, files)
    assert (time.monotonic, time.time, time.sleep) == functions


def test_what_is_unfinished_at_the_end_fails() -> None:
    with bus({"math.sleep": Run(lambda request: time.sleep(1000))}) as world:
        future = world.sender.call_async("NODE-01.math.sleep")
    assert "closed" in str(future.exception())


def test_so_does_what_is_asked_of_other_programs() -> None:
    with bus() as world:
        world.brokers[0].freeze()
        future = world.sender.request_async("", "of.others", b"1")
        world.advance(1)
        assert not future.done()
    assert "closed" in str(future.exception(0))


def test_a_service_that_does_not_end_is_named() -> None:
    gate = threading.Event()
    hang = Run(lambda request: gate.wait())
    with pytest.warns(ResourceWarning, match=r"still run: svc-math\.hang-0"), bus({"math.hang": hang}) as world:
        world.sender.call_async("NODE-01.math.hang")
    gate.set()
    for thread in threading.enumerate():
        if thread.name == "svc-math.hang-0":
            thread.join(60)


def test_a_test_that_forgets_with_is_told_so() -> None:
    world = bus()
    with pytest.raises(LifecycleError, match=r"not open.*with servicebus\.testing\.bus"):
        world.sender.call(ADD, [1])
    with world:
        sender = world.sender
    with pytest.raises(LifecycleError, match="closed"):
        world.advance(1)
    with pytest.raises(LifecycleError, match="closed"):
        sender.call(ADD, [1])
    with pytest.raises(LifecycleError, match="closed"):
        world.__enter__()


def test_one_bus_at_a_time() -> None:
    with bus() as world:
        with pytest.raises(LifecycleError, match="another one is open"):
            bus().__enter__()
        assert world.sender.call(ADD, [1])[1] == 1


def test_what_cannot_be_served_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="takes a ServiceBus, a group"):
        bus(42)
    with pytest.raises(ConfigurationError, match="has no on_call"):
        bus({"math.add": 42})
    with pytest.raises(ConfigurationError, match="unknown"):
        bus(no_such_key=1)
    with pytest.raises(ConfigurationError, match="needs a broker"):
        bus(brokers=0)


def test_an_assertion_names_what_it_does_not_find() -> None:
    with bus() as world, pytest.raises(AssertionError, match="event id 99"):
        world.assert_executed_once(99)


# -- asyncio and pytest ------------------------------------------------------------------------------------------------


def test_async_with() -> None:
    async def test() -> None:
        async with bus() as world:
            future = world.sender.call_async(ADD, [1, 2])
            assert (await asyncio.wrap_future(future))[1] == 3
            world.brokers[0].freeze()
            frozen = [asyncio.wrap_future(world.sender.call_async(ADD, [number])) for number in range(10)]
            await asyncio.sleep(0.01)
            results = await asyncio.wait_for(asyncio.gather(*frozen), 60)
            assert [result for _, result in results] == list(range(10))
            assert world.now > 0.5
            world.assert_executed_once(future)

    asyncio.run(test())


def test_an_asynchronous_sender_fails_over_and_gives_up_in_no_time() -> None:
    async def test() -> None:
        async with bus({"math.add": Add(), "math.sleep": Run(lambda request: time.sleep(1000))}) as world:
            world.brokers[0].freeze()
            sender = world.async_sender
            assert (await sender.call(ADD, [1, 2]))[1] == 3
            assert await sender.ping("NODE-01")
            with pytest.raises(CallTimeout):
                await sender.call("NODE-01.math.sleep", timeout=60)
            assert world.now > 60

    began = time.perf_counter()
    asyncio.run(test())
    assert time.perf_counter() - began < 60


def test_the_fixture(memory_bus: Callable[..., MemoryBus]) -> None:
    world = memory_bus({"math.add": Add()}, brokers=1)
    assert world.sender.call(ADD, [1])[1] == 1
    assert len(world.brokers) == 1
