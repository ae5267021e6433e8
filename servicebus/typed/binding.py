"""Binding: the text of the wire -> the arguments of a function, or a list of what is wrong without any value.

The text goes straight into pydantic. JSON's own rules stay those of ``wire/jsontext``: what is no JSON there is refused
in the same words, whatever the other parser thinks of it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from servicebus._secret import is_dump_of_secret
from servicebus.typed.problems import is_no_json, unbound
from servicebus.typed.signature import Signature
from servicebus.wire.jsontext import MAX_JSON_DEPTH, check_depth, decode_json

__all__ = ["Bound", "binding_function", "holds_secret", "make_binder", "value_reader"]

Bound = tuple[tuple[Any, ...], dict[str, Any]]
"""The arguments by position and by name."""

CONSTANT = re.compile(b"NaN|Infinity")
"""What pydantic takes for a number and JSON does not; it may stand in a text."""


def make_binder(signature: Signature) -> Callable[[bytes], Bound]:
    """A function of the text of the params. It raises EnvelopeError if that is no JSON, else UnboundParams.

    Its attribute ``holds_secret`` says whether there can be a Secret among them.
    """
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

    read.holds_secret = holds_secret(adapter)  # type: ignore[attr-defined]
    return read


def binding_function(signature: inspect.Signature) -> Any:
    """A function with this signature, for pydantic: it returns its arguments."""

    def bind(*args: Any, **kwargs: Any) -> Bound:
        return args, kwargs

    bind.__signature__ = signature  # type: ignore[attr-defined]
    bind.__annotations__ = {name: each.annotation for name, each in signature.parameters.items()}
    return bind


@lru_cache(maxsize=1024)
def holds_secret(adapter: TypeAdapter[Any]) -> bool:
    """Whether there can be a Secret in its values."""
    stack: list[Any] = [adapter.core_schema]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            stack += item.values()
        elif isinstance(item, (list, tuple)):
            stack += item
        elif is_dump_of_secret(item):
            return True
    return False


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

    read.holds_secret = holds_secret(adapter)  # type: ignore[attr-defined]
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
    if is_no_json(error):
        try:
            return adapter.validate_python(value)
        except ValidationError as second:
            error = second
    raise unbound(error, value) from None
