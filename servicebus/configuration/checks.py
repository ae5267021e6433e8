"""Checks of single values: each takes the given value and returns the one to keep, or raises Unacceptable.

In YAML every scalar arrives as its text, so that ``password: 0123`` keeps its zero and ``prefetch: ${PREFETCH}`` may
come from the environment; in a dict numbers arrive as numbers. Both are taken by the same checks.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, TypeVar

from servicebus._durations import to_seconds
from servicebus._nearest import nearest
from servicebus.configuration.values import Secret
from servicebus.errors import DurationError

Choice = TypeVar("Choice", bound=str)

YEAR_S = 366 * 24 * 3600.0
NAME_LENGTH = 100
_FLAGS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


class Unacceptable(Exception):
    """Raised with what is wrong with a value, without the value and without its key: ``must be a list``."""


def whole(low: int, high: int) -> Callable[[Any], int]:
    """A whole number from *low* to *high*."""
    wanted = f"must be a whole number from {low} to {high}"

    def check(value: Any) -> int:
        number: int = _number(value, wanted, int)
        if not low <= number <= high:
            raise Unacceptable(f"{wanted}, not {number:.6g}" if abs(number) < 10**15 else wanted)
        return number

    return check


def seconds(*, zero: bool = False) -> Callable[[Any], float]:
    """A duration in seconds, at most a year; zero only where it has a meaning."""
    wanted = f"must be a number of seconds {'from' if zero else 'above'} 0, at most a year"

    def check(value: Any) -> float:
        number: float = _number(value, wanted, float)
        try:
            found = to_seconds("it", number, zero=zero)
        except DurationError:
            found = math.inf
        if found > YEAR_S:
            raise Unacceptable(f"{wanted}, not {number:.6g}")
        return found

    return check


def retry_schedule(value: Any) -> tuple[float, ...]:
    """Delays in seconds, as a list or as a text with commas; none at all means no further attempt."""
    one = seconds()
    return tuple(one(each) for each in listed(value, "must be a list of seconds"))


def listed(value: Any, wanted: str) -> list[Any] | tuple[Any, ...]:
    """A list, also as a text with commas."""
    if isinstance(value, str):
        parts = (part.strip(" '\"") for part in value.strip("[]() ").split(","))
        return [part for part in parts if part]
    if not isinstance(value, (list, tuple)):
        raise Unacceptable(wanted)
    return value


def _number(value: Any, wanted: str, kind: Callable[[Any], Any]) -> Any:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise Unacceptable(wanted)
    if kind is int and isinstance(value, float) and not value.is_integer():
        raise Unacceptable(f"{wanted}, not {value:.6g}")
    try:
        return kind(value)
    except (ValueError, OverflowError):
        raise Unacceptable(wanted) from None


def flag(value: Any) -> bool:
    """True or false; as text also yes, no, on, off."""
    found = _FLAGS.get(str(value).lower()) if isinstance(value, (bool, int, str)) else None
    if found is None:
        raise Unacceptable("must be true or false")
    return found


def part(value: Any) -> float:
    """A part of all, from 0 to 1; false for none of them, true for all."""
    wanted = "must be true, false, or a number from 0 to 1"
    try:
        return float(flag(value))
    except Unacceptable:
        found: float = _number(value, wanted, float)
    if not 0 <= found <= 1:
        raise Unacceptable(f"{wanted}, not {found:.6g}")
    return found


def text(value: Any) -> str:
    """A text that is not empty. A number is taken as its text; control characters are refused."""
    found = _plain_text(value)
    if not found.strip() or any(ord(char) < 32 for char in found):
        raise Unacceptable("must be a text, not empty and without control characters")
    return found


def secret(value: Any) -> Secret:
    """A secret that is not empty."""
    if isinstance(value, Secret):
        return value
    found = _plain_text(value)
    if not found or "\0" in found:  # AMQP's PLAIN puts NUL between user and password
        raise Unacceptable("must be a text, not empty and without NUL")
    return Secret(found)


def secrets(value: Any) -> tuple[Secret, ...]:
    """One secret, or a list of them."""
    found = tuple(secret(each) for each in value) if isinstance(value, (list, tuple)) else (secret(value),)
    if not found:
        raise Unacceptable("must hold at least one secret")
    return found


def _plain_text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise Unacceptable("must be a text")
    try:
        found = str(value)
        found.encode()
    except ValueError:  # lone surrogates, or an int of more digits than Python writes
        raise Unacceptable("must be a text that UTF-8 can carry") from None
    return found


def name(value: Any) -> str:
    """A part of an address NODE.category.name."""
    found = _plain_text(value)
    if not 1 <= len(found) <= NAME_LENGTH or not found.isprintable() or any(c == "." or c.isspace() for c in found):
        raise Unacceptable(f"must be 1 to {NAME_LENGTH} printable characters without dot and space")
    return found


def names(value: Any) -> tuple[str, ...]:
    """A list of names, which may be empty; or one name."""
    return tuple(name(each) for each in (value if isinstance(value, (list, tuple)) else [value]))


_IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def import_path(value: Any, example: str = "package.module:name") -> str:
    """Of something in a module."""
    found = text(value)
    if not _IMPORT_PATH.fullmatch(found):
        raise Unacceptable(f"must be an import path such as {example}")
    return found


def import_paths(value: Any) -> tuple[str, ...]:
    """As a list, or as a text with commas."""
    return tuple(import_path(each) for each in listed(value, "must be a list of import paths"))


def short_name(value: Any) -> str:
    """The name of an AMQP entity: at most 255 bytes (a short string)."""
    found = text(value)
    if len(found.encode()) > 255:
        raise Unacceptable("must have at most 255 bytes")
    return found


def time_zone(value: Any) -> str:
    """The name of a time zone that this machine knows."""
    found = text(value)
    try:
        from zoneinfo import ZoneInfo

        ZoneInfo(found)
    except (ValueError, OSError, KeyError):  # no such name, or one that is a path out of the database
        raise Unacceptable("must be a time zone of this machine, such as Europe/Berlin") from None
    return found


def socket_path(value: Any) -> str:
    """The path of a unix socket; Linux takes 107 bytes."""
    found = text(value)
    if len(found.encode()) > 107:
        raise Unacceptable("must have at most 107 bytes: that is what a unix socket's address can hold")
    return found


def one_of(*words: Choice, fold: Callable[[str], str] = str.lower) -> Callable[[Any], Choice]:
    """One of some words, whatever its case."""

    def check(value: Any) -> Choice:
        found = fold(_plain_text(value))
        for word in words:
            if word == found:
                return word
        meant = nearest(found, words)
        hint = f"; did you mean {meant}?" if meant else ""
        raise Unacceptable(f"must be one of {', '.join(words)}{hint}")

    return check
