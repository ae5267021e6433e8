"""Singleton services: what they refuse, and how they change hands. The rest: tests/contract, tests/integration."""

from __future__ import annotations

import logging
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import singleton_services
from singleton_services import make_bus

import servicebus.testing
from servicebus.configuration import Configuration
from servicebus.errors import CallInterrupted, ConfigurationError, RemoteError, TransportError
from servicebus.protocol.held import HeldProtocol
from servicebus.runtime.copy_store import CopyStore
from servicebus.runtime.extra_host import ExtraHost
from servicebus.runtime.lock_keys import singleton_number
from servicebus.runtime.singleton_thread import SingletonThread
from servicebus.runtime.singletons import Singletons
from servicebus.service import ServiceBus
from servicebus.services import Request, RpcService
from servicebus.typed import Services
from servicebus.wire.headers import AGAIN

CONFIG: dict[str, Any] = {"hosts": ["mq-a"], "node_name": "NODE-01", "secret_token": "a secret of the test"}
COUNTER = "NODE-01.one.counter"


def rows() -> Any:
    yield 1


@pytest.mark.parametrize(
    ("function", "how", "why"),
    [
        (rows, {}, "not for generators"),
        (len, {"lock": 0}, "one of lock, concurrency and singleton"),
        (len, {"concurrency": "node"}, "one of lock, concurrency and singleton"),
        (len, {"singleton": "often"}, "singleton must be"),
    ],
)
def test_what_cannot_be_one_is_refused(function: Any, how: dict[str, Any], why: str) -> None:
    group = Services("one")
    make = rows if function is rows else (lambda text: len(text))
    group.rpc(name="it", **{"singleton": True, **how})(make)
    with pytest.raises(ConfigurationError, match=why):
        ServiceBus(Configuration(CONFIG)).include(group)


def test_beside_peers_of_version_1_there_is_none() -> None:
    class One(RpcService):
        singleton = True

        def handle(self, request: Any) -> None: ...

    with pytest.raises(ConfigurationError, match="compat"):
        ServiceBus(Configuration({**CONFIG, "compat": True})).add_rpc_service("one", "it", One())


def holders(world: Any) -> list[SingletonThread]:
    threads = [each for worker in world.node._workers for each in worker.services if isinstance(each, SingletonThread)]
    return [each for each in threads if each.service.key == "one.counter" and each.is_held]


class Ended:
    """The locks as the worker sees them that had *lock* until its lease has ended; the others can take it."""

    def __init__(self, locks: Any, lock: int):
        self._locks = locks
        self._locks.release(lock)

    def has(self, lock: int) -> bool:
        return False

    def take(self, lock: int) -> bool:
        return False

    def release(self, lock: int) -> None:
        """It takes nothing from the next one."""

    def fence(self, lock: int) -> None: ...


def test_a_worker_whose_lease_has_ended_begins_nothing_and_another_one_begins_anew() -> None:
    with servicebus.testing.bus(make_bus(Configuration({**CONFIG, "hosts": ["mq-1", "mq-2"]}))) as world:
        assert [world.sender.call(COUNTER)[1] for _ in range(3)] == [1, 2, 3]
        (first,) = holders(world)
        running = world.sender.call_async(COUNTER, ["sleep", 5], timeout=60)
        waiting = world.sender.call_async(COUNTER, timeout=60)
        world.advance(1)
        assert first.backlog == 2, "one runs, one is in the inbox"
        first._locks = Ended(first._locks, singleton_number(first.service))  # type: ignore[assignment]
        assert world.sender.call(COUNTER, timeout=60)[1] == 1, "setup() has run again"
        running.result()
        waiting.result()
        (second,) = holders(world)
        assert second is not first and not first.backlog
        done = [entry.broker for entry in world.history.only("executed") if entry.target == "one.counter"]
        assert len(done) == 6 and sorted(done.count(each) for each in set(done)) == [2, 4], "it ran what it had begun"


# -- what is delivered again -------------------------------------------------------------------------------------------

