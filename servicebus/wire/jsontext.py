"""JSON text <-> values: by msgspec where it is installed (the extra ``fast``), else by the standard library.

Both keep the same rules, which ``wire/standardjson`` describes, and make the same bytes.
"""

from __future__ import annotations

from functools import partial

from servicebus.wire.standardjson import MAX_JSON_DEPTH, HoldsSecret, check_depth

try:
    from servicebus.wire.fastjson import decode, encode
except ImportError:  # no msgspec
    from servicebus.wire.standardjson import decode, encode

__all__ = [
    "MAX_JSON_DEPTH",
    "HoldsSecret",
    "check_depth",
    "decode_json",
    "decode_params",
    "encode_json",
    "encode_params",
]

# Without the names of arguments partial() costs nothing, with them a quarter of a microsecond.
encode_json = partial(encode, False)
decode_json = partial(decode, False)
encode_params = partial(encode, True)
"""As ``encode_json()``; a value with a ``Secret`` in it becomes a SecretText, which is to be encrypted."""
decode_params = partial(decode, True)
"""As ``decode_json()``, with a ``Secret`` around each value that has come encrypted by itself."""
