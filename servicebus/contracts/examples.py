"""Examples: one value that a schema accepts, as documentation shows it and a mock replies with it."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from itertools import chain, islice
from typing import Any

from servicebus.contracts.alternatives import Document, Incomparable
from servicebus.contracts.example_texts import texts_for
from servicebus.contracts.shapes import Arrays, Numbers, Objects, Schema, Shape, Strings, Values, accepts, text_of
from servicebus.errors import ContractError

__all__ = ["example_of", "examples_of"]

_DEEPEST = 40
_ENOUGH = 500
"""Values after which nothing is added that the schema does not require."""
_MOST = 5_000
_TRIED = 50
_ANNOTATIONS = frozenset(
    {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "discriminator"}
    | {"$defs", "$comment", "$schema", "$id"}
)


def example_of(schema: Schema, document: Schema = None) -> Any:
    """One value, as JSON has it, that *schema* accepts; the same one each time.

    The first of the schema's ``examples``, else its ``default``, be it right or not; else a value that is made from the
    types and bounds. An object has all fields that the schema lists, but for optional ones that would have no end.
    ``not``, ``if``, ``contains``, what depends on other fields and whether one ``oneOf`` alone fits are not looked at.

    Args:
        document: the schema in whose ``$defs`` its references lead; *schema* itself if None.

    Raises:
        ContractError: no value fits, none was found, the smallest one is too large, or the schema cannot be read.
    """
    try:
        return copy.deepcopy(_Maker(schema if document is None else document).first(schema, ()))
    except (Incomparable, re.error, RecursionError, TypeError, ValueError, AttributeError) as error:
        raise ContractError(f"no example can be made: {error}") from error


def examples_of(schema: Schema) -> list[Any]:
    """What ``example_of()`` makes, in a list; an empty one if it makes nothing, or if no schema is known."""
    try:
        return [] if schema is None else [example_of(schema)]
    except ContractError:
        return []


class _Maker:
    """Makes the values of one document. *inside* is the way to a schema: "" per object and array, and references."""

    def __init__(self, document: Schema):
        self._document = Document(document)
        self._made = 0

    def first(self, schema: Schema, inside: tuple[str, ...]) -> Any:
        """The best value. Raises Incomparable."""
        for found in self._values(schema, inside):
            return found
        raise Incomparable("nothing fits that was tried")

    def _values(self, schema: Schema, inside: tuple[str, ...]) -> Iterator[Any]:
        """Values that fit, the best first; all different ones for scalars, else one per alternative."""
        self._made += 1
        if self._made > _MOST or inside.count("") > _DEEPEST:
            raise Incomparable("the smallest value is too large")
        if schema is True or schema == {}:
            yield from ("any value", 1)
            return
        if isinstance(schema, dict):
            yield from _given(schema)
            further = set(schema) - _ANNOTATIONS
            if further == {"$ref"}:
                yield from self._referred(str(schema["$ref"]), inside)
                return
            if further in ({"anyOf"}, {"oneOf"}):
                yield from self._any(schema[further.pop()], inside)
                return
            if schema.get("contentMediaType") == "application/json" and schema.get("type") == "string":
                yield json.dumps(self.first(schema.get("contentSchema", True), (*inside, "")))
        for shape in sorted(self._document.alternatives(schema), key=_rank):
            with suppress(Incomparable):
                yield from self._of_shape(shape, inside)

    def _referred(self, reference: str, inside: tuple[str, ...]) -> Iterator[Any]:
        if reference in inside:
            raise Incomparable("it has no end")
        yield from self._values(self._document.resolve(reference), (*inside, reference))

    def _any(self, schemas: Iterable[Schema], inside: tuple[str, ...]) -> Iterator[Any]:
        for each in sorted(schemas, key=lambda each: isinstance(each, dict) and each.get("type") == "null"):
            with suppress(Incomparable):
                yield from self._values(each, inside)

    def _of_shape(self, shape: Shape, inside: tuple[str, ...]) -> Iterator[Any]:
        shape = replace(shape, opaque={})
        if isinstance(shape, Values):
            yield from shape.values
        elif isinstance(shape, Numbers):
            yield from filter(lambda each: accepts(shape, each), _numbers(shape))
        elif isinstance(shape, Strings):
            yield from islice(texts_for(shape), _TRIED)
        elif isinstance(shape, Arrays):
            yield self._array(shape, (*inside, ""))
        elif isinstance(shape, Objects):
            yield self._object(shape, (*inside, ""))

    def _array(self, shape: Arrays, inside: tuple[str, ...]) -> list[Any]:
        wanted = max(shape.shortest, len(shape.prefix), 1)
        found: list[Any] = []
        seen: set[str] = set()
        for index in range(int(min(wanted, shape.longest))):
            try:
                if index >= shape.shortest and self._is_enough():
                    break
                item = self._unlike(shape.item(index), inside, seen if shape.is_unique else set())
            except Incomparable:
                if index < shape.shortest:
                    raise
                break
            seen.add(text_of(item))
            found.append(item)
        return found

    def _unlike(self, schema: Schema, inside: tuple[str, ...], seen: set[str]) -> Any:
        for found in self._values(schema, inside):
            if text_of(found) not in seen:
                return found
        raise Incomparable("too few different items were found")

    def _object(self, shape: Objects, inside: tuple[str, ...]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        room = shape.largest - len(shape.required)
        for name in dict.fromkeys([*shape.fields, *sorted(shape.required)]):
            if name in shape.required:
                found[name] = self.first(self._field(name, shape), inside)
            elif room > 0 and not self._is_enough():
                with suppress(Incomparable):
                    found[name] = self.first(self._field(name, shape), inside)
                    room -= 1
        wanted = max(shape.smallest, 0 if shape.declares else min(1, shape.largest))
        for name in self._more_names(shape, inside):
            if len(found) >= wanted:
                break
            with suppress(Incomparable):
                found.setdefault(name, self.first(self._field(name, shape), inside))
        if len(found) < shape.smallest:
            raise Incomparable("too few names of fields were found")
        return found

    def _field(self, name: str, shape: Objects) -> Schema:
        """What a field of that name must be; False if there may be none."""
        names = () if shape.names is True else self._document.alternatives(shape.names)
        if shape.names is not True and not any(
            each.type == "string" and accepts(each, name) is not False for each in names
        ):
            return False
        found = shape.field(name)
        return True if found is None else found

    def _more_names(self, shape: Objects, inside: tuple[str, ...]) -> Iterator[str]:
        """Of fields that are not listed: of a map."""
        if shape.rest is None and not shape.patterns and not shape.smallest:
            return
        by_pattern = (texts_for(Strings(type="string", patterns=frozenset([each]))) for each in shape.patterns)
        # Numbers, since pydantic does not say in a schema that the keys of a dict[int, ...] must be some.
        plain = map(str, range(1, _TRIED))
        names = plain if shape.names is True else filter(_is_text, self._values(shape.names, inside))
        yield from chain(chain.from_iterable(islice(each, _TRIED) for each in by_pattern), names)

    def _is_enough(self) -> bool:
        return self._made > _ENOUGH


def _given(schema: Mapping[str, Any]) -> Iterator[Any]:
    """What the schema itself names."""
    examples = schema.get("examples")
    yield from examples if isinstance(examples, list) else []
    if "default" in schema:
        yield schema["default"]


def _rank(shape: Shape) -> bool:
    """Null tells least."""
    return shape.type == "null"


def _numbers(shape: Numbers) -> Iterator[int | float]:
    low = None if shape.low is None else shape.low.value
    high = None if shape.high is None else -shape.high.value
    step = shape.step or Fraction(1, 2)
    if shape.step is None:
        yield 1.5
    yield from (1, 0)
    if low is not None and high is not None:
        yield _number((low + high) / 2)
    starts = [each for each in (low, None if high is None else high - _TRIED * step, Fraction(0)) if each is not None]
    for start in starts:
        first = start if shape.step is None else -(-start // step) * step
        yield from (_number(first + count * step) for count in range(_TRIED + 1))


def _number(value: Fraction) -> int | float:
    return int(value) if value.denominator == 1 else float(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)
