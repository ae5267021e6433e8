"""Alternatives of a schema: the shapes of which a value must fit one, whatever mixture of keywords says so.

Lists of types, ``anyOf``, ``oneOf``, ``allOf``, ``$ref`` and what stands beside them, ``enum`` and ``const`` are worked
out. Those of fields and items are left until they are looked at, so schemas that refer to themselves end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from fractions import Fraction
from itertools import combinations, product
from typing import Any
from urllib.parse import unquote

from servicebus.contracts.shapes import (
    NOTHING,
    Arrays,
    Bound,
    Numbers,
    Objects,
    Schema,
    Shape,
    Strings,
    Values,
    is_empty,
    merge,
    text_of,
    type_of,
)

__all__ = ["Document", "Incomparable", "are_disjoint"]

_TYPES = ("null", "boolean", "number", "string", "array", "object")
_OPAQUE: Mapping[str, str | None] = {
    "not": None,
    "if": None,
    "then": None,
    "else": None,
    "$dynamicRef": None,
    "contentEncoding": "string",
    "contentMediaType": "string",
    "contentSchema": "string",
    "contains": "array",
    "minContains": "array",
    "maxContains": "array",
    "unevaluatedItems": "array",
    "dependentRequired": "object",
    "dependentSchemas": "object",
}
"""Keywords that are compared as texts, and the type that they apply to; None for every type."""
_MOST_ALTERNATIVES = 400


class Incomparable(Exception):
    """Raised when a schema cannot be worked out: a reference leads nowhere, it is malformed, or too large."""


class Document:
    """A schema with its definitions, which ``$ref`` leads to."""

    def __init__(self, root: Schema):
        self.root = root
        self._known: dict[str, list[Shape]] = {}
        self._under_way: set[str] = set()

    def resolve(self, reference: Any) -> Schema:
        """What ``#/$defs/Name`` means. Raises Incomparable: it leads nowhere, or out of the document."""
        path, found = str(reference), self.root
        if path != "#" and not path.startswith("#/"):
            raise Incomparable(f"$ref {path} leads out of the description")
        for part in path[2:].split("/") if path != "#" else ():
            key = unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(found, dict) and key in found:
                found = found[key]
            elif isinstance(found, list) and key.isdigit() and int(key) < len(found):
                found = found[int(key)]
            else:
                raise Incomparable(f"$ref {path} leads nowhere")
        return found

    def alternatives(self, schema: Schema) -> list[Shape]:
        """The shapes that *schema* allows; empty if no value can fit. Raises Incomparable."""
        text = text_of(schema)
        if text in self._under_way:
            raise Incomparable("it refers to itself, and to nothing else")
        if text not in self._known:
            self._under_way.add(text)
            try:
                self._known[text] = self._worked_out(schema)
            except (TypeError, ValueError, AttributeError) as error:
                raise Incomparable(f"the schema is malformed: {error}") from error
            finally:
                self._under_way.discard(text)
        return self._known[text]

    def _worked_out(self, schema: Schema) -> list[Shape]:
        if isinstance(schema, bool):
            schema = {} if schema else {"type": []}
        found = [each for each in self._plain(schema) if not is_empty(each)]
        for others in self._conjuncts(schema):
            found = _both(found, others)
        rest = schema.get("unevaluatedProperties")
        title = schema.get("title") or str(schema.get("$ref", "")).rpartition("/")[2]
        for index, each in enumerate(found):
            if isinstance(each, Objects):
                is_silent = each.rest is None and rest is not None
                found[index] = replace(each, label=each.label or title, rest=rest if is_silent else each.rest)
        return found

    def _plain(self, schema: Mapping[str, Any]) -> Iterable[Shape]:
        """What the keywords say that apply to one type."""
        for kind in dict.fromkeys("number" if each == "integer" else each for each in _types(schema)):
            opaque = {self._text(key, schema[key]): key for key in schema if _OPAQUE.get(key, "") in (kind, None)}
            if opaque.pop("not {}", None) or opaque.pop("not true", None):
                continue
            yield replace(_MAKERS[kind](schema), opaque=opaque)

    def _conjuncts(self, schema: Mapping[str, Any]) -> Iterable[list[Shape]]:
        if "enum" in schema:
            yield [shape for value in schema["enum"] for shape in self._exact(value)]
        if "const" in schema:
            yield self._exact(schema["const"])
        if "$ref" in schema:
            yield self.alternatives(self.resolve(schema["$ref"]))
        for each in schema.get("allOf", ()):
            yield self.alternatives(each)
        if "anyOf" in schema:
            yield [shape for each in schema["anyOf"] for shape in self.alternatives(each)]
        if "oneOf" in schema:
            yield self._one_of(schema["oneOf"])

    def _one_of(self, schemas: Iterable[Schema]) -> list[Shape]:
        found = [self.alternatives(each) for each in schemas]
        if all(are_disjoint(*pair) for one, other in combinations(found, 2) for pair in product(one, other)):
            return [shape for shapes in found for shape in shapes]
        opaque = {self._text("oneOf", list(schemas)): "oneOf"}
        return [replace(shape, opaque={**shape.opaque, **opaque}) for shapes in found for shape in shapes]

    def _exact(self, value: Any) -> list[Shape]:
        kind = type_of(value)
        if kind == "object":
            fields = {name: {"const": each} for name, each in value.items()}
            return [Objects(type=kind, fields=fields, required=frozenset(value), rest=NOTHING, declares=True)]
        if kind == "array":
            items = tuple({"const": each} for each in value)
            return [Arrays(type=kind, prefix=items, rest=NOTHING, shortest=len(value), longest=len(value))]
        return [Values(type=kind, values=(value,))]

    def _text(self, keyword: str, value: Any) -> str:
        """*value* and all definitions that it leads to: equal only if these are, too."""
        text, names = f"{keyword} {text_of(value)}", set[str]()
        waiting = [value]
        while waiting:
            for name in _references(waiting.pop()) - names:
                names.add(name)
                waiting.append(self.resolve(name))
        return " ".join([text, *(f"{name} {text_of(self.resolve(name))}" for name in sorted(names))])


