"""Shapes: what the values of one JSON type look like, as the keywords of JSON Schema say, read and normalised.

A shape holds what applies to its type alone: bounds of numbers, lengths and patterns of strings, items, fields. A
schema is a list of them, one of which a value must fit (``servicebus.contracts.alternatives``). What a shape has no
room for is kept as ``opaque`` text: equal or unknown.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from typing import Any

__all__ = [
    "Arrays",
    "Bound",
    "Numbers",
    "Objects",
    "Shape",
    "Strings",
    "Values",
    "accepts",
    "merge",
    "text_of",
    "type_of",
]

Schema = Any
ANYTHING: Schema = True
NOTHING: Schema = False


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Values of the JSON type *type*; an integer is a number whose step is 1."""

    type: str
    label: str = ""
    """The name of the class that it was made from, for people."""
    opaque: Mapping[str, str] = field(default_factory=dict)
    """Constraints that are compared as texts alone: the keyword of each text."""


@dataclass(frozen=True, kw_only=True)
class Values(Shape):
    """Some scalars, one by one: of ``enum`` or ``const``, and all that boolean and null have."""

    values: tuple[Any, ...]

    @cached_property
    def texts(self) -> frozenset[str]:
        """All of them as ``text_of()`` writes them."""
        return frozenset(map(text_of, self.values))


@dataclass(frozen=True, order=True)
class Bound:
    """As a lower bound; an upper one is that of the negative numbers."""

    value: Fraction
    is_exclusive: bool = False


@dataclass(frozen=True, kw_only=True)
class Numbers(Shape):
    low: Bound | None = None
    high: Bound | None = None
    """Mirrored: its value is the negative of the limit."""
    step: Fraction | None = None


@dataclass(frozen=True, kw_only=True)
class Strings(Shape):
    shortest: int = 0
    longest: float = math.inf
    patterns: frozenset[str] = frozenset()
    formats: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Arrays(Shape):
    prefix: tuple[Schema, ...] = ()
    rest: Schema = ANYTHING
    shortest: int = 0
    longest: float = math.inf
    is_unique: bool = False

    def item(self, index: int) -> Schema:
        return self.prefix[index] if index < len(self.prefix) else self.rest


@dataclass(frozen=True, kw_only=True)
class Objects(Shape):
    fields: Mapping[str, Schema] = field(default_factory=dict)
    required: frozenset[str] = frozenset()
    patterns: Mapping[str, Schema] = field(default_factory=dict)
    rest: Schema | None = None
    """Of all other fields; None if the schema does not say: a writer sends none, and a reader ignores them."""
    names: Schema = ANYTHING
    declares: bool = False
    """It lists its fields, be there none. A writer whose schema does not may send any."""
    smallest: int = 0
    largest: float = math.inf

    def field(self, name: str) -> Schema | None:
        """The schema of that field; None if the shape does not say."""
        found = [self.fields[name]] if name in self.fields else []
        found += [schema for pattern, schema in self.patterns.items() if re.search(pattern, name)]
        return all_of(*found) if found else self.rest


def type_of(value: Any) -> str:
    """The JSON type of a value."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    if isinstance(value, (int, float)):
        return "number"
    return "string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"


def text_of(value: Any) -> str:
    """The same for values that JSON holds for equal, such as 1 and 1.0."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, sort_keys=True)


def all_of(*schemas: Schema) -> Schema:
    """One schema that says what all of them say."""
    found = [each for each in schemas if each is not True and each != {}]
    return NOTHING if False in found else ANYTHING if not found else found[0] if len(found) == 1 else {"allOf": found}


def accepts(shape: Shape, value: Any) -> bool | None:
    """Whether a scalar of the shape's type fits it; None if that cannot be known."""
    if shape.opaque:
        return None
    if isinstance(shape, Values):
        return text_of(value) in shape.texts
    if isinstance(shape, Numbers):
        number = Fraction(str(value))
        is_low = shape.low is not None and Bound(number) < shape.low
        is_high = shape.high is not None and Bound(-number) < shape.high
        return not (is_low or is_high or (shape.step and number % shape.step))
    if isinstance(shape, Strings):
        is_long_enough = shape.shortest <= len(value) <= shape.longest
        if not is_long_enough or not all(re.search(pattern, value) for pattern in shape.patterns):
            return False
        return None if shape.formats else True
    return None


