"""One value that a schema accepts."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from ipaddress import IPv4Address, IPv6Network
from typing import Annotated, Any, Literal
from uuid import UUID

import jsonschema
import pytest
from hypothesis import given, settings
from pydantic import UUID4, AnyUrl, Base64Bytes, BaseModel, Field, Json, TypeAdapter
from random_schemas import documents
from typing_extensions import TypedDict

from servicebus.contracts.examples import example_of
from servicebus.errors import ContractError
from servicebus.typed.schema import schema_of


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Tree(BaseModel):
    label: str
    kids: list[Tree]
    parent: Tree | None = None


class Shown(BaseModel):
    sku: Annotated[str, Field(examples=["s-1", "s-2"])]
    count: int = 7


@dataclass
class Point:
    x: int
    y: Annotated[int, Field(ge=3)]


class Options(TypedDict, total=False):
    limit: int


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: Annotated[int, Field(gt=1, lt=10)]


class Dog(BaseModel):
    kind: Literal["dog"]


Pet = Annotated[Cat | Dog, Field(discriminator="kind")]


@pytest.mark.parametrize("mode", ["validation", "serialization"])
@pytest.mark.parametrize(
    "kind",
    [
        *(int, float, bool, str, None, Any, Decimal, datetime, date, time, timedelta, UUID, UUID4, bytes, Base64Bytes),
        *(Colour, Tree, Shown, Point, Options, Pet, AnyUrl, IPv4Address, IPv6Network, Literal[3, "x"]),
        *(int | None, list[int], set[str], tuple[int, str], tuple[float, ...], dict[str, Point], dict[int, str]),
        *(list[Pet], dict[Colour, int], frozenset[UUID], list[tuple[int, Colour | None]]),
        Annotated[int, Field(ge=17)],
        Annotated[int, Field(lt=-17)],
        Annotated[int, Field(gt=0, multiple_of=7)],
        Annotated[float, Field(gt=0.25, lt=0.5)],
        Annotated[float, Field(lt=-1e6)],
        Annotated[str, Field(min_length=30)],
        Annotated[str, Field(max_length=2)],
        Annotated[str, Field(min_length=2, max_length=2)],
        Annotated[list[Point], Field(min_length=3)],
        Annotated[list[int], Field(max_length=0)],
        Annotated[set[int], Field(min_length=3)],
        Annotated[set[str], Field(min_length=3)],
        Annotated[set[Colour], Field(min_length=2)],
        Annotated[dict[str, int], Field(min_length=3)],
        dict[Annotated[str, Field(max_length=2)], int],
        list[Annotated[str, Field(min_length=1, max_length=3)]],
    ],
)
def test_pydantic_takes_what_is_made_of_its_schemas(kind: Any, mode: Any) -> None:
    value = example_of(schema_of(kind, mode))
    TypeAdapter(kind).validate_json(json.dumps(value))


def test_texts_of_json_and_bounds_of_decimals_fit() -> None:
    """Whose schemas say less of what is written than of what is read."""
    kinds: list[Any] = [Json, Json[Point], Annotated[Decimal, Field(gt=3, le=4)]]
    for kind in kinds:
        TypeAdapter(kind).validate_json(json.dumps(example_of(schema_of(kind))))


def test_examples_come_first_then_defaults() -> None:
    assert example_of(schema_of(Shown)) == {"sku": "s-1", "count": 7}
    assert example_of({"$ref": "#/$defs/A", "examples": [3], "$defs": {"A": {"type": "integer"}}}) == 3
    assert example_of({"type": "integer", "examples": [], "default": 5}) == 5
    in_a_union = {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/A"}], "$defs": {"A": {"default": 9}}}
    assert example_of(in_a_union) == 9


def test_what_is_optional_is_shown_but_for_what_has_no_end() -> None:
    assert example_of(schema_of(Tree)) == {"label": "string", "kids": [], "parent": None}
    assert example_of(schema_of(Options)) == {"limit": 1}
    assert example_of(schema_of(list[Point])) == [{"x": 1, "y": 3}]
    assert example_of(schema_of(dict[str, int])) == {"1": 1}


def test_a_schema_may_refer_to_another_document() -> None:
    document = schema_of(list[Point])
    assert example_of(document["items"], document) == {"x": 1, "y": 3}


def test_the_schema_does_not_change_with_the_example() -> None:
    schema = {"examples": [[1]]}
    example_of(schema).append(2)
    assert example_of(schema) == [1]


_AGAIN = {"properties": {"a": {"$ref": "#/$defs/A"}}, "required": ["a"]}
HUGE: dict[str, Any] = {
    "$ref": "#/$defs/D0",
    "$defs": {
        f"D{n}": {
            "type": "object",
            "properties": {name: {"$ref": f"#/$defs/D{n + 1}"} for name in "ab"},
            "required": ["a", "b"],
        }
        for n in range(30)
    }
    | {"D30": {"type": "null"}},
}


@pytest.mark.parametrize(
    "schema",
    [
        False,
        {"type": "integer", "minimum": 3, "maximum": 2},
        {"type": "string", "minLength": 3, "maxLength": 2},
        {"$ref": "#/$defs/A", "$defs": {"A": {"type": "object", **_AGAIN}}},
        HUGE,
        {"$ref": "#/$defs/Nowhere"},
        {"$ref": "https://example.org/schema"},
        {"type": "array", "minItems": 1_000_000},
        {"type": "string", "minLength": 1_000_000_000},
        {"type": "object", "minProperties": 1_000_000},
        {"type": 5},
        {"type": "string", "pattern": "("},
        {"type": "object", "properties": 5},
        {"anyOf": 3},
        [],
        {"allOf": [{"$ref": "#"}]},
    ],
)
def test_what_has_no_example_says_so_soon(schema: Any) -> None:
    with pytest.raises(ContractError, match="no example can be made: "):
        example_of(schema)


def test_optional_fields_of_a_wide_and_deep_schema_are_cut() -> None:
    definitions = {
        f"D{n}": {"type": "object", "properties": {f"f{m}": {"$ref": f"#/$defs/D{m}"} for m in range(20)}}
        for n in range(20)
    }
    assert example_of({"$ref": "#/$defs/D0", "$defs": definitions})


@settings(max_examples=200, deadline=None)
@given(documents.filter(lambda schema: "oneOf" not in json.dumps(schema)))
def test_examples_of_random_schemas_fit_by_an_independent_judge(schema: Any) -> None:
    judge = jsonschema.Draft202012Validator(schema)
    try:
        value = example_of(schema)
    except ContractError:
        assert not any(map(judge.is_valid, [None, True, 0, 1, 1.5, "string", [], {}]))
        return
    assert judge.is_valid(value)
