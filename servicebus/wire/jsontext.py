"""JSON text <-> values: by msgspec where it is installed (the extra ``fast``), else by the standard library.

Both keep the same rules, which ``wire/standardjson`` describes, and make the same bytes.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from servicebus._secret import SecretText, hidden_at
from servicebus.wire.standardjson import MAX_JSON_DEPTH, HoldsSecret, check_depth

try:
    from servicebus.wire.fastjson import decode_json, encode_json
except ImportError:  # no msgspec
    from servicebus.wire.standardjson import decode_json, encode_json

__all__ = [
    "MAX_JSON_DEPTH",
    "HoldsSecret",
    "check_depth",
    "decode_json",
    "decode_params",
    "encode_json",
    "encode_params",
]

encode_params = partial(encode_json, hides_secrets=True)
"""As ``encode_json()``; a value with a ``Secret`` in it becomes a SecretText, which is to be encrypted."""


def decode_params(raw: bytes) -> Any:
    """As ``decode_json()``, with a ``Secret`` around each value that has come encrypted by itself."""
    value = decode_json(raw)
    return hidden_at(value, raw.places) if type(raw) is SecretText else value
