"""What breaks callers and what does not: pairs of schemas with known verdicts, two independent judges beside them."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from random_schemas import VALUES, schema_pairs
from schema_pairs import OK, PAIRS, Pair, Undecided

from servicebus.contracts.schema_differences import Difference, compare_schemas

DIRECTIONS = ("params", "result")


def cases(*without: str) -> list[Any]:
    chosen = [pair for pair in PAIRS if pair.name not in without]
    return [pytest.param(pair, each, id=f"{pair.name}, {each}") for pair in chosen for each in DIRECTIONS]


CASES = cases()

FORMATS = jsonschema.FormatChecker()
FORMATS.checks("uuid4")(lambda value: not isinstance(value, str) or value[14:15] == "4")

NO_OPINION = {
    "a format is added": "format is an annotation to it",
    "another format": "format is an annotation to it",
    "a format that covers another": "format is an annotation to it",
    "a pattern is added": "not compared before 0.5",
    "another pattern": "takes b* for a part of a+, before 0.5",
    "all types by name": "not known to be anything, before 0.5",
    "a step of one is an integer": "not known",
    "values filtered by their type": "not done before 0.5",
    "a discriminated class is added": "oneOf is not taken apart before 0.5",
    "a discriminated class gets a field": "oneOf is not taken apart before 0.5",
    "anyOf in place of oneOf": "oneOf is not taken apart before 0.5",
    "one of the discriminated alone": "oneOf is not taken apart before 0.5",
    "allOf adds a bound": "allOf is not merged before 0.5",
    "allOf says the same": "allOf is not merged",
    "allOf of two steps": "allOf is not merged",
    "allOf of two models": "allOf is not merged",
    "allOf that nothing fits": "allOf is not merged before 0.5",
    "keywords beside a reference": "not looked at before 0.5",
    "not is added": "refused whatever the other side is, before 0.5",
    "no others, also by way of allOf": "unevaluatedProperties is not known before 0.5",
    "an unlisted field gets a schema": "0.5 takes true for no statement",
    "values of a map widen": "0.5 does not look at them where no field is listed",
    "a map to any object": "0.5 does not look at them where no field is listed",
    "keys of a map widen": "0.5 does not look at them",
    "not, by a definition that changes": "0.5 works it out",
}
"""Where jsoncompat is not asked. That it is wrong there, our witnesses show, or the meaning of the keyword."""


def closed(schema: Any) -> Any:
    """As a writer has it: where fields are listed and nothing is said of others, there are none."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: each if key in ("const", "enum", "required") else closed(each) for key, each in schema.items()}
    if "properties" in found and not {"additionalProperties", "unevaluatedProperties"} & set(found):
        found["properties"] = {**dict.fromkeys(found.get("required", ()), True), **found["properties"]}
        found["additionalProperties"] = False
    return found


def effect_of(differences: list[Difference]) -> str:
    verdicts = {each.effect for each in differences}
    return next((each for each in ("breaking", "unknown") if each in verdicts), "compatible")


def validator_of(schema: Any) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(schema, format_checker=FORMATS)


def sides(pair: Pair, direction: str) -> tuple[Any, Any, Any]:
    """Writer, reader, and what is expected."""
    if direction == "params":
        return closed(pair.old), pair.new, pair.params
    return closed(pair.new), pair.old, pair.result


def test_there_are_pairs_enough_of_each_kind() -> None:
    """At least 60 pairs; both verdicts in numbers, so that neither "all breaks" nor "all is well" would pass."""
    expected = [sides(pair, direction)[2] for pair in PAIRS for direction in DIRECTIONS]
    assert len(PAIRS) >= 60
    assert len({pair.name for pair in PAIRS}) == len(PAIRS)
    assert min(sum(each is OK for each in expected), sum(each is not OK for each in expected)) >= 60


@pytest.mark.parametrize(("pair", "direction"), CASES)
def test_a_pair_has_its_known_result(pair: Pair, direction: str) -> None:
    expected = sides(pair, direction)[2]
    found = compare_schemas("shop.order", direction, pair.old, pair.new)
    known = "compatible" if expected is OK else "unknown" if isinstance(expected, Undecided) else "breaking"
    assert effect_of(found) == known, "\n".join(map(str, found))
    assert all(each.text and each.direction == direction for each in found)
    json.dumps([each.to_json() for each in found], allow_nan=False)


@pytest.mark.parametrize(("pair", "direction"), CASES)
def test_jsonschema_confirms_the_witness_of_what_breaks(pair: Pair, direction: str) -> None:
    """The writer may send it, the reader refuses it: so the known verdicts are not ours alone."""
    writer, reader, expected = sides(pair, direction)
    if isinstance(expected, Undecided):
        if expected.witness is None:
            return
        expected = expected.witness
    if expected is not OK:
        assert validator_of(writer).is_valid(expected)
        assert not validator_of(reader).is_valid(expected)


@pytest.mark.parametrize(("pair", "direction"), cases(*NO_OPINION))
def test_jsoncompat_is_of_the_same_opinion(pair: Pair, direction: str) -> None:
    jsoncompat = pytest.importorskip("jsoncompat", reason="it has no wheels for Python 3.10")
    writer, reader, expected = sides(pair, direction)
    try:
        opinion = jsoncompat.check_compat(json.dumps(writer), json.dumps(reader), "deserializer")
    except ValueError:
        return  # it has none: a schema that it cannot read
    assert opinion == (expected is OK)


@pytest.mark.parametrize("pair", PAIRS, ids=[pair.name for pair in PAIRS])
def test_a_schema_does_not_differ_from_itself(pair: Pair) -> None:
    """Nor from itself in other places: what surrounds it decides nothing."""
    for schema in (pair.old, pair.new):
        assert compare_schemas("shop.order", "params", schema, schema) == []
        if Undecided() not in (pair.params, pair.result):
            moved = {**schema, "title": "Moved"} if isinstance(schema, dict) else {"allOf": [schema]}
            assert compare_schemas("shop.order", "params", schema, moved) == []


@settings(max_examples=60, deadline=None)
@given(schema_pairs())
def test_what_is_compatible_takes_every_value_that_the_writer_may_send(pair: tuple[Any, Any]) -> None:
    """Any two schemas, in every keyword that is compared; jsonschema tells which values are valid."""
    old, new = pair
    for direction, writer, reader in (("params", old, new), ("result", new, old)):
        if effect_of(compare_schemas("shop.order", direction, old, new)) == "compatible":
            written = filter(validator_of(closed(writer)).is_valid, VALUES)
            reads = validator_of(reader).is_valid
            assert [value for value in written if not reads(value)] == []
