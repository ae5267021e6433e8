"""JSON Schemas 2020-12 of signatures, types and declared errors, as pydantic writes them.

With two exceptions. A decimal number has the format ``decimal``, which no standard has: else it could not be told from
a text. And a title is the name of a class, or of a parameter in an array; that of a field is its key already.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from servicebus.contracts import ErrorContract, Schema
from servicebus.typed.binding import binding_function
from servicebus.typed.declared import DeclaredError
from servicebus.typed.signature import Signature

__all__ = ["docs_of", "errors_of", "params_schema", "result_schema", "schema_of"]

Mode = Literal["validation", "serialization"]


def params_schema(signature: Signature) -> Schema:
    """Of the params as they travel."""
    whole = signature.whole
    if whole is None:
        return schema_of(binding_function(signature.bound))
    schema = schema_of(whole.annotation)
    if whole.default is whole.empty:
        return schema
    definitions = schema.pop("$defs", None)
    found = {"anyOf": [schema, {"type": "null"}]}
    return found if definitions is None else {**found, "$defs": definitions}


def result_schema(signature: Signature, is_stream: bool = False) -> Schema:
    """Of what it returns, or of each item that it yields; anything, if it does not say."""
    result = signature.item if is_stream else signature.returns
    return {} if result is inspect.Signature.empty else schema_of(result, "serialization")


def errors_of(declared: Iterable[DeclaredError]) -> tuple[ErrorContract, ...]:
    return tuple(
        ErrorContract(each.name, schema_of(binding_function(each.signature), "serialization"), docs_of(each.kind))
        for each in declared
    )


def schema_of(annotation: Any, mode: Mode = "validation") -> Schema:
    """What pydantic has no schema for may be anything. Raises what pydantic raises for what it does not know."""
    found = TypeAdapter(annotation).json_schema(mode=mode, schema_generator=_Generator)
    return found if _is_plain(found) else _without_odd_values(found)


def docs_of(subject: Any) -> str:
    """The docstring, without what dataclasses write in place of one."""
    docs = subject.__doc__ or ""
    return "" if docs.startswith(f"{getattr(subject, '__name__', '')}(") else inspect.cleandoc(docs)


class _Generator(GenerateJsonSchema):
    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def decimal_schema(self, schema: core_schema.DecimalSchema) -> JsonSchemaValue:
        found = super().decimal_schema(schema)
        for each in found.get("anyOf", [found]):
            if each.get("type") == "string":
                each.pop("pattern", None)  # another one with each minor version of pydantic
                each["format"] = "decimal"
        return found

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> JsonSchemaValue:
        return {}

    def p_arguments_schema(
        self, arguments: list[core_schema.ArgumentsParameter], var_args_schema: CoreSchema | None
    ) -> JsonSchemaValue:
        found = super().p_arguments_schema(arguments, var_args_schema)
        for each, argument in zip(found.get("prefixItems", []), arguments, strict=False):
            each.setdefault("title", self.get_argument_name(argument))
        return found

    def arguments_schema(self, schema: core_schema.ArgumentsSchema) -> JsonSchemaValue:
        """Also of a function that takes some parameters by position alone and some by name alone."""
        try:
            return super().arguments_schema(schema)
        except PydanticInvalidForJsonSchema:
            return self._either(schema)

    def _either(self, schema: core_schema.ArgumentsSchema) -> JsonSchemaValue:
        named = [each for each in schema["arguments_schema"] if each.get("mode") == "keyword_only"]
        placed = [each for each in schema["arguments_schema"] if each.get("mode") == "positional_only"]
        both = [each for each in schema["arguments_schema"] if each not in named and each not in placed]
        forms: list[JsonSchemaValue] = []
        if not any(map(_is_required, named)):
            forms.append(self.p_arguments_schema(placed + both, schema.get("var_args_schema")))
        if not any(map(_is_required, placed)):
            forms.append(self.kw_arguments_schema(both + named, schema.get("var_kwargs_schema")))
        return {"anyOf": forms} if len(forms) > 1 else forms[0] if forms else {"not": {}}


def _is_required(argument: core_schema.ArgumentsParameter) -> bool:
    return bool(argument["schema"]["type"] != "default")


def _is_plain(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (ValueError, TypeError):
        return False
    return True


def _without_odd_values(value: Any) -> Any:
    """Without defaults, examples and the like that JSON has no word for: an infinity, an object of the program."""
    if isinstance(value, dict):
        kept = {key: _without_odd_values(each) for key, each in value.items() if not _is_odd(each)}
        return {key: each for key, each in kept.items() if isinstance(key, str)}
    if isinstance(value, list):
        return [_without_odd_values(each) for each in value]
    return value


def _is_odd(value: Any) -> bool:
    return not isinstance(value, (dict, list)) and not _is_plain(value)
