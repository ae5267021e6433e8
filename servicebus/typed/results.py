"""Results: what a typed function returns -> JSON text, by its return annotation."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic_core import PydanticSerializationError

from servicebus._secret import DumpedSecrets, put_back
from servicebus.errors import EnvelopeError
from servicebus.typed.binding import CONSTANT, holds_secret
from servicebus.typed.problems import unbound
from servicebus.wire.jsontext import MAX_JSON_DEPTH, check_depth, decode_json, encode_json, encode_params
from servicebus.wire.printable import unshown

__all__ = ["InvalidResult", "adapter_of", "make_writer", "plain"]

_MOST_DIGITS = 4300
"""Of an integer that Python reads, and so the caller. pydantic writes longer ones."""
_DIGITS = b"0123456789"

_SCALARS = (int, str, bool, float, type(None))
"""Nothing can be wrong with a value of exactly this type, so pydantic need not look for it, which costs 1 us."""


class InvalidResult(Exception):
    """Raised when a function returns what its annotation does not allow. The text never holds the value."""


def plain(adapter: TypeAdapter[Any], value: Any) -> Any:
    """*value* as JSON has it, but for Secrets. Raises pydantic's ValidationError: it is not what the type says."""
    if holds_secret(adapter):
        return _with_secrets(adapter, value)
    try:
        return adapter.dump_python(value, mode="json", warnings="error", by_alias=True)
    except PydanticSerializationError:
        return adapter.dump_python(adapter.validate_python(value), mode="json", by_alias=True)


def _with_secrets(adapter: TypeAdapter[Any], value: Any) -> Any:
    secrets = DumpedSecrets()
    how: dict[str, Any] = {"mode": "json", "by_alias": True, "context": secrets}
    try:
        return put_back(adapter.dump_python(value, warnings="error", **how), secrets)
    except PydanticSerializationError:
        return put_back(adapter.dump_python(adapter.validate_python(value), **how), secrets)


def make_writer(annotation: Any) -> Callable[[Any], bytes]:
    """A function of a result: its JSON text.

    It raises InvalidResult, or EnvelopeError for NaN, an infinity, or what is nested too deep.
    """
    if annotation is inspect.Signature.empty:
        annotation = Any
    adapter = adapter_of(type(None) if annotation is None else annotation)
    if holds_secret(adapter):
        return partial(_write_with_secrets, adapter)
    dump = adapter.serializer.to_json
    scalar = annotation if annotation in _SCALARS else None

    def write(result: Any) -> bytes:
        text: bytes | None = None
        with suppress(PydanticSerializationError):
            if type(result) is scalar:
                text = dump(result, ensure_ascii=True, by_alias=True)
            else:
                text = dump(result, warnings="error", ensure_ascii=True, by_alias=True)
        if text is None:
            text = _converted(result, adapter)
        _check(text)
        return text

    return write


def _write_with_secrets(adapter: TypeAdapter[Any], result: Any) -> bytes:
    why = ""
    try:
        text = encode_params(_with_secrets(adapter, result))
    except ValidationError as error:
        why = unbound(error, result, "result").detail
    except (PydanticSerializationError, EnvelopeError):
        why = f"JSON has no word for what is in it ({type(result).__name__})"
    if why:  # outside of the handlers: their errors hold the value
        raise InvalidResult(f"the service returned what its signature does not allow: {why}")
    return text


def adapter_of(annotation: Any) -> TypeAdapter[Any]:
    """Structures have a configuration of their own; for all else NaN stays what it is, so that it is found."""
    try:
        return TypeAdapter(annotation, config=ConfigDict(ser_json_inf_nan="constants"))
    except PydanticUserError as error:
        if error.code != "type-adapter-config-unused":
            raise
    return TypeAdapter(annotation)


def _converted(result: Any, adapter: TypeAdapter[Any]) -> bytes:
    """The text of what can be made a value of the right type: a dict for a model, an int for a float.

    Nothing is raised while another error is handled: its traceback would show the value.
    """
    cause: Exception | None = None
    try:
        value = adapter.validate_python(result)
        # Not to_json(): half of a surrogate pair, which JSON can say, is no text to it.
        return encode_json(adapter.serializer.to_python(value, mode="json", warnings="error", by_alias=True))
    except ValidationError as error:
        why = unbound(error, result, "result").detail
    except (PydanticSerializationError, EnvelopeError):
        why = f"JSON has no word for what is in it ({type(result).__name__})"
    except (Exception, SystemExit) as error:  # a validator of the program
        cause = unshown(error)
        why = str(cause)
    raise InvalidResult(f"the service returned what its signature does not allow: {why}") from cause


def _check(text: bytes) -> None:
    if CONSTANT.search(text) is not None or (len(text) > _MOST_DIGITS and _has_long_number(text)):
        try:
            decode_json(text)
        except EnvelopeError as error:
            raise EnvelopeError("unencodable", f"the result: {error.detail}") from None
    if len(text) > MAX_JSON_DEPTH:
        check_depth(text)


def _has_long_number(text: bytes) -> bool:
    """Whether more than ``_MOST_DIGITS`` digits follow each other. So many are at one of the places looked at."""
    for at in range(_MOST_DIGITS, len(text), _MOST_DIGITS):
        if text[at] in _DIGITS:
            before, behind = text[at - _MOST_DIGITS : at], text[at : at + _MOST_DIGITS + 1]
            count = len(before) - len(before.rstrip(_DIGITS)) + len(behind) - len(behind.lstrip(_DIGITS))
            if count > _MOST_DIGITS:
                return True
    return False
