"""Clients of a group, the hash of the contract that travels with each call, and what a node of another version says."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import pytest
from pydantic import BaseModel, Field, create_model
from type_checkers import CHECKERS, errors_found, errors_wanted

from servicebus.aio import AsyncSender
from servicebus.errors import ConfigurationError, ContractMismatch, EnvelopeError, InvalidParams
from servicebus.services import Request
from servicebus.testing import MemoryBus
from servicebus.typed import INJECTED, AnySender, AsyncClient, Call, Send, Services, TypedClient
from servicebus.wire.xmlcodec import decode_envelope


class Colour(enum.Enum):
    RED = "red"


class Order(BaseModel):
    sku: str = Field(alias="SKU")
    count: int = 1


@dataclass
class Point:
    x: int
    y: int = 0


group = Services("shop")


@group.rpc
def add(a: int, b: int = 0) -> int:
    return a + b


@group.rpc
async def later(day: date, by: timedelta, *, request: Request = INJECTED) -> date:
    assert isinstance(request, Request)
    return day + by


@group.rpc
def order(order: Order) -> Order:
    return order


@group.rpc
def all_of(a: Decimal, u: UUID, c: Colour, s: set[int], o: Order | None, **more: Point) -> list[Any]:
    return [str(a), str(u), c.value, sorted(s), o and o.count, {key: each.x for key, each in more.items()}]


@group.rpc
def placed(a: int, b: Point, /, *rest: int) -> list[int]:
    return [a, b.x, *rest]


@group.rpc
def nothing() -> None: ...


@group.rpc
def optional(point: Point = Point(5)) -> int:  # noqa: B008
    return point.x


noted: list[Any] = []


@group.message
def note(what: str, on: date) -> None:
    noted.append((what, on))


@pytest.fixture
def world(memory_bus: Callable[..., MemoryBus]) -> MemoryBus:
    noted.clear()
    return memory_bus(group)


def test_functions_are_called_at_a_node_as_what_they_are(world: MemoryBus) -> None:
    client = world.sender.client("NODE-01", group)
    assert client.add(1, b=2) == client.call(add, 1, b=2) == 3
    assert client.later(date(2026, 1, 1), timedelta(days=2)) == date(2026, 1, 3)
    assert client.order(Order(SKU="s", count=3)) == Order(SKU="s", count=3)
    uuid = UUID(int=5)
    assert client.all_of(Decimal("1.50"), uuid, Colour.RED, {2, 1}, None, p=Point(4)) == [
        "1.50", str(uuid), "red", [1, 2], None, {"p": 4},
    ]  # fmt: skip
    assert client.placed(1, Point(2), 3, 4) == [1, 2, 3, 4]
    assert client.nothing() is None
    assert (client.optional(), client.optional(Point(7))) == (5, 7)
    assert client.note("a", on=date(2026, 1, 1)).confirmed_by == "mq-1"
    client.send(note, "b", date(2026, 1, 2))
    world.advance(1)
    assert noted == [("a", date(2026, 1, 1)), ("b", date(2026, 1, 2))]


def test_and_from_a_task(world: MemoryBus) -> None:
    async def main() -> None:
        client = AsyncSender.of(world.sender).client("NODE-01", group, timeout=5)
        assert isinstance(client, AsyncClient)
        assert list(await asyncio.gather(client.add(1, 2), client.call(add, 3))) == [3, 3]
        assert await client.order(Order(SKU="s")) == Order(SKU="s")
        await client.send(note, "a", date(2026, 1, 1))

    asyncio.run(main())


def test_what_cannot_be_sent_is_refused_here(world: MemoryBus) -> None:
    client = world.sender.client("NODE-01", group)
    with pytest.raises(TypeError, match="missing a required argument: 'a'"):
        client.add()
    with pytest.raises(InvalidParams) as refused:
        client.all_of(Decimal(1), "no uuid", Colour.RED, {1}, None)
    assert [each.place for each in refused.value.errors] == [("u",)]
    with pytest.raises(AttributeError, match="has no cost"):
        client.cost()
    with pytest.raises(AttributeError, match="has no test_"):
        client.call(test_what_cannot_be_sent_is_refused_here, world)
    assert not world.history.only("called")
    assert repr(client) == f"<Client of {group!r} at NODE-01>"


def test_the_hash_travels_with_calls_and_messages(world: MemoryBus, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def decode(body: bytes, max_bytes: int) -> Any:
        envelope = decode_envelope(body, max_bytes)
        if envelope.kind.value != "control":
            seen.append(envelope.contract)
        return envelope

    monkeypatch.setattr("servicebus.protocol.v2.decode_envelope", decode)
    client = world.sender.client("NODE-01", group)
    client.add(1)
    client.note("a", date(2026, 1, 1))
    world.sender.call("NODE-01.shop.add", [1])
    contract = group.contract()
    assert seen == [contract.find("shop.add").hash, contract.find("shop.note").hash, ""]  # type: ignore[union-attr]


def test_what_is_no_hash_is_refused(world: MemoryBus) -> None:
    with pytest.raises(EnvelopeError, match="no hash of a contract"):
        world.sender.call("NODE-01.shop.add", [1], contract='" evil="1')


def test_the_hash_survives_a_failover(memory_bus: Callable[..., MemoryBus]) -> None:
    world = memory_bus(_present())
    client = world.sender.client("NODE-01", _former())
    world.brokers[0].freeze()
    with pytest.raises(ContractMismatch):
        client.price(price=1)


# -- versions ----------------------------------------------------------------------------------------------------------


class Line(BaseModel):
    sku: str
    count: int = 1


class NewLine(BaseModel):
    sku: UUID
    count: int


def _former(former: bool = False) -> Services:
    """What callers were built against."""
    shop = Services("shop")

    @shop.rpc(version="1.3", former=former)
    def price(price: int, gone: str = "") -> int:
        return price

    @shop.rpc
    def order(lines: list[Line]) -> int:
        raise NotImplementedError

    @shop.message(former=former)
    def note(text: str) -> None:
        noted.append(text)

    return shop


def _present() -> Services:
    shop = Services("shop")

    @shop.rpc(version="1.4")
    def price(price: Decimal, currency: str) -> Decimal:
        return price * 2

    @shop.rpc(name="order")
    def order(lines: list[NewLine]) -> int:
        raise NotImplementedError

    @shop.message(version="2")
    def note(text: str, by: str) -> None:
        noted.append((text, by))

    return shop


def test_params_of_another_version_are_a_mismatch_that_says_what_differs(memory_bus: Callable[..., MemoryBus]) -> None:
    world = memory_bus(_present())
    client = world.sender.client("NODE-01", _former())
    with pytest.raises(ContractMismatch) as raised:
        client.price(price=1)
    assert (
        "the contract has changed: caller: `gone`, `price: int`; node NODE-01 runs 1.4: `no gone`, `price: Decimal`, "
        "new and required: `currency`; "
    ) in str(raised.value)
    assert [each.place for each in raised.value.errors] == [("currency",)]
    assert raised.value.reason == "contract-mismatch" and raised.value.present["version"] == "1.4"
    with pytest.raises(ContractMismatch) as nested:
        client.order([Line(sku="s")])
    assert (
        "caller: `lines[].count: optional`, `lines[].sku: str`; node NODE-01 runs "
        f"{_present().contract().services[1].hash}: `lines[].count: required`, `lines[].sku: UUID`; "
    ) in str(nested.value)


def test_a_mismatch_within_a_map_names_the_field(memory_bus: Callable[..., MemoryBus]) -> None:
    """The notation of the parameter is the same on both sides: dict[str, Item]."""

    def shop(item: type[BaseModel]) -> Services:
        group = Services("shop")

        @group.rpc
        def stock(items: dict[str, item]) -> None: ...  # type: ignore[valid-type]

        return group

    old = create_model("Item", sku=(str, ...))
    new = create_model("Item", sku=(str, ...), place=(int, ...))
    world = memory_bus(shop(new))
    with pytest.raises(ContractMismatch) as raised:
        world.sender.client("NODE-01", shop(old)).stock(items={"a": old(sku="x")})
    assert "new and required: `items.*.place`; " in str(raised.value)


def test_of_many_differences_the_first_are_told(memory_bus: Callable[..., MemoryBus]) -> None:
    def shop(order: type[BaseModel]) -> Services:
        group = Services("shop")

        @group.rpc
        def buy(order: order) -> None: ...  # type: ignore[valid-type]

        return group

    bounded: Any = Annotated[int, Field(ge=5)]
    fields: Any = {f"f{number}": (int, ...) for number in range(15)}
    old, new = create_model("Order", an=(int, ...), f0=(int, ...)), create_model("Order", an=(bounded, ...), **fields)
    world = memory_bus(shop(new))
    with pytest.raises(ContractMismatch) as raised:
        world.sender.client("NODE-01", shop(old)).buy({"f0": 1, "an": 1})
    assert "the contract has changed: node NODE-01 runs " in str(raised.value)
    assert ": `an: smallest value: was none, is now 5`, new and required: `f1`, `f10`, " in str(raised.value)
    assert "`f4`, and 5 more; " in str(raised.value)


def test_bad_params_of_the_same_version_are_just_bad(world: MemoryBus) -> None:
    own = group.contract().find("shop.add")
    assert own is not None
    with pytest.raises(InvalidParams) as raised:
        world.sender.call("NODE-01.shop.add", ["x"], contract=own.hash)
    assert type(raised.value) is InvalidParams
    with pytest.raises(InvalidParams) as raised:
        world.sender.call("NODE-01.shop.add", ["x"])
    assert type(raised.value) is InvalidParams
    with pytest.raises(ContractMismatch) as mismatch:
        world.sender.call("NODE-01.shop.add", ["x"], contract="0" * 24)
    assert f"built against contract {'0' * 24}, and here is contract {own.hash}" in str(mismatch.value)


def test_a_mismatch_survives_pickling_and_schemas_that_are_too_long(
    memory_bus: Callable[..., MemoryBus], monkeypatch: pytest.MonkeyPatch
) -> None:
    import pickle

    monkeypatch.setattr("servicebus.runtime.text_execution._MAX_DATA_CHARS", 100)
    world = memory_bus(_present())
    with pytest.raises(ContractMismatch) as raised:
        world.sender.client("NODE-01", _former()).price(price=1)
    assert raised.value.present["params"] is None
    again = pickle.loads(pickle.dumps(raised.value))
    assert (str(again), again.present) == (str(raised.value), raised.value.present)


def test_params_that_fit_are_served_whatever_the_version(memory_bus: Callable[..., MemoryBus]) -> None:
    world = memory_bus(_present())
    assert world.sender.call("NODE-01.shop.price", {"price": 1, "currency": "EUR"}, contract="0" * 24)[1] == "2"


def test_a_message_of_another_version_goes_to_the_dead_letters_with_that_reason(
    memory_bus: Callable[..., MemoryBus],
) -> None:
    world = memory_bus(_present())
    world.sender.client("NODE-01", _former()).note("a")
    world.advance(1)
    (entry,) = world.history.only("dead-lettered")
    assert "contract-mismatch" in str(entry)


def test_two_versions_are_served_side_by_side(memory_bus: Callable[..., MemoryBus]) -> None:
    noted.clear()
    both = _present()
    former = both.rpc(name="price", version="1.3", former=True)
    former(next(iter(_former())).function)
    both.message(name="note", former=True, version="1")(list(_former())[2].function)
    world = memory_bus(both)
    assert world.sender.client("NODE-01", _former()).price(price=1) == 1
    assert world.sender.client("NODE-01", _present()).price(Decimal(1), currency="EUR") == 2
    assert world.sender.call("NODE-01.shop.price", {"price": 1, "currency": "EUR"})[1] == "2"
    world.sender.client("NODE-01", _former()).note("a")
    world.sender.client("NODE-01", _present()).note("b", by="c")
    world.advance(1)
    assert noted == ["a", ("b", "c")]
    told = [(each.key, each.version, each.former) for each in world.sender.describe("NODE-01.shop.price")]
    assert told == [("shop.price", "1.4", False), ("shop.price", "1.3", True)]
    present = world.sender.describe("NODE-01").find("shop.price")
    assert present is not None and present.version == "1.4"
    assert world.sender.client("NODE-01", both).price(Decimal(1), "EUR") == 2


def test_a_former_version_alone_serves_nobody_else(memory_bus: Callable[..., MemoryBus]) -> None:
    from servicebus.errors import UnknownService

    world = memory_bus(_former(former=True))
    assert world.sender.client("NODE-01", _former()).price(price=1) == 1
    with pytest.raises(UnknownService):
        world.sender.call("NODE-01.shop.price", {"price": 1})


# -- types -------------------------------------------------------------------------------------------------------------

PROGRAM = """
from datetime import date
from typing import Any