FOR_COUNTER = "NODE-01.rpc.for.one.counter"


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The workers that may take singletons: none until a test says so."""
    workers: list[Any] = []
    look = SingletonThread.look

    def guarded(thread: SingletonThread, *, may_serve: bool) -> bool:
        return any(thread in each.services for each in workers) and look(thread, may_serve=may_serve)

    monkeypatch.setattr(SingletonThread, "look", guarded)
    return workers


@pytest.fixture
def world(chosen: list[Any]) -> Iterator[Any]:
    """Two workers on one broker: what the one loses goes to the other."""
    hosts = [{"name": name, "host": "mq-1"} for name in ("first", "second")]
    with servicebus.testing.bus(make_bus(Configuration(CONFIG)), hosts=hosts) as world:
        yield world


@pytest.fixture
def lose_before_ack(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """The worker that passes on the next request loses its connection between the confirm of the copy and its ack."""
    stored = CopyStore._stored

    def lose(copies: CopyStore, _storing: Any) -> None:
        monkeypatch.setattr(CopyStore, "_stored", stored)
        assert copies._publisher is not None
        copies._publisher._on_broken(TransportError("of the test"))

    return lambda: monkeypatch.setattr(CopyStore, "_stored", lose)


def counters(world: Any) -> Counter[str]:
    return sum((worker.dispatcher.counters for worker in world.node._workers), Counter[str]())


def executed(world: Any, target: str = "one.counter") -> int:
    return len([entry for entry in world.history.only("executed") if entry.target == target])


@pytest.mark.parametrize("place", [0, 1])
def test_a_call_that_was_passed_on_and_comes_again_is_run_once_and_its_caller_is_not_told_otherwise(
    world: Any, chosen: list[Any], lose_before_ack: Callable[[], None], place: int
) -> None:
    lose_before_ack()
    call = world.sender.call_async(COUNTER, timeout=60)
    world.advance(5)
    assert world.brokers[0].queues[FOR_COUNTER] == 2 and not call.done()
    chosen.append(world.node._workers[place])
    assert call.result()[1] == 1
    world.advance(5)
    assert executed(world) == 1
    assert counters(world)["redelivered"] == 0 and counters(world)["passed-on"] == 1


def test_a_second_copy_is_asked_for_again_where_nothing_is_known_of_the_first(
    world: Any, chosen: list[Any], lose_before_ack: Callable[[], None]
) -> None:
    lose_before_ack()
    call = world.sender.call_async(COUNTER, timeout=60)
    world.advance(5)
    first, again = world._network["mq-1:5672"].queues[FOR_COUNTER].ready
    assert (AGAIN in (first.properties[3] or {}), AGAIN in (again.properties[3] or {})) == (False, True)
    world._network["mq-1:5672"].queues[FOR_COUNTER].ready.remove(first)
    chosen.append(world.node._workers[0])
    assert call.result()[1] == 1
    assert executed(world) == 1 and counters(world)["redelivered"] == 1


def test_a_call_that_was_cancelled_before_its_copies_are_run_is_not_run(
    world: Any, chosen: list[Any], lose_before_ack: Callable[[], None]
) -> None:
    lose_before_ack()
    call = world.sender.call_async(COUNTER, timeout=60)
    world.advance(5)
    call.cancel()
    world.advance(1)
    chosen.append(world.node._workers[0])
    world.advance(5)
    assert world.brokers[0].queues[FOR_COUNTER] == 0 and executed(world) == 0


def test_what_a_worker_that_died_had_not_begun_is_run_by_the_next_one(chosen: list[Any]) -> None:
    with servicebus.testing.bus(make_bus(Configuration(CONFIG)), brokers=2) as world:
        chosen.append(world.node._workers[0])
        running = world.sender.call_async(COUNTER, ["sleep", 5], timeout=60)
        world.advance(1)
        other = world.make_sender(hosts=["mq-2"])
        waiting = [other.call_async(COUNTER, timeout=60) for _ in range(3)]
        world.advance(0.1)
        (holder,) = holders(world)
        assert holder.backlog == 4
        world.node.kill()
        world.node.start()
        chosen.append(world.node._workers[0])
        assert sorted(each.result()[1] for each in waiting) == [1, 2, 3]
        with pytest.raises(CallInterrupted):
            running.result()
        assert executed(world) == 3


def test_a_message_that_was_passed_on_and_comes_again_is_run_once(
    world: Any, chosen: list[Any], lose_before_ack: Callable[[], None]
) -> None:
    lose_before_ack()
    world.sender.send("NODE-01.one.note", ["notes"])
    world.advance(5)
    assert world.brokers[0].queues["NODE-01.messages.for.one.note"] == 2
    chosen.append(world.node._workers[1])
    world.advance(5)
    assert executed(world, "one.note") == 1


def test_a_call_keeps_its_priority_when_it_is_passed_on() -> None:
    seen: list[int] = []

    class Ordered(singleton_services.Counter):
        def handle(self, request: Request) -> Any:
            seen.append(request.priority)
            return super().handle(request)

    with servicebus.testing.bus({"one.counter": Ordered()}, brokers=2, priorities=True) as world:
        hosts = [[{"name": host.name, "host": host.host}] for host in world.sender._config.hosts]
        senders = [world.make_sender(hosts=host) for host in hosts]
        for sender in senders:  # one of them reaches the worker that runs it, the other one what passes on
            first = sender.call_async(COUNTER, ["sleep", 1], timeout=60)
            world.advance(0.1)
            asked = [sender.call_async(COUNTER, priority=priority, timeout=60) for priority in (None, 3, 9, 1)]
            for future in (first, *asked):
                future.result()
        assert seen == [0, 9, 3, 1, 0] * 2


# -- where it runs -----------------------------------------------------------------------------------------------------


def test_setup_runs_where_the_service_does_and_nowhere_else() -> None:
    done: list[str] = []

    class Opened(singleton_services.Counter):
        def setup(self) -> None:
            done.append("setup")

        def teardown(self) -> None:
            done.append("teardown")

    Opened.threads = 1
    with servicebus.testing.bus({"one.counter": Opened()}, brokers=2) as world:
        assert world.sender.call(COUNTER)[1] == 1 and done == ["setup"]
        world.node.stop()
        assert done == ["setup", "teardown"]


def test_no_worker_consumes_more_than_it_runs() -> None:
    with servicebus.testing.bus({"one.counter": singleton_services.Counter()}, brokers=2) as world:
        world.sender.call(COUNTER)
        queues = [world._network[f"mq-{n}:5672"].queues["NODE-01.rpc.for.one.counter"] for n in (1, 2)]
        assert [len(queue.consumers) for queue in queues] == [1, 1]
        parts: list[Any] = [part for worker in world.node._workers for part in worker.consumer.plain._parts]
        assert all(isinstance(part, Singletons) for part in parts)
        hosts: list[list[Any]] = [part._hosts for part in parts]
        assert sorted([host.is_up for host in each] for each in hosts) == [[False, False], [True, True]]
        assert isinstance(hosts[0][0]._protocol, HeldProtocol) and isinstance(hosts[0][0], ExtraHost)


def test_a_broker_that_is_down_is_told_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    with servicebus.testing.bus({"one.counter": singleton_services.Counter()}, brokers=2) as bus:
        bus.sender.call(COUNTER)
        with caplog.at_level(logging.INFO):
            bus.brokers[1].kill()
            bus.advance(200)
    lines = [each for each in caplog.messages if "requests for its singleton services are not consumed" in each]
    assert 2 <= len(lines) <= 5, lines
    assert "more since the last line" in lines[-1]


def test_a_passed_on_call_whose_result_is_too_large_for_its_broker_is_told_so(chosen: list[Any]) -> None:
    group = Services("one")

    @group.rpc(singleton=True)
    def text(size: int) -> str:
        return "x" * size

    with servicebus.testing.bus(group, brokers=2) as bus:
        chosen.append(bus.node._workers[1])
        first = bus._network["mq-1:5672"]
        bus._order(partial(setattr, first, "max_message_size", 100_000))
        assert bus.sender.call("NODE-01.one.text", [10], timeout=30)[1] == "x" * 10
        before = first.connects
        for size in (200_000, 110_000):
            with pytest.raises(RemoteError, match="max_message_size"):
                bus.sender.call("NODE-01.one.text", [size], timeout=30)
        assert bus.sender.call("NODE-01.one.text", [90_000], timeout=30)[1] == "x" * 90_000
        assert first.connects == before and counters(bus)["passed-on"] == 4


def test_the_example_of_the_page_runs() -> None:
    page = (Path(__file__).parents[2] / "docs" / "agent.rst").read_text().partition("One worker of the node\n~")[2]
    block = re.search(r"\.\. code-block:: python\n\n((?:    .*\n|\n)+)", page)
    assert block is not None
    names: dict[str, Any] = {"Services": Services, "__name__": "page"}
    code = compile(textwrap.dedent(block[1]), "docs/agent.rst", "exec", dont_inherit=True)
    exec(code, names)  # noqa: S102 - it is ours
    with servicebus.testing.bus(names["meter"], brokers=2) as world:
        assert [world.sender.call("NODE-01.meter.reading", [n])[1] for n in (1, 2, 3)] == [1, 3, 6]
