"""Binding: the text of the wire -> the arguments of a function, or a list of what is wrong without any value.

The text goes straight into pydantic. JSON's own rules stay those of ``wire/jsontext``: what is no JSON there is refused
in the same words, whatever the other parser thinks of it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError
from pydantic_core import core_schema

from servicebus.errors import InvalidParam
from servicebus.services import UnboundParams
from servicebus.typed.signature import Signature
from servicebus.wire.fault import INVALID_PARAMS
from servicebus.wire.jsontext import MAX_JSON_DEPTH, check_depth, decode_json, encode_json
from servicebus.wire.printable import printable

__all__ = ["Bound", "binding_function", "make_binder", "problems_of", "value_reader"]

Bound = tuple[tuple[Any, ...], dict[str, Any]]
"""The arguments by position and by name."""

_MAX_ERRORS = 100
_MAX_TEXT_CHARS = 3000
_MAX_WORD_CHARS = 200
_MAX_PLACE = 32
_MAX_SCALARS = 100
CONSTANT = re.compile(b"NaN|Infinity")
"""What pydantic takes for a number and JSON does not; it may stand in a text."""

_WITH_VALUE = {
    "union_tag_invalid": "Input does not match any of the expected tags",
    "uuid_parsing": "Input should be a valid UUID",
    "url_parsing": "Input should be a valid URL",
    "url_syntax_violation": "Input violated strict URL syntax rules",
    "bytes_invalid_encoding": "Data should be valid in its encoding",
    "timezone_offset": "Input should have the timezone offset that is required",
}
"""In place of messages of pydantic that show a part of the value."""
_OF_PYDANTIC = frozenset(get_args(core_schema.ErrorType)) - {"value_error", "assertion_error"}
"""All other messages were written by a validator of the program."""


def make_binder(signature: Signature) -> Callable[[bytes], Bound]:
    """A function of the text of the params. It raises EnvelopeError if that is no JSON, else UnboundParams."""
    whole = signature.whole
    if whole is not None:
        return _whole_binder(whole)

    adapter: TypeAdapter[Any] = TypeAdapter(binding_function(signature.bound))
    validate = adapter.validator.validate_json

    def read(text: bytes) -> Bound:
        if text == b"null":
            text = b"[]"  # what a call without params sends
        _check(text)
        try:
            return validate(text)  # type: ignore[no-any-return]
        except ValidationError as error:
            return _read_again(text, adapter, error)  # type: ignore[no-any-return]

    return read


def binding_function(signature: inspect.Signature) -> Any:
    """A function with this signature, for pydantic: it returns its arguments."""

    def bind(*args: Any, **kwargs: Any) -> Bound:
        return args, kwargs

    bind.__signature__ = signature  # type: ignore[attr-defined]
    bind.__annotations__ = {name: each.annotation for name, each in signature.parameters.items()}
    return bind


def value_reader(annotation: Any) -> Callable[[bytes], Any]:
    """A function of a JSON text: the value that *annotation* makes of it. It raises as a binder does."""
    adapter: TypeAdapter[Any] = TypeAdapter(annotation)
    validate = adapter.validator.validate_json

    def read(text: bytes) -> Any:
        _check(text)
        try:
            return validate(text)
        except ValidationError as error:
            return _read_again(text, adapter, error)

    return read


def _whole_binder(parameter: inspect.Parameter) -> Callable[[bytes], Bound]:
    adapter = TypeAdapter[Any](parameter.annotation)
    validate = adapter.validator.validate_json
    is_named = parameter.kind is inspect.Parameter.KEYWORD_ONLY
    has_default = parameter.default is not inspect.Parameter.empty

    def read(text: bytes) -> Bound:
        if has_default and text == b"null":
            return (), {}
        _check(text)
        try:
            value = validate(text)
        except ValidationError as error:
            value = _read_again(text, adapter, error)
        return ((), {parameter.name: value}) if is_named else ((value,), {})

    return read


def _check(text: bytes) -> None:
    """Refuse what pydantic accepts and ``decode_json()`` does not."""
    if CONSTANT.search(text) is not None:
        decode_json(text)
    if len(text) > MAX_JSON_DEPTH:
        check_depth(text)


def _read_again(text: bytes, adapter: TypeAdapter[Any], error: ValidationError) -> Any:
    """The refusal of *text*; or its value, if pydantic's parser did not know the JSON: half of a surrogate pair."""
    value = decode_json(text)
    if any(each["type"] == "json_invalid" and not each["loc"] for each in _errors(error)):
        try:
            return adapter.validate_python(value)
        except ValidationError as second:
            error = second
    raise unbound(error) from None


def unbound(error: ValidationError) -> UnboundParams:
    """What the caller is told, as text and as data."""
    problems = list(problems_of(error))
    listed = "; ".join(map(str, problems))
    count = error.error_count()
    if len(listed) > _MAX_TEXT_CHARS or count > len(problems):
        listed = f"{count} errors: {listed[:_MAX_TEXT_CHARS]}\u2026"
    data = encode_json({"count": count, "errors": [[list(each.place), each.message, each.kind] for each in problems]})
    return UnboundParams(INVALID_PARAMS, listed, data.decode())


def problems_of(error: ValidationError) -> Iterator[InvalidParam]:
    """The first of its errors; no message of them shows the value."""
    for each in _errors(error)[:_MAX_ERRORS]:
        kind = each["type"]
        message = _WITH_VALUE.get(kind, each["msg"])
        if kind not in _OF_PYDANTIC:
            message = _without(message, each["input"])
        place = tuple(part if isinstance(part, int) else _word(part) for part in each["loc"][:_MAX_PLACE])
        yield InvalidParam(place, _word(message), kind)


def _errors(error: ValidationError) -> list[Any]:
    return error.errors(include_url=False, include_context=False)


def _word(text: str) -> str:
    return printable(text[:_MAX_WORD_CHARS])


def _without(message: str, value: Any) -> str:
    """*message*, which a validator of the program wrote, without the value that it refused, or a part of it."""
    for scalar in _scalars(value, len(message)):
        message = re.sub(rf"(?<!\w){re.escape(scalar)}(?!\w)", "\u2026", message)
    return message


def _scalars(value: Any, most_chars: int) -> Iterator[str]:
    stack, count = [value], 0
    while stack and count < _MAX_SCALARS:
        item = stack.pop()
        if isinstance(item, dict):
            stack += [*item, *item.values()]
        elif isinstance(item, (list, tuple)):
            stack += item
        elif isinstance(item, (str, int, float)) and not isinstance(item, bool):
            count += 1
            if 0 < len(scalar := str(item)) <= most_chars:
                yield scalar
