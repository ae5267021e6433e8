"""Formats of texts in JSON Schema, as pydantic names them, checked by the standard library."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from urllib.parse import urlsplit
from uuid import UUID

__all__ = ["CHECKS"]

_CLOCK = r"([01]\d|2[0-3]):[0-5]\d(:[0-5]\d([.,]\d+)?)?"
_ZONE = r"([Zz]|[+-]\d\d:?\d\d)?"
_TIME = re.compile(_CLOCK + _ZONE)
_MOMENT = re.compile(rf"(\d{{4}}-\d\d-\d\d)[Tt _]{_CLOCK}{_ZONE}")
_DURATION = re.compile(r"[+-]?P(?=\d|T\d)(\d+W|(\d+Y)?(\d+M)?(\d+D)?(T(?=\d)(\d+H)?(\d+M)?(\d+([.,]\d+)?S)?)?)")
_CLOCK_DURATION = re.compile(rf"[+-]?(\d+ ?(d|days?),? ?)?{_CLOCK}")
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")


def _must(is_right: object) -> None:
    if not is_right:
        raise ValueError


def _moment(text: str) -> None:
    found = _MOMENT.fullmatch(text)
    _must(found)
    assert found is not None
    date.fromisoformat(found[1])


CHECKS: dict[str, Callable[[str], object]] = {
    "date": date.fromisoformat,
    "date-time": _moment,
    "time": lambda text: _must(_TIME.fullmatch(text)),
    "duration": lambda text: _must(_DURATION.fullmatch(text) or _CLOCK_DURATION.fullmatch(text)),
    "uuid": UUID,
    "decimal": lambda text: _must(Decimal(text).is_finite()),
    "email": lambda text: _must(_EMAIL.fullmatch(text)),
    "uri": lambda text: _must(urlsplit(text).scheme),
    "ipv4": ipaddress.IPv4Address,
    "ipv6": ipaddress.IPv6Address,
    "regex": re.compile,
}
"""Each raises ValueError or ArithmeticError for a text that is not of its format. A text of another format is right."""
