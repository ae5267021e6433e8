"""A union as a parameter: what the caller writes, and what it is told when no alternative fits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, Json
from typed_world import TypedWorld, typed_world
from typing_extensions import TypeAliasType, TypedDict

from servicebus.errors import InvalidParams
from servicebus.typed import Services


class Card(BaseModel):
    number: str
    months: int = 1


class Transfer(BaseModel):
    iban: str


@dataclass
class Voucher:
    code: str


class Cash(TypedDict):
    coins: list[int]


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: Annotated[int, Field(le=9)]


class Dog(BaseModel):
    kind: Literal["dog"]


Pet = TypeAliasType("Pet", Annotated[Cat | Dog, Field(discriminator="kind")])

group = Services("shop")


@group.rpc
def pay(method: Card | Transfer | Voucher | Cash) -> str:
    return type(method).__name__


@group.rpc
def pat(pet: Pet) -> str:
    return pet.kind


@group.rpc
def maybe(order: Card | None = None) -> str:
    return "nothing" if order is None else order.number


@group.rpc
def either(value: int | list[int | str]) -> str:
    return type(value).__name__


@group.rpc
def text(payload: Json[Card], more: int) -> str:
    return payload.number


@group.rpc
def several(first: Card | Transfer, second: int | None = None) -> str:
    return type(first).__name__


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Any:
    with typed_world(monkeypatch, group) as world:
        yield world


@pytest.mark.parametrize(
    ("name", "params", "result"),
    [
        ("pay", {"number": "1"}, "Card"),
        ("pay", {"iban": "DE"}, "Transfer"),
        ("pay", {"code": "x"}, "Voucher"),
        ("pay", {"coins": [1]}, "dict"),
        ("pat", {"kind": "dog"}, "dog"),
        ("maybe", {"order": {"number": "1"}}, "1"),
        ("maybe", None, "nothing"),
        ("either", {"value": [1, "a"]}, "list"),
        ("either", [7], "int"),
        ("several", {"first": {"iban": "DE"}}, "Transfer"),
    ],
)
def test_a_union_of_structures_takes_the_whole_params(world: TypedWorld, name: str, params: Any, result: str) -> None:
    assert world.call(name, params) == result


@pytest.mark.parametrize(
    ("name", "params", "told"),
    [
        (
            "pat",
            {"kind": "cat", "lives": 10},
            ["lives: as cat: Input should be less than or equal to 9 (less_than_equal)"],
        ),
        ("pat", {"kind": "cow"}, ["params: Input does not match any of the expected tags (union_tag_invalid)"]),
        ("maybe", {"order": {"number": 5}}, ["order.number: Input should be a valid string (string_type)"]),
        (
            "several",
            {"first": {"months": "x"}},
            [
                "first.number: as Card: Field required (missing)",
                "first.months: as Card: Input should be a valid integer",
                "first.iban: as Transfer: Field required (missing)",
            ],
        ),
        ("either", {"value": {}}, ["value: as int: ", "value: as list[union[int,str]]: Input"]),
        (
            "either",
            [[None]],
            ["0: as int: ", "0.0: as list[union[int,str]], int", "0.0: as list[union[int,str]], str"],
        ),
        (
            "text",
            {"payload": '{"number": 5}', "more": 1},
            ["payload.number: Input should be a valid string (string_type)"],
        ),
    ],
)
def test_each_alternative_says_what_it_lacks_and_where(
    world: TypedWorld, name: str, params: Any, told: list[str]
) -> None:
    error = world.error(name, params)
    assert isinstance(error, InvalidParams)
    found = [str(each) for each in error.errors]
    assert len(found) == len(told), found
    assert all(each.startswith(start) for each, start in zip(found, told, strict=True)), found


def test_its_client_sends_the_whole(world: TypedWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def call(_target: str, params: Any, *_: Any, **__: Any) -> tuple[int, Any]:
        seen.append(params)
        return 1, world.call("pay", params)

    monkeypatch.setattr(world.bus.sender, "call", call)
    client: Any = world.bus.sender.client("NODE-01", group)
    assert client.pay(Transfer(iban="DE")) == "Transfer" and seen == [{"iban": "DE"}]


def test_the_contract_says_so() -> None:
    wholes = {each.name: each.whole for each in group.contract()}
    assert wholes == {"pay": "method", "pat": "pet", "maybe": "", "either": "", "text": "", "several": ""}
