"""The context of requests: text pairs beside the params, which travel on to what a service asks. Pure.

It can hold tokens, so that no error here shows a value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from servicebus.errors import EnvelopeError

__all__ = [
    "MAX_CONTEXT_BYTES",
    "NO_CONTEXT",
    "PRIORITY",
    "GivenContext",
    "OutgoingContext",
    "checked",
    "decode_context",
    "encode_context",
    "merged",
    "priority_in",
    "priority_of",
    "with_priority",
    "written_priority",
]

MAX_CONTEXT_BYTES = 4096
"""As JSON text, as it travels."""
NO_CONTEXT: Mapping[str, str] = MappingProxyType({})

PRIORITY = "priority"
"""Its key: a digit. So it is signed, and inherited by what a service asks."""
_HIGHEST = 9
_WRITTEN = re.compile(r'[{,]"priority":"([0-9])"[,}]')
"""In a context as it travels. The quotes within a value are escaped."""
_KEY = re.compile(r"[a-z0-9._-]{1,64}")
_UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_SHOWN = 40
_ESCAPES = (("&", "\\u0026"), ("<", "\\u003c"), (">", "\\u003e"))
"""What XML would have to escape can only stand inside a string, where JSON lets us write it so."""
_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
_decode = json.JSONDecoder(object_pairs_hook=list).decode  # json.loads() would make one for each text


GivenContext = Mapping[str, str | None] | None
"""What a program says of a call or message: pairs, and None for what is not to be inherited."""


class OutgoingContext(dict[str, str]):
    """What goes with a request, with what it inherits: nothing is added to it any more. For the parts of a Sender."""


def merged(inherited: Mapping[str, str], given: Mapping[str, str | None]) -> dict[str, str]:
    """*inherited* with the pairs of *given*; a value of None leaves out what was inherited under its key.

    Raises:
        EnvelopeError: ``unencodable``, *given* is no mapping.
    """
    if not isinstance(given, Mapping):
        raise EnvelopeError("unencodable", f"context: a mapping is wanted, and this is of type {_type_of(given)}")
    return {key: value for key, value in {**inherited, **given}.items() if value is not None}


def checked(given: GivenContext) -> GivenContext:
    """*given*, if it could travel. Raises EnvelopeError."""
    if given is not None:
        encode_context(merged(NO_CONTEXT, given))
    return given


def with_priority(given: GivenContext, priority: int | None) -> GivenContext:
    """*given* with *priority*, from 0 to 9; as it is for None. Raises EnvelopeError: that is no priority."""
    if priority is None:
        return given
    if isinstance(priority, bool) or not isinstance(priority, int) or not 0 <= priority <= _HIGHEST:
        raise EnvelopeError("unencodable", f"priority: a whole number from 0 to {_HIGHEST} is wanted, not {priority!r}")
    pairs = merged(NO_CONTEXT, given or {})
    pairs[PRIORITY] = str(int(priority))
    kept = {key: value for key, value in (given or {}).items() if value is None and key != PRIORITY}
    return OutgoingContext(pairs) if isinstance(given, OutgoingContext) else {**kept, **pairs}


def priority_in(pairs: Mapping[str, str] | None) -> int | None:
    """The priority that a context says; None if it says none."""
    text = pairs.get(PRIORITY, "") if pairs else ""
    return int(text) if len(text) == 1 and text in "0123456789" else None


def written_priority(text: str) -> int | None:
    """The same of a context as it travels."""
    found = _WRITTEN.search(text)
    return None if found is None else int(found[1])


def priority_of(body: bytes) -> int | None:
    """The same of a whole envelope, of which nothing else is known."""
    start, end = body.find(b"<context>"), body.find(b"<params>")
    return written_priority(body[start:end].decode("ascii", "replace")) if 0 <= start < end else None


def encode_context(pairs: Mapping[str, str]) -> str:
    """*pairs* as JSON text in ASCII, as it travels; "" if there are none.

    Raises:
        EnvelopeError: ``unencodable``, with the key and without the value.
    """
    if not pairs:
        return ""
    problem = _problem(pairs.items())
    if problem:
        raise EnvelopeError("unencodable", f"context: {problem}")
    text = _encode(dict(pairs))
    for sign, escape in _ESCAPES:
        if sign in text:
            text = text.replace(sign, escape)
    if len(text) > MAX_CONTEXT_BYTES:
        raise EnvelopeError("unencodable", f"context: {len(text)} bytes as JSON; {MAX_CONTEXT_BYTES} are allowed")
    return text


def decode_context(text: str) -> Mapping[str, str]:
    """The pairs of JSON *text*, read-only.

    Raises:
        EnvelopeError: ``malformed``, with the key and without the value.
    """
    try:
        items = _decode(text)
    except (ValueError, RecursionError):
        raise EnvelopeError("malformed", "context: it is no JSON") from None
    if not text.startswith("{"):
        raise EnvelopeError("malformed", "context: it is no JSON object")
    pairs = dict(items)
    problem = "a key is there twice" if len(pairs) < len(items) else _problem(pairs.items())
    if problem:
        raise EnvelopeError("malformed", f"context: {problem}")
    return MappingProxyType(pairs)


def _problem(items: Any) -> str:
    for key, value in items:
        if not isinstance(key, str):
            return f"a key is of type {_type_of(key)}, not text"
        if _KEY.fullmatch(key) is None:
            return f"the key {key[:_SHOWN]!a} is not 1 to 64 of the characters a-z 0-9 . _ -"
        if not isinstance(value, str):
            return f"the value of {key} is of type {_type_of(value)}, not text"
        if _UNFIT.search(value) is not None:
            return f"the value of {key} holds a control character or a lone surrogate"
    return ""


def _type_of(value: object) -> str:
    return type(value).__name__
