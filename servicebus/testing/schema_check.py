"""SchemaCheck: what is wrong with a value, by its JSON Schema; needs jsonschema (``servicebus-failover[mock]``)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from servicebus.contracts import Schema
from servicebus.contracts.notation import Notation
from servicebus.errors import ContractError, InvalidParam
from servicebus.testing.formats import CHECKS
from servicebus.wire.printable import printable

__all__ = ["SchemaCheck"]

_MAX_ERRORS = 100
_UNEXPECTED = "Unexpected keyword argument", "unexpected_keyword_argument"


class SchemaCheck:
    """Checks values by one schema; for any thread.

    Args:
        schema: None for what is not known: every value is right.

    Raises:
        ContractError: it is no JSON Schema.
        ImportError: jsonschema is not installed.
    """

    def __init__(self, schema: Schema):
        try:
            from jsonschema import Draft202012Validator, FormatChecker
            from jsonschema.exceptions import SchemaError, best_match
        except ImportError as error:
            raise ImportError("a mock needs jsonschema: pip install servicebus-failover[mock]") from error
        schema = True if schema is None else schema
        try:
            Draft202012Validator.check_schema(schema)
        except SchemaError as error:
            raise ContractError(f"no JSON Schema: {error.message}") from error
        formats = FormatChecker(formats=())
        for name, check in CHECKS.items():
            formats.checks(name, raises=(ValueError, ArithmeticError))(partial(_is_right, check))
        self._validator: Any = Draft202012Validator(schema, format_checker=formats)
        self._best: Callable[[Any], Any] = best_match
        self._notation = Notation(schema)

    def problems(self, value: Any, *, of_parameters: bool = False) -> list[InvalidParam]:
        """What is wrong with *value*, without any part of it; nothing if it is right.

        Args:
            of_parameters: its fields are the parameters of a function.
        """
        found: dict[tuple[Any, ...], InvalidParam] = {}
        for error in self._validator.iter_errors(value):
            for place, message, kind in self._told(self._best([error]), of_parameters):
                found.setdefault(place, InvalidParam(place, message, kind))
                if len(found) == _MAX_ERRORS:
                    return list(found.values())
        return list(found.values())

    def _told(self, error: Any, of_parameters: bool) -> Iterator[tuple[tuple[Any, ...], str, str]]:
        """Place, message and kind; the kind is that of pydantic where it is the same thing, else the keyword."""
        place = tuple(each if isinstance(each, int) else printable(each[:200]) for each in error.absolute_path)
        is_call = of_parameters and not place
        if error.validator == "required":
            about = ("Missing required argument", "missing_argument") if is_call else ("Field required", "missing")
            yield from (((*place, name), *about) for name in error.validator_value if name not in error.instance)
        elif error.validator == "additionalProperties":
            about = _UNEXPECTED if is_call else ("Extra inputs are not permitted", "extra_forbidden")
            yield from (((*place, printable(name[:200])), *about) for name in _unknown(error))
        elif error.validator == "minItems" and is_call:
            about = "Missing required positional only argument", "missing_positional_only_argument"
            yield from (((index,), *about) for index in range(len(error.instance), error.validator_value))
        elif error.validator == "maxItems" and is_call:
            about = "Unexpected positional argument", "unexpected_positional_argument"
            yield from (((index,), *about) for index in range(error.validator_value, len(error.instance)))
        else:
            wanted = printable(self._notation.of(error.schema)[:200])
            yield place, f"Input should be {wanted}", str(error.validator or "forbidden")


def _unknown(error: Any) -> Iterator[str]:
    patterns = error.schema.get("patternProperties", {})
    for name in error.instance:
        if name not in error.schema.get("properties", {}) and not any(re.search(each, name) for each in patterns):
            yield name


def _is_right(check: Callable[[str], object], value: Any) -> bool:
    if isinstance(value, str):
        check(value)
    return True