def merge(one: Shape, other: Shape) -> Shape | None:
    """What fits both, which are of one type; None if nothing does."""
    common: dict[str, Any] = {"label": one.label or other.label, "opaque": {**one.opaque, **other.opaque}}
    if isinstance(other, Values):
        one, other = other, one
    if isinstance(one, Values):
        kept = tuple(value for value in one.values if accepts(other, value) is not False)
        return replace(one, values=kept, **common) if kept else None
    found: Shape | None = None
    if isinstance(one, Numbers) and isinstance(other, Numbers):
        found = _numbers(one, other)
    elif isinstance(one, Strings) and isinstance(other, Strings):
        found = replace(
            one,
            shortest=max(one.shortest, other.shortest),
            longest=min(one.longest, other.longest),
            patterns=one.patterns | other.patterns,
            formats=one.formats | other.formats,
        )
    elif isinstance(one, Arrays) and isinstance(other, Arrays):
        found = _arrays(one, other)
    elif isinstance(one, Objects) and isinstance(other, Objects):
        found = _objects(one, other)
    return None if found is None or is_empty(found) else replace(found, **common)


def is_empty(shape: Shape) -> bool:
    """Whether no value can fit; False where that is not obvious."""
    if isinstance(shape, Numbers):
        low, high = shape.low, shape.high
        if low is None or high is None:
            return False
        return low.value > -high.value or (low.value == -high.value and (low.is_exclusive or high.is_exclusive))
    if isinstance(shape, (Strings, Arrays)):
        return shape.shortest > shape.longest
    if isinstance(shape, Objects):
        is_crowded = max(shape.smallest, len(shape.required)) > shape.largest
        return is_crowded or any(shape.field(name) is False for name in shape.required)
    return isinstance(shape, Values) and not shape.values


def _numbers(one: Numbers, other: Numbers) -> Numbers:
    step = one.step or other.step
    if one.step and other.step:
        bottom = one.step.denominator * other.step.denominator
        step = Fraction(math.lcm(int(one.step * bottom), int(other.step * bottom)), bottom)
    low, high = _stronger(one.low, other.low), _stronger(one.high, other.high)
    return replace(one, low=_stepped(low, step), high=_stepped(high, step), step=step)


def _stronger(one: Bound | None, other: Bound | None) -> Bound | None:
    return max(one, other) if one and other else one or other


def _stepped(bound: Bound | None, step: Fraction | None) -> Bound | None:
    """The first number that is allowed: above 0, an integer is 1 at least."""
    if bound is None or step is None:
        return bound
    count = bound.value / step
    return Bound(step * (math.floor(count) + 1 if bound.is_exclusive else math.ceil(count)))


def _arrays(one: Arrays, other: Arrays) -> Arrays:
    count = max(len(one.prefix), len(other.prefix))
    return replace(
        one,
        prefix=tuple(all_of(one.item(index), other.item(index)) for index in range(count)),
        rest=all_of(one.rest, other.rest),
        shortest=max(one.shortest, other.shortest),
        longest=min(one.longest, other.longest),
        is_unique=one.is_unique or other.is_unique,
    )


def _objects(one: Objects, other: Objects) -> Objects:
    names = dict.fromkeys([*one.fields, *other.fields])
    known = {name: [each for each in (one.field(name), other.field(name)) if each is not None] for name in names}
    rests = [each for each in (one.rest, other.rest) if each is not None]
    patterns = {
        pattern: all_of(*(shape.patterns.get(pattern, _or_anything(shape.rest)) for shape in (one, other)))
        for pattern in {**one.patterns, **other.patterns}
    }
    return replace(
        one,
        fields={name: all_of(*schemas) for name, schemas in known.items()},
        required=one.required | other.required,
        patterns=patterns,
        rest=all_of(*rests) if rests else None,
        names=all_of(one.names, other.names),
        declares=one.declares or other.declares,
        smallest=max(one.smallest, other.smallest),
        largest=min(one.largest, other.largest),
    )


def _or_anything(schema: Schema | None) -> Schema:
    return ANYTHING if schema is None else schema
