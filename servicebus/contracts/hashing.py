"""The contract hash: one short text for all that a caller of a service depends on.

Two schemas have one hash if they accept the same by the same rules: what only people read (titles, descriptions,
examples, defaults), the names of definitions and the order of alternatives do not count, nor whether a definition
stands in its place or is referred to. So another version of pydantic, or another name for a model, changes nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

__all__ = ["HASH_CHARS", "contract_hash"]

HASH_CHARS = 24
"""12 bytes in hex."""

_SCHEMAS = frozenset(
    {"items", "contains", "additionalProperties", "propertyNames", "not", "if", "then", "else"}
    | {"unevaluatedItems", "unevaluatedProperties", "contentSchema"}
)
_LISTS = frozenset({"prefixItems", "allOf", "anyOf", "oneOf"})
_MAPS = frozenset({"properties", "patternProperties", "dependentSchemas"})
_UNORDERED = frozenset({"allOf", "anyOf", "oneOf", "enum", "required", "type"})
_VALUES = frozenset(
    {"type", "const", "enum", "multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum", "maxLength"}
    | {"minLength", "pattern", "maxItems", "minItems", "uniqueItems", "maxContains", "minContains", "maxProperties"}
    | {"minProperties", "required", "dependentRequired", "format", "contentEncoding", "contentMediaType"}
)
"""Keywords that validators act on. All others are for people."""
_ABSENT: Mapping[str, Any] = {"additionalProperties": True, "items": True, "required": [], "uniqueItems": False}
"""What means the same as no keyword at all."""


def contract_hash(params: Any, result: Any, errors: Mapping[str, Any], *, is_stream: bool = False) -> str:
    """24 hex digits; *errors* are the schemas of their fields, by name. A schema that is not known is None."""
    parts: dict[str, Any] = {
        "params": _root(params),
        "result": _root(result),
        "errors": {name: _root(errors[name]) for name in errors},
    }
    if is_stream:
        parts["stream"] = True
    return _digest(parts)[:HASH_CHARS]


def _root(schema: Any) -> str | None:
    return None if schema is None else _Folder(schema).fold(schema, ())


class _Folder:
    """Digests of the subschemas of one document, from the innermost outwards."""

    def __init__(self, document: Any):
        self._definitions: Mapping[str, Any] = document.get("$defs", {}) if isinstance(document, dict) else {}
        self._known: dict[str, str] = {}
        self._outermost = 0
        """How far out the references of what was folded last lead: below its own place, it depends on where it is."""

    def fold(self, schema: Any, inside: tuple[str, ...]) -> str:
        """*inside* are the definitions that the schema stands in, the innermost last."""
        if schema is True or schema == {}:
            return "any"
        if not isinstance(schema, dict):
            return "none"
        found = {key: self._value(key, schema[key], inside) for key in schema if _counts(key, schema)}
        if "any" in found.get("anyOf", ()):
            del found["anyOf"]  # Python 3.10 makes Optional[Any] of Any where the default is None
        reference = self._reference(schema.get("$ref"), inside)
        if reference is not None:
            if not found:
                return reference
            found["$ref"] = reference
        if "const" in found:
            found["enum"] = [found.pop("const")]
        if "enum" in found:
            found.pop("type", None)
        return _digest(found) if found else "any"

    def _value(self, key: str, value: Any, inside: tuple[str, ...]) -> Any:
        if key in _SCHEMAS:
            return self.fold(value, inside)
        if key in _MAPS:
            return {name: self.fold(each, inside) for name, each in value.items()}
        if key in _LISTS:
            value = [self.fold(each, inside) for each in value]
        if key in _UNORDERED and isinstance(value, list):
            return sorted(value, key=_text)
        return value

    def _reference(self, target: Any, inside: tuple[str, ...]) -> str | None:
        if target is None:
            return None
        name = str(target).rpartition("/")[2].replace("~1", "/").replace("~0", "~")
        if name in inside:
            place = inside.index(name)
            self._outermost = min(self._outermost, place)
            return f"up {len(inside) - place}"
        if name not in self._known:
            before, self._outermost = self._outermost, len(inside)
            found = self.fold(self._definitions.get(name, {}), (*inside, name))
            is_whole, self._outermost = self._outermost >= len(inside), min(before, self._outermost)
            if not is_whole:
                return found
            self._known[name] = found
        return self._known[name]


def _counts(key: str, schema: Mapping[str, Any]) -> bool:
    if key in _ABSENT and schema[key] in (_ABSENT[key], {}):
        return False
    return key in _VALUES or key in _SCHEMAS or key in _LISTS or key in _MAPS


def _digest(value: Any) -> str:
    return hashlib.sha256(_text(value).encode()).hexdigest()


def _text(value: Any) -> str:
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"))


def _plain(value: Any) -> Any:
    """1.0 is the same number as 1."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return value