def _references(value: Any) -> set[str]:
    if isinstance(value, dict):
        found = {str(value["$ref"])} if "$ref" in value else set()
        return found.union(*(_references(each) for each in value.values()))
    return set().union(*(_references(each) for each in value)) if isinstance(value, list) else set()


def _both(one: list[Shape], other: list[Shape]) -> list[Shape]:
    if len(one) * len(other) > _MOST_ALTERNATIVES**2:
        raise Incomparable("it has too many alternatives")
    found = [merge(*pair) for pair in product(one, other) if pair[0].type == pair[1].type]
    kept = _together([each for each in found if each is not None])
    if len(kept) > _MOST_ALTERNATIVES:
        raise Incomparable("it has too many alternatives")
    return kept


def _together(shapes: list[Shape]) -> list[Shape]:
    """The single values of an enumeration as one shape for each type."""
    found: list[Shape] = [each for each in shapes if not isinstance(each, Values)]
    groups: dict[tuple[str, ...], list[Values]] = {}
    for each in shapes:
        if isinstance(each, Values):
            groups.setdefault((each.type, *sorted(each.opaque)), []).append(each)
    for group in groups.values():
        values = {text_of(value): value for each in group for value in each.values}
        found.append(replace(group[0], values=tuple(values.values())))
    return found


def are_disjoint(one: Shape, other: Shape) -> bool:
    """Whether no value fits both, as far as that is obvious."""
    if one.type != other.type:
        return True
    if isinstance(one, Objects) and isinstance(other, Objects):
        return any(_differ(one.fields[name], other.fields[name]) for name in _tags(one) & _tags(other))
    if isinstance(one, Values) and isinstance(other, Values):
        return not one.texts & other.texts
    return merge(one, other) is None


def _tags(shape: Objects) -> set[str]:
    """The fields that tell what an object is: always there, with values that are listed."""
    return {name for name in shape.required & set(shape.fields) if _listed(shape.fields[name]) is not None}


def _differ(one: Schema, other: Schema) -> bool:
    return not set(_listed(one) or ()) & set(_listed(other) or ())


def _listed(schema: Schema) -> list[str] | None:
    if not isinstance(schema, dict):
        return None
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    return None if values is None else [text_of(value) for value in values]


def _numbers(schema: Mapping[str, Any]) -> Shape:
    types = _types(schema)
    whole = Numbers(type="number", step=Fraction(1) if "integer" in types and "number" not in types else None)
    found = Numbers(
        type="number",
        low=_bound(schema, "minimum", "exclusiveMinimum", 1),
        high=_bound(schema, "maximum", "exclusiveMaximum", -1),
        step=Fraction(str(schema["multipleOf"])) if "multipleOf" in schema else None,
    )
    return merge(whole, found) or Values(type="number", values=())


def _types(schema: Mapping[str, Any]) -> list[str]:
    types = schema.get("type", _TYPES)
    return [types] if isinstance(types, str) else list(types)


def _bound(schema: Mapping[str, Any], plain: str, exclusive: str, sign: int) -> Bound | None:
    bounds = [Bound(sign * Fraction(str(schema[key])), key == exclusive) for key in (plain, exclusive) if key in schema]
    return max(bounds, default=None)


def _strings(schema: Mapping[str, Any]) -> Shape:
    return Strings(
        type="string",
        shortest=schema.get("minLength", 0),
        longest=schema.get("maxLength", math.inf),
        patterns=frozenset([schema["pattern"]] if "pattern" in schema else []),
        formats=frozenset([schema["format"]] if "format" in schema else []),
    )


def _arrays(schema: Mapping[str, Any]) -> Shape:
    prefix, rest = tuple(schema.get("prefixItems", ())), schema.get("items", True)
    longest = schema.get("maxItems", math.inf)
    return Arrays(
        type="array",
        prefix=prefix,
        rest=rest,
        shortest=schema.get("minItems", 0),
        longest=min(longest, len(prefix)) if rest is False else longest,
        is_unique=schema.get("uniqueItems", False),
    )


def _objects(schema: Mapping[str, Any]) -> Shape:
    return Objects(
        type="object",
        fields=dict(schema.get("properties", {})),
        required=frozenset(schema.get("required", ())),
        patterns=dict(schema.get("patternProperties", {})),
        rest=schema.get("additionalProperties"),
        names=schema.get("propertyNames", True),
        declares="properties" in schema,
        smallest=schema.get("minProperties", 0),
        largest=schema.get("maxProperties", math.inf),
    )


_MAKERS: Mapping[str, Callable[[Mapping[str, Any]], Shape]] = {
    "null": lambda schema: Values(type="null", values=(None,)),
    "boolean": lambda schema: Values(type="boolean", values=(False, True)),
    "number": _numbers,
    "string": _strings,
    "array": _arrays,
    "object": _objects,
}
