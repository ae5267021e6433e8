"""Values of stubs: dataclasses, enumerations, dates and the like, to and from what JSON has. Without pydantic."""

from __future__ import annotations

import dataclasses
import enum
import re
import types
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints
from uuid import UUID

__all__ = ["MISSING", "from_json", "to_json"]


class _Missing:
    """There is one of it, also after pickling and copying."""

    def __repr__(self) -> str:
        return "MISSING"

    def __bool__(self) -> bool:
        return False

    def __reduce__(self) -> str:
        return "MISSING"


MISSING: Any = _Missing()
"""In place of a parameter or a field that is not sent: the node's default holds."""

_DURATION = re.compile(
    r"([+-]?)P(?:([\d.]+)Y)?(?:([\d.]+)W)?(?:([\d.]+)D)?(?:T(?:([\d.]+)H)?(?:([\d.]+)M)?(?:([\d.]+)S)?)?"
)


def to_json(value: Any) -> Any:
    """Plain values; what is MISSING in a structure is left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = ((_key(each), getattr(value, each.name)) for each in dataclasses.fields(value))
        return {key: to_json(each) for key, each in fields if each is not MISSING}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(to_json(key)): to_json(each) for key, each in value.items() if each is not MISSING}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_json(each) for each in value if each is not MISSING]
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, timedelta):
        return _duration_text(value)
    if isinstance(value, (Decimal, UUID)):
        return str(value)
    return value.decode() if isinstance(value, bytes) else value


def from_json(value: Any, hint: Any) -> Any:
    """The value of type *hint* that *value* stands for. Raises ValueError, without it: it stands for none."""
    if hint is Any:
        return value
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _one_of(value, get_args(hint))
    if origin is Literal:
        return _checked(value, any(value == each and type(value) is type(each) for each in get_args(hint)), hint)
    if origin in (list, set):
        items = (from_json(each, *get_args(hint)) for each in _checked(value, isinstance(value, list), hint))
        return origin(items)
    if origin is tuple:
        return _tuple(_checked(value, isinstance(value, list), hint), get_args(hint))
    if origin is dict:
        pairs = _checked(value, isinstance(value, dict), hint).items()
        return {key: from_json(each, get_args(hint)[1]) for key, each in pairs}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _structure(_checked(value, isinstance(value, dict), hint), hint)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        try:
            return hint(value)
        except ValueError:  # it quotes the value
            raise ValueError(f"no {hint.__name__}") from None
    return _scalar(value, hint)


def _scalar(value: Any, hint: Any) -> Any:
    read = _READERS.get(hint)
    if read is not None:
        _checked(value, isinstance(value, str) or (hint is Decimal and not isinstance(value, bool)), hint)
        try:
            return read(value)
        except (InvalidOperation, TypeError, ValueError):  # some of them quote the value
            raise ValueError(f"no {hint.__name__}") from None
    if hint is None or hint is type(None):
        return _checked(value, value is None, hint)
    if hint is float:
        return float(_checked(value, isinstance(value, (int, float)) and not isinstance(value, bool), hint))
    return _checked(value, type(value) is hint, hint)


def _one_of(value: Any, hints: tuple[Any, ...]) -> Any:
    """A text is tried as all else before it is a text; of structures the one that knows most keys comes first."""
    for hint in sorted(hints, key=lambda each: (each is Any, each is str, each is float, _unknown_keys(value, each))):
        try:
            return from_json(value, hint)
        except ValueError:
            continue
    raise ValueError("none of the alternatives")


def _unknown_keys(value: Any, hint: Any) -> int:
    if not (isinstance(value, dict) and dataclasses.is_dataclass(hint)):
        return 0
    return len(value.keys() - {_key(each) for each in dataclasses.fields(hint)})


def _tuple(value: list[Any], hints: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(hints) == 2 and hints[1] is Ellipsis:
        return tuple(from_json(each, hints[0]) for each in value)
    if len(value) != len(hints):
        raise ValueError(f"{len(value)} items in place of {len(hints)}")
    return tuple(from_json(each, hint) for each, hint in zip(value, hints, strict=True))


def _structure(value: dict[str, Any], kind: Any) -> Any:
    hints = _hints_of(kind)
    found = {}
    for each in dataclasses.fields(kind):
        key = _key(each)
        if key in value:
            found[each.name] = from_json(value[key], hints[each.name])
        elif each.default is dataclasses.MISSING:
            raise ValueError(f"no {key}")
    return kind(**found)


@lru_cache(maxsize=1024)
def _hints_of(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _key(field: Any) -> str:
    """The name that travels: it may be none in Python."""
    return str(field.metadata.get("key", field.name))


def _checked(value: Any, is_right: bool, hint: Any) -> Any:
    if not is_right:
        raise ValueError(f"{type(value).__name__} in place of {hint}")
    return value


def _duration_text(value: timedelta) -> str:
    sign, value = ("-", -value) if value < timedelta(0) else ("", value)
    return f"{sign}P{value.days}DT{value.seconds}.{value.microseconds:06d}S"


def _duration(text: str) -> timedelta:
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError("no duration of ISO 8601")
    sign, *parts = found.groups()
    years, weeks, days, hours, minutes, seconds = (float(each or 0) for each in parts)
    value = timedelta(days=365 * years + days, weeks=weeks, hours=hours, minutes=minutes, seconds=seconds)
    return -value if sign == "-" else value


def _zoned(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Python 3.10 reads no Z, and fractions of a second in three or six digits only."""

    def zoned(text: str) -> Any:
        text = re.sub(r"\.(\d{1,6})\d*", lambda found: f".{found[1]:0<6}", re.sub(r"[Zz]\Z", "+00:00", text))
        return read(text)

    return zoned


_READERS: dict[Any, Callable[[Any], Any]] = {
    datetime: _zoned(datetime.fromisoformat),
    date: date.fromisoformat,
    time: _zoned(time.fromisoformat),
    timedelta: _duration,
    Decimal: lambda value: Decimal(str(value)),
    UUID: UUID,
    bytes: lambda value: value.encode(),
}
