"""Singleton services: what they refuse, and how they change hands. The rest: tests/contract, tests/integration."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import singleton_services
from singleton_services import make_bus

import servicebus.testing
from servicebus.configuration import Configuration
from servicebus.errors import ConfigurationError
from servicebus.protocol.held import HeldProtocol
from servicebus.runtime.extra_host import ExtraHost
from servicebus.runtime.lock_keys import singleton_number
from servicebus.runtime.singleton_thread import SingletonThread
from servicebus.runtime.singletons import Singletons
from servicebus.service import ServiceBus
from servicebus.services import RpcService
from servicebus.typed import Services

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


def test_the_example_of_the_page_runs() -> None:
    page = (Path(__file__).parents[2] / "docs" / "agent.rst").read_text().partition("One worker of the node\n~")[2]
    block = re.search(r"\.\. code-block:: python\n\n((?:    .*\n|\n)+)", page)
    assert block is not None
    names: dict[str, Any] = {"Services": Services, "__name__": "page"}
    code = compile(textwrap.dedent(block[1]), "docs/agent.rst", "exec", dont_inherit=True)
    exec(code, names)  # noqa: S102 - it is ours
    with servicebus.testing.bus(names["meter"], brokers=2) as world:
        assert [world.sender.call("NODE-01.meter.reading", [n])[1] for n in (1, 2, 3)] == [1, 3, 6]
