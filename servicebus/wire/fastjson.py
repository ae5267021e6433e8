"""JSON text <-> values by msgspec, the extra ``fast``: the bytes, values and errors of ``wire/standardjson``, sooner.

msgspec alone does what both do alike. What it refuses is asked of the standard library, which refuses it in its own
words, or reads what msgspec does not: half of a surrogate pair, a float out of range. And it is not given what it
would write otherwise: floats (NaN as null, 1e16 without a sign), and all that JSON has no word for (bytes, dates, ...).
"""

from __future__ import annotations

from typing import Any

import msgspec

from servicebus._secret import SecretText, hidden_at
from servicebus.wire import standardjson
from servicebus.wire.standardjson import LONG_BYTES, MAX_JSON_DEPTH, check_depth, is_shallow

__all__ = ["decode", "encode"]

_PLAIN = frozenset({str, int, bool, type(None)})
_KEYS = frozenset({str})
_REFUSED = (msgspec.DecodeError, ValueError, OverflowError, RecursionError)
_read = msgspec.json.Decoder().decode
_write = msgspec.json.Encoder().encode


def encode(hides_secrets: bool, value: Any) -> bytes:
    """As that of ``standardjson``, which writes deeper values: to look at all their types takes as long as that."""
    kind = type(value)
    if kind is list or kind is tuple:
        is_plain = _PLAIN.issuperset(map(type, value))
    elif kind is dict:
        is_plain = _PLAIN.issuperset(map(type, value.values())) and _KEYS.issuperset(map(type, value))
    else:
        is_plain = kind in _PLAIN
    if is_plain:
        try:
            raw = _write(value)
        except _REFUSED:  # half of a surrogate pair, or an int of more than 4300 digits
            pass
        else:
            if raw.isascii() and b"\x7f" not in raw:
                # The same look for the end of a CDATA section.
                bracket = raw.find(b"]")
                if bracket >= 0 and raw.find(b"]]>", bracket) >= 0:
                    raw = raw.replace(b"]]>", b"]]\\u003e")
                return raw
    return standardjson.encode(hides_secrets, value)


def decode(hides_secrets: bool, raw: bytes) -> Any:
    """As that of ``standardjson``."""
    is_long = len(raw) > LONG_BYTES
    if is_long or raw.count(b"[") + raw.count(b"{") <= MAX_JSON_DEPTH:
        try:
            value = _read(raw)
        except _REFUSED:
            pass
        else:
            if is_long and not is_shallow(value):
                check_depth(raw)
            return hidden_at(value, raw.places) if hides_secrets and type(raw) is SecretText else value
    return standardjson.decode(hides_secrets, raw)
