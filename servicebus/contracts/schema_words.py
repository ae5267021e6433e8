"""Schemas and places in words: what an operator reads in place of JSON Schema."""

from __future__ import annotations

import json
import re
from typing import Any

__all__ = ["described", "field_place", "values_text"]

_MOST_VALUES = 6
_DEPTH = 4
_PLAIN_NAME = re.compile(r"[\w-]+")


def field_place(name: str) -> str:
    """``.name``, or ``["odd name"]``."""
    return f".{name}" if _PLAIN_NAME.fullmatch(name) else f"[{json.dumps(name, ensure_ascii=False)}]"


def values_text(values: list[Any]) -> str:
    """``"a", "b" or "c"``."""
    shown = [json.dumps(value, ensure_ascii=False) for value in values[:_MOST_VALUES]]
    if len(values) > _MOST_VALUES:
        return f"{', '.join(shown)} and {len(values) - _MOST_VALUES} more"
    return " or ".join(filter(None, [", ".join(shown[:-1]), *shown[-1:]]))


def described(schema: Any, root: Any = None, depth: int = _DEPTH) -> str:
    """A few words: ``integer``, ``string (date) or null``, ``array of Order``."""
    if not isinstance(schema, dict):
        return "nothing" if schema is False else "anything"
    if "$ref" in schema:
        return _definition(str(schema["$ref"]), root, depth)
    if "const" in schema or "enum" in schema:
        return values_text([schema["const"]] if "const" in schema else list(schema["enum"]))
    for keyword, word in (("anyOf", " or "), ("oneOf", " or "), ("allOf", " and ")):
        if isinstance(schema.get(keyword), list) and depth:
            return word.join(dict.fromkeys(described(each, root, depth - 1) for each in schema[keyword])) or "anything"
    kind = schema.get("type")
    if isinstance(kind, list):
        return " or ".join(map(str, kind)) or "nothing"
    return _typed(str(kind), schema, root, depth) if kind else str(schema.get("title") or "anything")


def _definition(reference: str, root: Any, depth: int) -> str:
    name = reference.rpartition("/")[2]
    found = root.get("$defs", {}).get(name) if isinstance(root, dict) else None
    if isinstance(found, dict) and found.get("type") == "object":
        return str(found.get("title", name))
    return described(found, root, depth - 1) if found is not None and depth else name


def _typed(kind: str, schema: dict[str, Any], root: Any, depth: int) -> str:
    if kind == "array" and depth:
        if "prefixItems" in schema:
            return f"array ({', '.join(described(each, root, depth - 1) for each in schema['prefixItems'])})"
        items = schema.get("items", True)
        return "array" if items is True or items == {} else f"array of {described(items, root, depth - 1)}"
    if kind == "object":
        rest = schema.get("additionalProperties", True)
        if isinstance(rest, dict) and rest and "properties" not in schema and depth:
            return f"object of {described(rest, root, depth - 1)}"
        return str(schema.get("title") or kind)
    return f"{kind} ({schema['format']})" if "format" in schema else kind
