"""Schemas in the words of Python."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import Base64Bytes, BaseModel, Field

from servicebus.contracts import ServiceContract
from servicebus.contracts.notation import Notation, signature_of, structures_of
from servicebus.typed import Services
from servicebus.typed.schema import schema_of


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Tree(BaseModel):
    label: str
    kids: list[Tree] = []
    colour: Colour | None = None


@dataclass
class Point:
    x: int
    y: Annotated[int, Field(ge=0)] = 0


def contract(function: Callable[..., Any]) -> ServiceContract:
    group = Services("x")
    group.rpc(name="f")(function)
    return group.contract().services[0]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (int, "int"),
        (float, "float"),
        (bool, "bool"),
        (str, "str"),
        (None, "None"),
        (Any, "Any"),
        (Decimal, "Decimal"),
        (Annotated[Decimal, Field(ge=1)], "Decimal(minimum=1.0)"),
        (datetime, "datetime"),
        (date, "date"),
        (time, "time"),
        (timedelta, "timedelta"),
        (UUID, "UUID"),
        (bytes, "bytes"),
        (Base64Bytes, "str(format='base64')"),
        (int | None, "int | None"),
        (list[int], "list[int]"),
        (set[str], "set[str]"),
        (tuple[int, str], "tuple[int, str]"),
        (tuple[int, ...], "list[int]"),
        (dict[str, list[int]], "dict[str, list[int]]"),
        (dict[str, Any], "dict[str, Any]"),
        (Literal["a", 1], "Literal['a', 1]"),
        (Literal["a"], "Literal['a']"),
        (Colour, "Colour"),
        (list[Colour], "list[Colour]"),
        (Point, "Point"),
        (Tree, "Tree"),
        (dict[str, Point] | Tree, "dict[str, Point] | Tree"),
        (Annotated[int, Field(gt=1, le=5)], "int(exclusiveMinimum=1, maximum=5)"),
        (Annotated[str, Field(max_length=3, pattern="^a")], "str(maxLength=3, pattern='^a')"),
        (Annotated[list[int], Field(min_length=1)], "list[int](minItems=1)"),
    ],
)
def test_a_type_is_told_as_it_was_written(kind: Any, text: str) -> None:
    schema = schema_of(kind)
    assert Notation(schema).of(schema) == text


def test_an_alias_that_leads_into_itself_is_told_by_its_name() -> None:
    alias = {"$ref": "#/$defs/Nested", "$defs": {"Nested": {"anyOf": [{"type": "integer"}, {"$ref": "#/$defs/List"}]}}}
    alias["$defs"]["List"] = {"type": "array", "items": {"$ref": "#/$defs/Nested"}}  # type: ignore[index]
    assert Notation(alias).of(alias) == "int | list[Nested]"


def test_signatures() -> None:
    def named(sku: str, count: int = 1, *, at: datetime | None = None) -> Decimal:
        raise NotImplementedError

    def whole(point: Point) -> list[Point]:
        raise NotImplementedError

    def optional(point: Point = Point(1)) -> None: ...  # noqa: B008
    def placed(a: int, b: str = "x", /) -> None: ...
    def rest(a: int, *more: int) -> None: ...
    def any_name(a: int, **more: int) -> None: ...
    def mixed(a: int, *more: int, k: int = 1) -> None: ...
    def nothing() -> None: ...

    told = [signature_of(contract(each)) for each in (named, whole, optional, placed, rest, any_name, mixed, nothing)]
    assert told == [
        "x.f(sku: str, count: int = 1, at: datetime | None = None) -> Decimal",
        "x.f(point: Point) -> list[Point]",
        "x.f(point: Point | None = ...) -> None",
        "x.f(a: int, b: str = 'x', /) -> None",
        "x.f(a: int, *more: int) -> None",
        "x.f(a: int, **more: int) -> None",
        "x.f(a: int, k: int = 1) -> None",
        "x.f() -> None",
    ]
    assert signature_of(ServiceContract("call", "a", "b")) == "a.b(...) -> ..."
    assert signature_of(ServiceContract("message", "a", "b", True, whole="params")) == "a.b(params: Any)"


def test_the_structures_of_a_service() -> None:
    def f(tree: Tree, point: Point) -> Tree:
        raise NotImplementedError

    assert dict(structures_of(contract(f))) == {
        "Colour": ["'red'", "'blue'"],
        "Point": ["x: int", "y: int(minimum=0) = 0"],
        "Tree": ["label: str", "kids: list[Tree] = []", "colour: Colour | None = None"],
    }
