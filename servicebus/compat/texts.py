"""Results and errors as the texts of version 1, and back.

A reply of version 1 is one text. The agents of 2.x report two errors in it, as ordinary results, and others not at
all, so that the caller waits for its whole timeout.
"""

from __future__ import annotations

import re
from ast import literal_eval
from typing import Any

from servicebus.errors import EnvelopeError
from servicebus.wire.fault import REFUSED, UNKNOWN_SERVICE, Fault
from servicebus.wire.jsontext import decode_json, encode_json

__all__ = ["BAD_TOKEN", "fault_from_text", "fault_to_text", "result_from_text", "result_to_text", "unknown_service"]

BAD_TOKEN = "Token not valid!"  # noqa: S105 - it is an answer, no secret
ERROR_MARK = "Service Error: "
"""What answers begin with that 2.x would not have given."""

_MAX_LITERAL_CHARS = 64 * 1024
"""A literal of 1 MiB takes seconds, and half a gigabyte."""
# What repr() writes for the values of JSON and for tuples, sets and bytes. literal_eval() alone would also build trees
# of operators, as deep as a stranger likes. No two branches begin alike, so that a match takes linear time.
_ESCAPE = r"""\\(?:[\\'"nrt]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})"""
_LITERAL = re.compile(
    rf"""-?(?:
        [\[({{,:][ ]?-?
      | [\])}}]
      | \d+(?:\.\d+)?(?:e[-+]?\d+)?(?![\w.])
      | (?:True|False|None)(?!\w)
      | b?(?:'(?:[^'\\\n]|{_ESCAPE})*'|"(?:[^"\\\n]|{_ESCAPE})*")(?![\w'"])
    )+""",
    re.VERBOSE,
)


def unknown_service(category: str, service: str) -> str:
    return f"Cannot Find RPC Service: {category}.{service}"


def result_to_text(value: Any, form: str) -> str:
    """What an old caller gets for *value*: ``str`` of it, as 2.x did, or ``json``.

    Raises:
        EnvelopeError: JSON has no word for it.
    """
    return encode_json(value).decode() if form == "json" else str(value)


def result_from_text(text: str) -> Any:
    """The value that an old agent's *text* stands for: JSON, else a Python literal, else the text itself.

    It is a guess: the text ``1`` may have been a text.
    """
    try:
        return decode_json(text.encode())
    except (EnvelopeError, UnicodeEncodeError):
        pass
    if len(text) > _MAX_LITERAL_CHARS or _LITERAL.fullmatch(text) is None:
        return text
    try:
        return literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def fault_to_text(fault: Fault, category: str, service: str) -> str:
    """The text by which an old caller learns of *fault*."""
    if fault.type == UNKNOWN_SERVICE:
        return unknown_service(category, service)
    return f"{ERROR_MARK}{fault.type}: {fault.text}"


def fault_from_text(text: str, category: str, service: str) -> Fault | None:
    """The error that an old agent reports by *text* to a caller of *category*.*service*; None for a result.

    Only on exact match: a service may well return any other text that begins alike, or even these.
    """
    if text == BAD_TOKEN:
        advice = "the agent (py-servicebus 2.x) does not know our token; do secret_token, date and time zone agree?"
        return Fault(REFUSED, f"signature: {advice}")
    if text == unknown_service(category, service):
        return Fault(UNKNOWN_SERVICE, text)
    return None
