"""Problems: what pydantic finds wrong with a value, as text and as data that do not show the value.

Theory of operation. pydantic's own messages name the rule, and the few that quote the value are replaced. A validator
of the program writes what it likes, so every word of its message that occurs in a value, or in a part of one, is taken
out. Where there are too many values to look through, the whole message is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError, core_schema

from servicebus.errors import InvalidParam
from servicebus.services import UnboundParams
from servicebus.wire.fault import INVALID_PARAMS
from servicebus.wire.jsontext import encode_json
from servicebus.wire.printable import printable

__all__ = ["is_no_json", "problems_of", "unbound", "without_values"]

_MAX_ERRORS = 100
_MAX_TEXT_CHARS = 3000
_MAX_WORD_CHARS = 200
_MAX_PLACE = 32
_MAX_VALUES = 2000
_MAX_VALUE_CHARS = 64 * 1024
_MIN_PART = 3
"""A word of a message that is shorter is taken out if it is a word of a value; a longer one if it is a part of one."""

_QUOTING = {
    "datetime_object_invalid": "Input should be a valid datetime",
    "get_attribute_error": "An attribute could not be had",
    "iteration_error": "The items could not be had",
    "mapping_type": "Input should be a valid dictionary",
    "union_tag_invalid": "Input does not match any of the expected tags",
    "uuid_parsing": "Input should be a valid UUID",
    "url_parsing": "Input should be a valid URL",
    "url_syntax_violation": "Input violated strict URL syntax rules",
    "bytes_invalid_encoding": "Data should be valid in its encoding",
    "timezone_offset": "Input should have the timezone offset that is required",
}
"""In place of messages of pydantic that show a part of the value, or the text of another error."""
_OF_PYDANTIC = frozenset(get_args(core_schema.ErrorType)) - {"value_error", "assertion_error"}
"""All other messages were written by a validator of the program."""
_LEFT_OUT = "A validator refuses it"
_MAX_LABEL_CHARS = 60
_JSON = (dict, list, str, int, float, type(None))
_KEY = "[key]"
"""Behind the key of a dict, where that is what is wrong."""
_WORD = re.compile(r"\w+")


def unbound(error: ValidationError, whole: Any, name: str = "params") -> UnboundParams:
    """What the caller is told, as text and as data. *whole* is all that was validated, *name* says what it is."""
    problems = list(problems_of(error, whole))
    listed = "; ".join(each.of(name) for each in problems)
    count = error.error_count()
    if len(listed) > _MAX_TEXT_CHARS or count > len(problems):
        listed = f"{count} errors: {listed[:_MAX_TEXT_CHARS]}\u2026"
    data = encode_json({"count": count, "errors": [[list(each.place), each.message, each.kind] for each in problems]})
    return UnboundParams(INVALID_PARAMS, listed, data.decode())


_UNKNOWN: Any = object()


def problems_of(error: ValidationError, whole: Any = _UNKNOWN) -> Iterator[InvalidParam]:
    """The first of its errors; no message of them shows a value, be it of another part of *whole*."""
    known: _Known | None = None
    for each in _errors(error)[:_MAX_ERRORS]:
        kind = each["type"]
        message = _QUOTING.get(kind, each["msg"])
        if kind not in _OF_PYDANTIC:
            known = known or _Known(None if whole is _UNKNOWN else whole, with_keys=False)
            message = _without(message, known, _Known(each["input"], with_keys=True))
        place, labels = _place(each["loc"][:_MAX_PLACE], kind, whole)
        if labels:
            message = f"as {', '.join(label[:_MAX_LABEL_CHARS] for label in labels)}: {message}"
        shown = tuple(part if isinstance(part, int) else _word(part) for part in place)
        yield InvalidParam(shown, _word(message), kind)


def _place(loc: tuple[int | str, ...], kind: str, whole: Any) -> tuple[list[int | str], list[str]]:
    """The names and indexes of *loc* that lead to the value; and its labels, which say as what pydantic has read it.

    Labels are the alternatives of unions and the like. They are told from names by what there is in *whole*.
    """
    place: list[int | str] = []
    labels: list[str] = []
    value = whole
    for number, part in enumerate(loc, 1):
        if isinstance(part, str) and isinstance(value, _JSON) and not _is_absent(number == len(loc), kind):
            is_name = isinstance(value, dict) and part in value
            is_text_of_json = isinstance(value, str) and value[:1] in ("{", "[")
            if not (is_name or is_text_of_json or part == _KEY):
                labels.append(part)
                continue
        place.append(part)
        try:
            value = value[part]
        except (LookupError, TypeError):
            value = _UNKNOWN
    return place, labels


def _is_absent(is_last: bool, kind: str) -> bool:
    return is_last and kind.startswith("missing")


def without_values(error: ValidationError) -> ValidationError:
    """*error* with its title, places, messages, kinds and traceback, and no value."""
    made = ValidationError.from_exception_data(
        error.title,
        [
            InitErrorDetails(type=PydanticCustomError(each.kind, each.message), loc=each.place, input=0)
            for each in problems_of(error)
        ],
        hide_input=True,
    )
    return made.with_traceback(error.__traceback__)


def is_no_json(error: ValidationError) -> bool:
    """Whether pydantic's parser did not know the JSON at all."""
    return any(each["type"] == "json_invalid" and not each["loc"] for each in _errors(error))


def _errors(error: ValidationError) -> list[Any]:
    return error.errors(include_url=False, include_context=False)


def _word(text: str) -> str:
    return printable(text[:_MAX_WORD_CHARS])


class _Known:
    """What occurs in *value*.

    Args:
        with_keys: the keys of what is in it, too, which may be values or the names of fields.
    """

    def __init__(self, value: Any, *, with_keys: bool):
        texts: list[str] = []
        chars = 0
        for text in _texts(value, with_keys):
            texts.append(text.casefold())
            chars += len(text)
            if chars > _MAX_VALUE_CHARS or len(texts) > _MAX_VALUES:
                break
        self.is_cut = chars > _MAX_VALUE_CHARS or len(texts) > _MAX_VALUES
        self._text = "\0".join(texts)
        self._words = frozenset(_WORD.findall(self._text))

    def __contains__(self, word: str) -> bool:
        word = word.casefold()
        return word in self._words or (len(word) >= _MIN_PART and word in self._text)


def _without(message: str, *known: _Known) -> str:
    """*message*, which a validator of the program wrote, without what is *known* of the values."""
    if any(each.is_cut for each in known):
        return _LEFT_OUT
    return _WORD.sub(lambda found: "\u2026" if any(found[0] in each for each in known) else found[0], message)


def _texts(value: Any, with_keys: bool) -> Iterator[str]:
    """What may be quoted of *value*; "" for what only holds others. Flags and nothings are no secrets."""
    stack = [value]
    while stack:
        item = stack.pop()
        inner: Iterable[Any] = ()
        if isinstance(item, dict):
            inner = (*item, *item.values()) if with_keys else item.values()
        elif isinstance(item, (list, tuple, set, frozenset)):
            inner = item
        elif hasattr(item, "__dict__"):  # a model
            inner = vars(item).values()
        elif item is not None and not isinstance(item, bool):
            yield _text_of(item)
            continue
        yield ""
        stack += islice(inner, _MAX_VALUES + 1)


def _text_of(value: Any) -> str:
    try:
        return str(value)
    except Exception:  # of a class of the program
        return ""