from servicebus.aio import AsyncSender
from servicebus.sender import Receipt, Sender
from servicebus.services import Request
from servicebus.typed import INJECTED, AnySender, Call, Send, Services, TypedClient

group = Services("math")

@group.rpc
def add(a: int, b: int = 0) -> int:
    return a + b

@group.rpc
async def half(n: int, *, request: Request = INJECTED) -> float:
    return n / 2

@group.message(retry=(5, 60))
def note(what: str, on: date) -> None: ...

class Math(TypedClient[AnySender], group=group):
    add = Call(add)
    half = Call(half)
    note = Send(note)

def use(sender: Sender) -> None:
    client = sender.client("N", Math)
    x: int = client.add(1, b=2)
    y: float = client.half(1)
    receipt: Receipt = client.note("a", on=date(2026, 1, 1))
    client.add("1")  # ERROR
    client.half()  # ERROR
    z: str = client.add(1)  # ERROR
    client.note("a", "b")  # ERROR
    client.sub(1)  # ERROR
    again: int = Math(sender, "N", timeout=5).add(1)

async def use_async(sender: AsyncSender) -> None:
    client = sender.client("N", Math, timeout=5)
    x: int = await client.add(1, b=2)
    y: float = await client.half(1)
    receipt: Receipt = await client.note("a", on=date(2026, 1, 1))
    await client.add(c=2)  # ERROR
    z: int = client.add(1)  # ERROR
    again: int = await Math(sender, "N").add(1)

