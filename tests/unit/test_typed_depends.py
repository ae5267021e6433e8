"""Dependencies of typed functions: made once in their scope, torn down at its end, replaced in tests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from pydantic import BaseModel
from typed_world import typed_world
from typing_extensions import TypeAliasType, TypedDict
from virtual_bus import configuration

from servicebus.errors import ConfigurationError, InvalidParams, RemoteError
from servicebus.runtime.registration import Service
from servicebus.runtime.service_thread import ServiceThread
from servicebus.sender import Sender
from servicebus.service import ServiceBus
from servicebus.services import Request
from servicebus.typed import Depends, Services, replaced
from servicebus.wire.envelope import CALL

LOG: list[str] = []


@pytest.fixture(autouse=True)
def log() -> Iterator[list[str]]:
    LOG.clear()
    yield LOG


class Database:
    def __init__(self, name: str = "real"):
        self.name = name


def open_database() -> Iterator[Database]:
    LOG.append("open")
    yield Database()
    LOG.append("close")


Worker = Annotated[Database, Depends(open_database, scope="worker")]
Thread = Annotated[Database, Depends(open_database, scope="thread")]


def transaction(request: Request, database: Worker) -> Iterator[str]:
    LOG.append(f"begin {request.attempts} {database.name}")
    try:
        yield "t"
    except ValueError:
        LOG.append("rollback")
        raise
    LOG.append("commit")


Transaction = Annotated[str, Depends(transaction)]


def user(transaction: Transaction, sender: Sender) -> str:
    assert isinstance(sender, Sender)
    return f"user of {transaction}"


User = Annotated[str, Depends(user)]


@pytest.fixture
def group() -> Services:
    return Services("shop")


def test_each_scope_makes_its_values_once_and_tears_them_down(monkeypatch: pytest.MonkeyPatch, group: Services) -> None:
    @group.rpc
    def buy(sku: str, transaction: Transaction, user: User, database: Worker) -> list[str]:
        LOG.append(f"buy {sku}")
        return [transaction, user, database.name]

    @group.rpc
    def look(database: Worker) -> str:
        return database.name

    with typed_world(monkeypatch, group) as world:
        assert LOG == ["open"], "before the first request"
        assert world.call("buy", {"sku": "a"}) == ["t", "user of t", "real"]
        assert world.call("buy", ["b"]) == ["t", "user of t", "real"]
        assert world.call("look") == "real"
        one = ["begin 1 real", "buy a", "commit"]
        assert ["open", *one, *[line.replace(" a", " b") for line in one]] == LOG
    assert LOG[-1] == "close" and LOG.count("close") == 1


def test_a_tear_down_sees_what_the_function_raises(monkeypatch: pytest.MonkeyPatch, group: Services) -> None:
    @group.rpc
    def fail(transaction: Transaction) -> None:
        raise ValueError("of the test")

    with typed_world(monkeypatch, group) as world:
        error = world.error("fail")
        assert isinstance(error, RemoteError) and (error.type, error.message) == ("ValueError", "of the test")
    assert LOG == ["open", "begin 1 real", "rollback", "close"]


def test_an_exception_that_a_dependency_swallows_reaches_the_caller(
    monkeypatch: pytest.MonkeyPatch, group: Services
) -> None:
    def swallow() -> Iterator[int]:
        try:
            yield 1
        except ValueError:
            return

    @group.rpc
    def fail(one: Annotated[int, Depends(swallow)]) -> None:
        raise ValueError("of the test")

    with typed_world(monkeypatch, group) as world:
        assert world.error("fail").message == "of the test"


def test_bad_params_make_no_dependency(monkeypatch: pytest.MonkeyPatch, group: Services) -> None:
    @group.rpc
    def buy(sku: str, transaction: Transaction) -> None: ...

    with typed_world(monkeypatch, group) as world:
        assert world.error("buy", {"sku": 5}).errors[0].place == ("sku",)
    assert LOG == ["open", "close"]


def test_a_dependency_that_fails_fails_the_request(monkeypatch: pytest.MonkeyPatch, group: Services) -> None:
    def broken() -> int:
        raise OSError("no database")

    @group.rpc
    def buy(one: Annotated[int, Depends(broken)]) -> None:
        LOG.append("ran")

    with typed_world(monkeypatch, group) as world:
        assert world.error("buy").message == "no database" and LOG == []


def test_what_a_setup_has_made_before_it_failed_is_torn_down(group: Services) -> None:
    def broken() -> int:
        raise OSError("no database")

    @group.rpc
    def look(database: Worker, one: Annotated[int, Depends(broken, scope="worker")]) -> None: ...

    (definition,) = group
    instance = definition.make()
    for _ in range(2):  # it is called again
        with pytest.raises(OSError, match="no database"):
            instance.setup()
    assert LOG == ["open", "close", "open", "close"]


def test_a_tear_down_that_raises_does_not_keep_the_others_from_running(group: Services) -> None:
    def stubborn() -> Iterator[int]:
        yield 1
        raise OSError("it does not close")

    async def stubborn_task() -> AsyncIterator[int]:
        yield 1
        raise OSError("it does not close")

    @group.rpc
    def look(database: Worker, one: Annotated[int, Depends(stubborn, scope="thread")]) -> None: ...

    @group.rpc
    async def watch(database: Worker, one: Annotated[int, Depends(stubborn_task, scope="thread")]) -> None: ...

    by_thread, by_task = (definition.make() for definition in group)
    by_thread.setup()
    with pytest.raises(OSError, match="does not close"):
        by_thread.teardown()
    assert LOG == ["open", "close"]

    async def open_and_close() -> None:
        await by_task.setup_async()
        with pytest.raises(OSError, match="does not close"):
            await by_task.teardown_async()

    asyncio.run(open_and_close())
    assert LOG == ["open", "close", "open", "close"]


def test_a_replacement_takes_the_place_and_the_scope(monkeypatch: pytest.MonkeyPatch, group: Services) -> None:
    def fake() -> Database:
        LOG.append("fake")
        return Database("fake")

    @group.rpc
    def look(database: Worker, transaction: Transaction) -> str:
        return database.name

    with replaced(open_database, fake), typed_world(monkeypatch, group) as world:
        assert [world.call("look"), world.call("look")] == ["fake", "fake"]
    assert LOG.count("fake") == 1 and "open" not in LOG
    with typed_world(monkeypatch, group) as world:
        assert world.call("look") == "real"


def test_each_thread_of_a_service_has_its_own_and_the_worker_has_one(group: Services) -> None:
    seen: list[int] = []
    both = threading.Barrier(2)

    def per_thread() -> Iterator[int]:
        LOG.append("open thread")
        yield threading.get_ident()
        LOG.append("close thread")

    @group.rpc(threads=2)
    def work(mine: Annotated[int, Depends(per_thread, scope="thread")], database: Worker) -> None: ...

    (definition,) = group
    instance = definition.make()

    def stop(_outcome: Any) -> None: ...

    original = instance.setup

    def setup() -> None:
        original()
        seen.append(threading.get_ident())
        both.wait(20)

    instance.setup = setup  # type: ignore[method-assign]
    thread = ServiceThread(Service(CALL, "shop", "work", instance, threads=2), 8, stop, lambda: None, with_traces=False)
    thread.start()
    thread.stop()
    assert thread.join(1e9) and len(set(seen)) == 2
    assert sorted(LOG) == ["close", "close thread", "close thread", "open", "open thread", "open thread"]


def test_what_cannot_be_injected_is_refused_at_the_start() -> None:
    def needs(value: int) -> int:
        return value

    def of_request(request: Request) -> int:
        return 1

    def of_shorter(transaction: Transaction) -> int:
        return 1

    async def awaited() -> int:
        return 1

    def refused(problem: str, depends: Depends) -> None:
        group = Services("shop")

        def serve(one: Any) -> None: ...

        serve.__annotations__["one"] = Annotated[int, depends]
        group.rpc(serve)
        with pytest.raises(ConfigurationError, match=problem):
            ServiceBus(configuration("mq-a")).include(group)

    refused("parameter value of the dependency .*needs is neither injected nor has a default", Depends(needs))
    refused("a dependency per worker cannot take a Request", Depends(of_request, scope="worker"))
    refused("a dependency per thread cannot take one per request", Depends(of_shorter, scope="thread"))
    refused("depends on itself", Depends(ring))
    refused("awaited is async def, so the service has to be, too", Depends(awaited))
    with pytest.raises(ConfigurationError, match="a function or a class"):
        Depends(5)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="one of request, thread, worker"):
        Depends(needs, scope="node")  # type: ignore[arg-type]

    def by_default(value: int = Depends(needs)) -> None: ...  # type: ignore[assignment]

    group = Services("shop")
    group.rpc(by_default)
    with pytest.raises(ConfigurationError, match="Depends is part of the annotation"):
        ServiceBus(configuration("mq-a")).include(group)


def ring(again: Ring) -> int:
    return 1


Ring = Annotated[int, Depends(ring)]


Named = TypeAliasType("Named", User)
Json = TypeAliasType("Json", "dict[str, Json] | list[Json] | int")


def test_a_dependency_is_injected_by_the_name_of_its_type_and_where_it_may_be_none(
    monkeypatch: pytest.MonkeyPatch, group: Services
) -> None:
    @group.rpc
    def look(
        user: Named, request: Request | None = None, again: User | None = None, other: Named | None = None
    ) -> list[Any]:
        return [user, again, other, request is not None]

    with typed_world(monkeypatch, group) as world:
        assert world.call("look") == ["user of t", "user of t", "user of t", True]
        for name in ("user", "request", "again", "other"):  # never from the wire: it may say who the caller is
            with pytest.raises(InvalidParams, match=name):
                world.call("look", {name: "root"})


class InModel(BaseModel):
    user: User


@dataclass
class InDataclass:
    user: User


class InDict(TypedDict):
    users: list[InDataclass]


@pytest.mark.parametrize(
    "kind",
    [list[User], dict[str, Named], User | int | None, tuple[Named, ...], InModel, InDataclass, InDict, list[InModel]],
    ids=["list", "dict", "union", "tuple", "model", "dataclass", "TypedDict", "models"],
)
def test_a_dependency_that_a_caller_could_send_is_refused_at_the_start(kind: Any, group: Services) -> None:
    def look(user: Any, count: int = 1) -> None: ...

    look.__annotations__["user"] = kind
    group.rpc(look)
    with pytest.raises(ConfigurationError, match="look: user has a Depends within its type, where nothing is injected"):
        ServiceBus(configuration("mq-a")).include(group)


def test_a_type_that_holds_itself_is_no_dependency(monkeypatch: pytest.MonkeyPatch, group: Services) -> None:
    @group.rpc
    def look(value: Json) -> int:
        return 1

    with typed_world(monkeypatch, group) as world:
        assert world.call("look", {"value": {"a": [1]}}) == 1
