"""Differences of contracts: what happens to whole services, and the words that operators read."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from servicebus.contracts import ErrorContract, NodeContract, ServiceContract
from servicebus.contracts.differences import compare_contracts
from servicebus.contracts.schema_differences import compare_schemas

STRING, INTEGER = {"type": "string"}, {"type": "integer"}
NULL = {"type": "null"}


def fields(*required: str, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def service(**changes: Any) -> ServiceContract:
    plain = ServiceContract("call", "shop", "price", fields("sku", sku=STRING, count=INTEGER), INTEGER)
    return replace(plain, **changes)


def differences(old: Any, new: Any) -> list[tuple[str, str]]:
    """Verdict and text of each, between two services or lists of them."""
    contracts = [NodeContract(tuple(each if isinstance(each, list) else [each])) for each in (old, new)]
    found = compare_contracts(*contracts)
    json.dumps([each.to_json() for each in found], allow_nan=False)
    return [(each.effect, str(each)) for each in found]


WHOLE_SERVICES = [
    ("nothing", service(), service(), []),
    ("removed", service(), [], [("breaking", "the rpc service is removed")]),
    ("added", [], service(), [("compatible", "the rpc service is new")]),
    (
        "another kind",
        service(),
        service(kind="message", result=None),
        [("breaking", "was rpc service, is now message service")],
    ),
    (
        "one of two kinds is removed",
        [service(), service(kind="message")],
        service(),
        [("breaking", "was message service, is now rpc service")],
    ),
    ("a second kind", service(), [service(), service(kind="message")], [("compatible", "the message service is new")]),
    (
        "labels",
        service(version="1.3"),
        service(version="1.4", deprecated="use shop.quote", docs="Other words."),
        [("compatible", "version: was 1.3, is now 1.4"), ("compatible", "is now deprecated: use shop.quote")],
    ),
    ("deprecated no more", service(deprecated=True), service(), [("compatible", "is no longer deprecated")]),
    (
        "options that callers see",
        service(options={"threads": 4, "lock": "sku"}),
        service(options={"threads": 8, "idempotent": True}),
        [
            ("compatible", "calls whose worker died are run again"),
            ("compatible", "requests no longer wait for a lock"),
        ],
    ),
    (
        "params are no longer described",
        service(),
        service(params=None),
        [("compatible", "params: is no longer described")],
    ),
    (
        "params are described now",
        service(params=None),
        service(),
        [("unknown", "params: was not described, is now, so it cannot be compared (counts as breaking)")],
    ),
    (
        "the result is no longer described",
        service(),
        service(result=None),
        [("unknown", "result: is no longer described, so it cannot be compared (counts as breaking)")],
    ),
    (
        "the result is described now",
        service(result=None),
        service(),
        [("compatible", "result: was not described, is now")],
    ),
]


@pytest.mark.parametrize(
    ("old", "new", "expected"), [each[1:] for each in WHOLE_SERVICES], ids=[each[0] for each in WHOLE_SERVICES]
)
def test_what_becomes_of_a_service_is_told(old: Any, new: Any, expected: list[tuple[str, str]]) -> None:
    assert differences(old, new) == expected


def test_what_breaks_stands_first() -> None:
    new = service(params=fields("sku", "unit", sku=STRING, count=INTEGER, unit=STRING), version="2", result={})
    assert [verdict for verdict, _ in differences(service(), new)] == ["breaking", "breaking", "compatible"]


def test_declared_errors_come_and_go() -> None:
    """A caller that does not know an error gets RemoteError; one that catches an error must not lose it unawares."""
    one, other = ErrorContract("OutOfStock", fields("left", left=INTEGER)), ErrorContract("Unknown")
    plain, with_one = service(), service(errors=(one,))
    assert differences(plain, with_one) == [
        ("compatible", "error OutOfStock: new: callers that do not know it get RemoteError")
    ]
    assert differences(with_one, plain) == [("compatible", "error OutOfStock: is no longer raised")]
    (gone, _), (new, _) = differences(with_one, service(errors=(other,)))
    assert (gone, new) == ("unknown", "compatible")
    narrower = replace(one, fields=fields(left=INTEGER))
    assert differences(with_one, service(errors=(narrower,))) == [
        ("breaking", "error OutOfStock left: may be left out now")
    ]


def test_parameters_that_change_places_are_told() -> None:
    """An array binds by position, so one more in the middle breaks callers that send one; at the end it does not."""
    order = service(params=fields("sku", sku=STRING, unit=STRING, count=INTEGER))
    assert [verdict for verdict, _ in differences(service(), order)] == ["unknown", "compatible"]
    end = service(params=fields("sku", sku=STRING, count=INTEGER, unit=STRING))
    assert differences(service(), end) == [("compatible", "params unit: new and optional")]
    whole = [service(whole="order", params=schema.params) for schema in (service(), order)]
    assert differences(*whole) == [("compatible", "params unit: new and optional")]


def test_an_older_version_that_is_still_served_breaks_nobody() -> None:
    """The node chooses the version by the hash of the caller."""
    newer = service(params=fields("order", order=STRING), version="2")
    beside = replace(service(), former=True)
    ((verdict, text),) = differences(service(), [newer, beside])
    assert (verdict, "still served" in text) == ("compatible", True)
    assert "breaking" in {verdict for verdict, _ in differences(service(), newer)}
    other = replace(service(result=STRING), former=True)
    assert "breaking" in {verdict for verdict, _ in differences(service(), [newer, other])}


def test_an_older_version_that_is_no_longer_served_breaks_its_callers() -> None:
    newer, old = service(params=fields("order", order=STRING)), replace(service(version="1"), former=True)
    assert differences([newer, old], newer) == [("breaking", f"the earlier version 1 ({old.hash}) is no longer served")]
    wider = service(params=fields(sku=STRING, count=INTEGER))
    assert differences([wider, old], wider) == []


SENTENCES = [
    ("params", fields(), fields("a", a=INTEGER), "params a: new and required"),
    ("params", fields(a=INTEGER), fields("a", a=INTEGER), "params a: was optional, is now required"),
    ("params", fields(a=INTEGER), fields(), "params a: removed; the node refuses it"),
    ("result", fields("a", a=INTEGER), fields(), "result a: is no longer sent"),
    ("result", fields("a", a=INTEGER), fields(a=INTEGER), "result a: may be left out now"),
    ("result", fields(), fields(a=INTEGER), "result a: new; callers refuse fields that they do not know"),
    ("params", {"anyOf": [INTEGER, NULL]}, INTEGER, "params: was int | None, is now int"),
    ("result", {"type": "string", "format": "date"}, STRING, "result: was date, is now str"),
    ("params", {"enum": ["a", "b"]}, {"enum": ["b", "c"]}, 'params: values removed: "a"; new: "c"'),
    ("params", STRING, {"enum": ["a", "b"]}, 'params: was any value, is now "a" or "b"'),
    ("result", {"maximum": 3}, {"maximum": 4}, "result: largest value: was 3, is now 4"),
    ("params", {"const": "abc"}, {"type": "string", "maxLength": 2}, 'params: no longer allows "abc"'),
    (
        "params",
        fields(**{"odd name": {"type": "array", "items": INTEGER}}),
        fields(**{"odd name": {"type": "array", "items": STRING}}),
        'params ["odd name"][]: was int, is now str',
    ),
    (
        "params",
        {"additionalProperties": INTEGER},
        {"additionalProperties": STRING},
        "params *: was int, is now str",
    ),
    (
        "params",
        {"pattern": "a"},
        {"pattern": "b"},
        "params: pattern: was a, is now b "
        "(not decidable: whether one pattern covers another is not compared; counts as breaking)",
    ),
    (
        "params",
        INTEGER,
        {"not": NULL},
        "params: not has changed (not decidable: not is not compared; counts as breaking)",
    ),
]


@pytest.mark.parametrize(("direction", "old", "new", "text"), SENTENCES)
def test_a_difference_is_a_sentence(direction: str, old: Any, new: Any, text: str) -> None:
    breaking = [each for each in compare_schemas("shop.price", direction, old, new) if each.breaks]
    assert [str(each) for each in breaking] == [text]


def test_a_union_names_the_class_that_is_meant() -> None:
    def pet(**more: Any) -> dict[str, Any]:
        cat = {"title": "Cat", **fields("kind", *more, kind={"const": "cat"}, **more)}
        dog = {"title": "Dog", **fields("kind", kind={"const": "dog"})}
        return fields("pet", pet={"oneOf": [cat, dog]})

    (found,) = compare_schemas("shop.price", "params", pet(), pet(lives=INTEGER))
    assert (found.path, str(found)) == ("pet<Cat>.lives", "params pet<Cat>.lives: new and required")


def test_schemas_that_are_too_deep_or_too_many_are_not_decided() -> None:
    """Neither ends the command, nor takes for ever."""
    deep: list[Any] = [{"type": "number"}, {"type": "integer"}]
    for _ in range(2000):
        deep = [{"type": "array", "items": each} for each in deep]
    many = [{"allOf": [{"anyOf": [{"minimum": n}, {"maximum": -n}]} for n in range(count)]} for count in (20, 21)]
    for old, new in (deep, many):
        assert [each.effect for each in compare_schemas("shop.price", "params", old, new)] == ["unknown"]


def test_what_definitions_within_definitions_multiply_is_cut() -> None:
    def money(levels: int, leaf: Any) -> Any:
        found = {
            f"D{n}": fields(a={"$ref": f"#/$defs/D{n + 1}"}, b={"$ref": f"#/$defs/D{n + 1}"}) for n in range(levels)
        }
        return {"$ref": "#/$defs/D0", "$defs": {**found, f"D{levels}": leaf}}

    found = compare_schemas("shop.price", "params", money(40, {"type": "number"}), money(40, INTEGER))
    assert {each.text for each in found if each.breaks} == {"was float, is now int"}
    assert len(found) <= 1000
