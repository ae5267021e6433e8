"""Notation: schemas in the words of Python, for people: ``list[Order]``, ``int(minimum=1)``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from servicebus.contracts.description import Schema, ServiceContract

__all__ = ["Notation", "Parameter", "parameters_of", "signature_of", "structures_of"]

_SCALARS = {"integer": "int", "number": "float", "boolean": "bool", "null": "None", "string": "str"}
FORMATS = {
    "date-time": "datetime",
    "date": "date",
    "time": "time",
    "duration": "timedelta",
    "uuid": "UUID",
    "binary": "bytes",
    "decimal": "Decimal",
}
_BOUNDS = (
    *("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "pattern"),
    *("minItems", "maxItems", "minProperties", "maxProperties"),
)
MISSING: Any = object()
"""No default."""


class Notation:
    """Of the schemas in one document, whose ``$defs`` they refer to."""

    def __init__(self, document: Schema):
        self._definitions: Mapping[str, Schema] = document.get("$defs", {}) if isinstance(document, dict) else {}
        self._inside: set[str] = set()

    def resolved(self, schema: Schema) -> Schema:
        """What a reference leads to."""
        seen: set[str] = set()
        while isinstance(schema, dict) and "$ref" in schema and schema["$ref"] not in seen:
            seen.add(schema["$ref"])
            key = str(schema["$ref"]).rpartition("/")[2].replace("~1", "/").replace("~0", "~")
            schema = self._definitions.get(key, {})
        return schema

    def of(self, schema: Schema) -> str:
        """The type, as an annotation would say it, with what else it must be in brackets."""
        if not isinstance(schema, dict):
            return "Never" if schema is False else "Any"
        if "$ref" in schema:
            return self._name_of(schema) or self._behind(schema)
        if "const" in schema or "enum" in schema:
            return self.enumeration(schema)
        for key in ("anyOf", "oneOf"):
            if key in schema:
                return self.union(schema[key])
        if len(schema.get("allOf", ())) == 1:
            return self.of(schema["allOf"][0])
        kind = schema.get("type")
        if isinstance(kind, list):
            return self.union([{**schema, "type": each} for each in kind])
        if kind == "object" or "properties" in schema:
            return self.structure(schema)
        if kind == "array":
            return self._array(schema)
        if kind == "string" and "format" in schema:
            return self.formatted(schema)
        return self.bounded(_SCALARS.get(str(kind), "Any"), schema)

    def _name_of(self, reference: Mapping[str, Any]) -> str:
        found = self.resolved(reference)
        is_named = isinstance(found, dict) and ("properties" in found or "enum" in found)
        return str(found.get("title") or reference["$ref"].rpartition("/")[2]) if is_named else ""

    def _behind(self, reference: Mapping[str, Any]) -> str:
        """What it leads to; by its name, if it leads into itself and is no class, as the alias of a union may."""
        target = str(reference["$ref"])
        if target in self._inside:
            return target.rpartition("/")[2]
        self._inside.add(target)
        try:
            return self.of(self.resolved(reference))
        finally:
            self._inside.discard(target)

    # -- what a stub says in other words -------------------------------------------------------------------------------

    def enumeration(self, schema: Mapping[str, Any]) -> str:
        """Of an Enum, or a Literal."""
        if "title" in schema and "enum" in schema:
            return str(schema["title"])
        values = [schema["const"]] if "const" in schema else schema["enum"]
        return f"Literal[{', '.join(map(repr, values))}]"

    def union(self, schemas: list[Schema]) -> str:
        """Of alternatives."""
        if is_decimal(schemas):
            return self.bounded("Decimal", schemas[0])
        return " | ".join(dict.fromkeys(map(self.of, schemas)))

    def structure(self, schema: Mapping[str, Any]) -> str:
        """Of an object: a model, or a dict."""
        if "properties" in schema:
            return str(schema.get("title") or f"{{{', '.join(self.fields(schema))}}}")
        values = schema.get("additionalProperties", True)
        if values is True and schema.get("patternProperties"):
            values = next(iter(schema["patternProperties"].values()))
        return self.bounded(f"dict[str, {self.of(values)}]", schema)

    def formatted(self, schema: Mapping[str, Any]) -> str:
        """Of a text that stands for something else."""
        name = str(schema["format"])
        return self.bounded(FORMATS[name], schema) if name in FORMATS else f"str(format={name!r})"

    def bounded(self, name: str, schema: Schema) -> str:
        """*name*, with what else the value must be."""
        bounds = [f"{key}={schema[key]!r}" for key in _BOUNDS if key in schema]
        return f"{name}({', '.join(bounds)})" if bounds else name

    def _array(self, schema: Mapping[str, Any]) -> str:
        placed = schema.get("prefixItems")
        if placed is not None:
            items = [self.of(each) for each in placed]
            if schema.get("maxItems") != len(placed):
                items.append(f"*tuple[{self.of(schema.get('items', True))}, ...]")
            return f"tuple[{', '.join(items)}]"
        items_text = self.of(schema.get("items", True))
        return self.bounded(f"{'set' if schema.get('uniqueItems') else 'list'}[{items_text}]", schema)

    def fields(self, schema: Mapping[str, Any]) -> Iterator[str]:
        """``name: type``, or ``name: type = default``, of each field of an object."""
        for each in fields_of(schema):
            yield f"{each.name}: {self.of(each.schema)}{each.shown_default}"


@dataclass(frozen=True)
class Parameter:
    """One parameter of a service, or one field of an object."""

    name: str
    schema: Schema
    is_required: bool = True
    default: Any = MISSING
    """The value, as JSON has it; MISSING if there is none, or none that JSON has a word for."""
    stars: str = ""
    """``*`` or ``**`` of a parameter that takes all others."""

    @property
    def shown_default(self) -> str:
        """``" = 1"``, or "" if it is required."""
        if self.is_required or self.stars:
            return ""
        return " = ..." if self.default is MISSING else f" = {self.default!r}"


def fields_of(schema: Mapping[str, Any]) -> list[Parameter]:
    """The fields of an object, in order."""
    required = schema.get("required", [])
    found = []
    for name, each in schema.get("properties", {}).items():
        default = each.get("default", MISSING) if isinstance(each, dict) else MISSING
        found.append(Parameter(name, each, name in required, default))
    return found


def parameters_of(service: ServiceContract) -> tuple[list[Parameter], bool]:
    """What a service takes, and whether by name; else by position. Nothing if no schema is known."""
    schema = service.params
    if schema is None:
        return [], True
    if service.whole:
        inner = Notation(schema).resolved(schema)
        is_required = not (isinstance(inner, dict) and {"type": "null"} in inner.get("anyOf", ()))
        return [Parameter(service.whole, schema, is_required)], True
    if not isinstance(schema, dict):
        return [], True
    forms = schema.get("anyOf", [schema])
    named = next((each for each in forms if each.get("type") == "object"), None)
    if named is not None:
        more = named.get("additionalProperties", True)
        return fields_of(named) + ([] if more is False else [Parameter("more", more, False, stars="**")]), True
    placed: Mapping[str, Any] = next((each for each in forms if each.get("type") == "array"), {})
    items, least = placed.get("prefixItems", []), placed.get("minItems", 0)
    found = [
        Parameter(each.get("title", f"_{place}"), each, place < least, each.get("default", MISSING))
        for place, each in enumerate(items)
    ]
    if placed.get("maxItems") != len(items):
        found.append(Parameter("more", placed.get("items", True), False, stars="*"))
    return found, False


def signature_of(service: ServiceContract) -> str:
    """``shop.price(sku: str, count: int = 1) -> Decimal``."""
    if service.params is None:
        inside = "..."
    else:
        notation = Notation(service.params)
        parameters, is_named = parameters_of(service)
        parts = [f"{each.stars}{each.name}: {notation.of(each.schema)}{each.shown_default}" for each in parameters]
        inside = ", ".join(parts if is_named or not parts or parameters[-1].stars else [*parts, "/"])
    if service.kind not in ("call", "stream"):
        return f"{service.key}({inside})"
    result = "..." if service.result is None else Notation(service.result).of(service.result)
    return f"{service.key}({inside}) -> {result if service.kind == 'call' else f'Iterator[{result}]'}"


def structures_of(service: ServiceContract) -> Iterator[tuple[str, list[str]]]:
    """The models and enumerations that a service mentions, by name, with their fields or values."""
    seen: set[str] = set()
    for document in (service.params, service.result, *(each.fields for each in service.errors)):
        if not isinstance(document, dict):
            continue
        notation = Notation(document)
        for schema in (document, *document.get("$defs", {}).values()):
            title = schema.get("title", "")
            if not title or title in seen:
                continue
            if "properties" in schema:
                seen.add(title)
                yield title, list(notation.fields(schema))
            elif "enum" in schema:
                seen.add(title)
                yield title, [repr(each) for each in schema["enum"]]


def is_decimal(schemas: list[Schema]) -> bool:
    """Whether these alternatives are what a Decimal is read from: a number, or its text."""
    return len(schemas) == 2 and any(isinstance(each, dict) and each.get("format") == "decimal" for each in schemas)