def use_functions(sender: Sender) -> None:
    client = sender.client("N", group)
    x: int = client.call(add, 1, b=2)
    y: float = client.call(half, 1)
    client.call(add, "1")  # ERROR
    client.call(half)  # ERROR
    z: str = client.call(add, 1)  # ERROR
    found: Any = client.add("whatever")

async def use_functions_async(sender: AsyncSender) -> None:
    client = sender.client("N", group)
    x: int = await client.call(add, 1, b=2)
    y: float = await client.call(half, 1)
    await client.call(add, c=2)  # ERROR
"""


@pytest.mark.parametrize("checker", CHECKERS)
def test_type_checkers_know_a_call_by_its_function(tmp_path: Path, checker: str) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    assert errors_found(checker, tmp_path) == errors_wanted(tmp_path)


class Shop(TypedClient[AnySender], group=group):
    add = Call(add)
    moved = Call(later)
    note = Send(note)


def test_a_class_of_functions_is_called_as_the_group_is(world: MemoryBus) -> None:
    for client in (world.sender.client("NODE-01", Shop), Shop(world.sender, "NODE-01", timeout=5)):
        assert client.add(1, b=2) == 3
        assert client.moved(date(2026, 1, 1), timedelta(days=2)) == date(2026, 1, 3)
        assert client.note("a", on=date(2026, 1, 1)).confirmed_by == "mq-1"
    with pytest.raises(InvalidParams):
        world.sender.client("NODE-01", Shop).add("x")  # type: ignore[arg-type]
    assert repr(client) == f"<Shop: <Client of {group!r} at NODE-01>>"
    assert repr(Shop.note) == "Send(note)"


def test_and_with_tasks(world: MemoryBus) -> None:
    async def main() -> None:
        client = AsyncSender.of(world.sender).client("NODE-01", Shop)
        assert list(await asyncio.gather(client.add(1, 2), client.add(3))) == [3, 3]
        assert (await client.note("a", date(2026, 1, 1))).confirmed_by == "mq-1"

    asyncio.run(main())


def test_a_class_may_extend_another() -> None:
    class More(Shop[AnySender]):
        nothing = Call(nothing)

    assert isinstance(More.add, Call) and isinstance(More.nothing, Call)


@pytest.mark.parametrize("listed", [Call(note), Send(add), Call(test_and_with_tasks)], ids=repr)
def test_a_class_lists_services_of_its_group_alone(listed: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^Wrong\.it: <Services shop: .*> has no service for (Call|Send)\("):
        type("Wrong", (TypedClient,), {"it": listed}, group=group)
