"""JSON Schema 2020-12 -> draft 7, which is what AsyncAPI builds on, in components that several documents share.

What draft 7 has other words for is said in them; what it cannot say (``unevaluatedProperties``, ``maxContains``) is
left out, so that a schema takes more than it did, and less only inside ``not``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from servicebus.contracts.description import Schema

__all__ = ["SharedSchemas", "UniqueNames"]

_SCHEMAS = ("propertyNames", "not", "if", "then", "else")
_LISTS = ("allOf", "anyOf", "oneOf")
_MAPS = ("properties", "patternProperties")
_VALUES = (
    *("title", "description", "$comment", "default", "examples", "readOnly", "writeOnly"),
    *("type", "const", "enum", "format", "contentEncoding", "contentMediaType"),
    *("multipleOf", "minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "minLength", "maxLength", "pattern"),
    *("minItems", "maxItems", "uniqueItems", "minProperties", "maxProperties", "required"),
)
_NO_NAME = re.compile(r"[^A-Za-z0-9._-]")


class UniqueNames:
    """Names of the characters that AsyncAPI allows in keys, none of them twice."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, wanted: str) -> str:
        """*wanted*, or what resembles it."""
        base = name = _NO_NAME.sub("-", wanted) or "unnamed"
        count = 1
        while name in self._taken:
            count += 1
            name = f"{base}-{count}"
        self._taken.add(name)
        return name


class SharedSchemas:
    """Draft 7 schemas by name. What two documents define alike is there once.

    Args:
        place: where they will stand: ``#/components/schemas``.
    """

    def __init__(self, place: str):
        self.components: dict[str, Any] = {}
        self._place = place
        self._names = UniqueNames()
        self._known: dict[str, str] = {}

    def add(self, name: str, document: Schema) -> dict[str, Any]:
        """A reference to the schema *document*, which becomes a component that is called *name* if that is free."""
        key = self._names.take(name)
        self.components[key] = {}
        self.components[key] = _Converter(self, document, key).converted(document)
        return self.reference(key)

    def reference(self, name: str) -> dict[str, Any]:
        """To a component."""
        return {"$ref": f"{self._place}/{name}"}

    def component_of(self, converter: _Converter, pointer: str) -> str:
        """The name of the component that *pointer* leads to in the document of *converter*."""
        text = converter.closure(pointer)
        if text not in self._known:
            name = self._known[text] = self._names.take(_last_part(pointer))
            self.components[name] = {}  # keeps its place, in front of what it refers to
            self.components[name] = converter.converted(converter.target(pointer))
        return self._known[text]


class _Converter:
    """Of the schemas in one document."""

    def __init__(self, shared: SharedSchemas, document: Schema, root: str):
        self._shared = shared
        self._document = document
        self._root = root

    def converted(self, schema: Schema) -> dict[str, Any]:
        """An object, since AsyncAPI takes True and False in few places."""
        if not isinstance(schema, dict):
            return {"not": {}} if schema is False else {}
        found = {key: schema[key] for key in _VALUES if key in schema}
        found |= {key: schema[key] for key in schema if key.startswith("x-")}
        if isinstance(schema.get("deprecated"), bool):
            found["deprecated"] = schema["deprecated"]
        found |= {key: self.converted(schema[key]) for key in _SCHEMAS if key in schema}
        if "additionalProperties" in schema:
            found["additionalProperties"] = self._rest(schema["additionalProperties"])
        found |= {key: list(map(self.converted, schema[key])) for key in _LISTS if schema.get(key)}
        found |= {key: self._by_name(schema[key]) for key in _MAPS if key in schema}
        found |= self._items(schema)
        if dependencies := self._dependencies(schema):
            found["dependencies"] = dependencies
        reference = self._reference(schema.get("$ref"))
        if reference is None:
            return found
        # Draft 7 reads nothing that stands beside a reference.
        return {**found, "allOf": [*found.get("allOf", []), reference]} if found else reference

    def _rest(self, schema: Schema) -> Any:
        """What is not listed must be."""
        return schema if isinstance(schema, bool) else self.converted(schema)

    def _by_name(self, schemas: Mapping[str, Schema]) -> dict[str, Any]:
        return {name: self.converted(each) for name, each in schemas.items()}

    def _items(self, schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        placed = schema.get("prefixItems")
        if placed:
            yield "items", list(map(self.converted, placed))
        if "items" in schema:
            yield (
                ("additionalItems", self._rest(schema["items"]))
                if placed
                else ("items", self.converted(schema["items"]))
            )
        if "contains" in schema and schema.get("minContains") != 0:
            yield "contains", self.converted(schema["contains"])

    def _dependencies(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {name: list(each) for name, each in schema.get("dependentRequired", {}).items()}
        for name, each in self._by_name(schema.get("dependentSchemas", {})).items():
            found[name] = {"allOf": [{"required": found[name]}, each]} if name in found else each
        return found

    def _reference(self, pointer: Any) -> dict[str, Any] | None:
        """None for one that leads out of the document, or to nothing: it may be anything."""
        if pointer == "#":
            return self._shared.reference(self._root)
        if pointer is None or self.target(pointer) is None:
            return None
        return self._shared.reference(self._shared.component_of(self, pointer))

    # -- where references lead -----------------------------------------------------------------------------------------

    def target(self, pointer: str) -> Schema:
        """What stands at *pointer* (``#/$defs/Order``); None if nothing does."""
        if not isinstance(pointer, str) or not pointer.startswith("#/"):
            return None
        found = self._document
        for part in pointer[2:].split("/"):
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and key.isdigit() and int(key) < len(found):
                found = found[int(key)]
            else:
                found = found.get(key) if isinstance(found, dict) else None
        return found if isinstance(found, (dict, bool)) else None

    def closure(self, pointer: str) -> str:
        """What stands there and all that it refers to, as one text: documents that share it define it alike."""
        found: dict[str, Any] = {}
        waiting = [pointer]
        while waiting:
            each = waiting.pop()
            if each not in found:
                found[each] = self._document if each == "#" else self.target(each)
                waiting += _references(found[each])
        return json.dumps([pointer, found], sort_keys=True)


def _references(value: Any) -> Iterator[str]:
    """All texts under ``$ref``, also where they are no references: that only keeps apart what could be shared."""
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for each in value.values():
            yield from _references(each)
    elif isinstance(value, list):
        for each in value:
            yield from _references(each)


def _last_part(pointer: str) -> str:
    return pointer.rpartition("/")[2].replace("~1", "/").replace("~0", "~")
