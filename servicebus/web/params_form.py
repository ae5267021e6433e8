"""A form for the params of a service, made from their JSON schema, and the params from what came back. Pure.

A field for each property of an object; what has no simple field is written as JSON. Where the schema is no object with
properties, or none is known, one field takes all of the params as JSON. The node alone judges what it gets.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from servicebus.contracts import ServiceContract
from servicebus.contracts.examples import examples_of
from servicebus.errors import EnvelopeError
from servicebus.wire.jsontext import decode_json

__all__ = ["FieldProblem", "FormField", "fields_of", "params_of"]

RAW = "raw"
"""The field that takes all of the params."""
PREFIX = "p."
_SIMPLE = {"string": "text", "integer": "integer", "number": "number", "boolean": "choice"}
_MOST_FIELDS = 100


class FieldProblem(Exception):
    """Raised when a field holds what its schema cannot mean; the text names the field."""


@dataclass(frozen=True, slots=True)
class FormField:
    """One field."""

    name: str
    """Of the form; ``p.`` and the property, or ``raw``."""
    label: str
    input: str
    """``text``, ``integer``, ``number``, ``choice`` or ``json``."""
    is_required: bool
    docs: str = ""
    choices: tuple[str, ...] = ()
    """As JSON."""
    value: str = ""
    """What stands in it at first."""


def fields_of(service: ServiceContract) -> list[FormField]:
    """The fields of the form for *service*."""
    schema = service.params
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict) or not 0 < len(properties) <= _MOST_FIELDS:
        examples = examples_of(schema)
        is_void = isinstance(schema, dict) and schema.get("type") == "object" and not properties
        text = "" if is_void else json.dumps(examples[0], indent=2, ensure_ascii=False) if examples else "null"
        return [FormField(RAW, "Params as JSON", "json", is_required=False, value=text)]
    required = schema.get("required", [])
    return [_field(name, each, schema, name in required) for name, each in properties.items()]


def _field(name: str, schema: Any, document: Any, is_required: bool) -> FormField:
    found = _resolved(schema, document)
    docs = found.get("description", "") if isinstance(found.get("description", ""), str) else ""
    kind, values = found.get("type"), found.get("enum")
    if isinstance(values, list):
        choices = tuple(json.dumps(each, ensure_ascii=False) for each in values)
    else:
        choices = ("true", "false") if kind == "boolean" else ()
    input = "choice" if choices else _SIMPLE.get(kind, "json") if isinstance(kind, str) else "json"
    default = found.get("default")
    value = "" if default is None else default if input == "text" and isinstance(default, str) else json.dumps(default)
    return FormField(PREFIX + name, name, input, is_required, docs, choices, value)


def _resolved(schema: Any, document: Any) -> dict[str, Any]:
    """The schema itself, where it is one of the document's definitions, or one that may be null, too."""
    found = schema if isinstance(schema, dict) else {}
    for _ in range(8):
        reference, others = found.get("$ref"), found.get("anyOf")
        if isinstance(reference, str) and reference.startswith("#/$defs/"):
            target = document.get("$defs", {}).get(reference.removeprefix("#/$defs/"), {})
        elif isinstance(others, list):
            alone = [each for each in others if isinstance(each, dict) and each.get("type") != "null"]
            if len(alone) != 1:
                break
            target = alone[0]
        else:
            break
        found = {**(target if isinstance(target, dict) else {}), **{k: v for k, v in found.items() if k[0] not in "$a"}}
    return found


def params_of(service: ServiceContract, form: Mapping[str, str]) -> Any:
    """The params that *form* means. Raises FieldProblem."""
    if (raw := form.get(RAW, "").strip()) or RAW in form:
        return _json(raw, "the params") if raw else None
    params: dict[str, Any] = {}
    for field in fields_of(service):
        text = form.get(field.name, "")
        if field.input != "text":
            text = text.strip()
        if text or (field.is_required and field.input == "text"):
            params[field.label] = _value(field, text)
        elif field.is_required:
            raise FieldProblem(f"{field.label} is required")
    return params


def _value(field: FormField, text: str) -> Any:
    if field.input == "text":
        return text
    value = _json(text, field.label)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if field.input in ("integer", "number") and not is_number:
        raise FieldProblem(f"{field.label} must be a number")
    return value


def _json(text: str, what: str) -> Any:
    try:
        return decode_json(text.encode())
    except EnvelopeError as error:
        raise FieldProblem(f"{what}: {error.detail}") from error
