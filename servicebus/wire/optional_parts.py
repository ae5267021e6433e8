"""What an envelope has only sometimes, as it is written. All raise EnvelopeError: no receiver would accept it."""

from __future__ import annotations

import re

from servicebus.errors import EnvelopeError
from servicebus.wire.envelope import CALL, EVENT, MESSAGE, Kind, More
from servicebus.wire.xmlshape import CONTEXT, CONTRACT, MAX_ATTEMPT, MAX_NUMBER, STREAM

DELAYED = (MESSAGE.value, EVENT.value)
"""The kinds that may be due later."""
_CONTRACT = re.compile(CONTRACT.decode())
_CONTEXT = re.compile(CONTEXT.decode())
_STREAM = re.compile(STREAM.decode())


def written_parts(more: More, kind: Kind) -> tuple[str, str]:
    """What *more* adds to the attributes of an envelope, and to its elements."""
    attempt, due_ms, contract, context, stream = more
    marks = attempt_mark(attempt)
    if due_ms:
        marks += due_mark(due_ms, kind)
    if contract:
        marks += contract_mark(contract)
    if stream:
        marks += stream_mark(stream, kind)
    return marks, context_element(context) if context else ""


def attempt_mark(attempt: int) -> str:
    if not 0 < attempt <= MAX_ATTEMPT:
        raise EnvelopeError("unencodable", f"attempt {attempt} is not from 1 to {MAX_ATTEMPT}")
    return "" if attempt == 1 else f' attempt="{attempt}"'


def due_mark(due_ms: int, kind: Kind) -> str:
    if not 0 < due_ms <= MAX_NUMBER or kind.value not in DELAYED:
        raise EnvelopeError("unencodable", f"a {kind.value} cannot be due at {due_ms}")
    return f' due="{due_ms}"'


def contract_mark(contract: str) -> str:
    if _CONTRACT.fullmatch(contract) is None:
        raise EnvelopeError("unencodable", f"{contract[:40]!r} is no hash of a contract: 24 hex digits")
    return f' contract="{contract}"'


def context_element(context: str) -> str:
    if _CONTEXT.fullmatch(context) is None:
        raise EnvelopeError("unencodable", f"a context of {len(context)} characters does not have the form of one")
    return f"<context>{context}</context>"


def stream_mark(stream: str, kind: Kind) -> str:
    if _STREAM.fullmatch(stream) is None or kind is not CALL:
        raise EnvelopeError("unencodable", f"a {kind.value} has no stream {stream[:40]!r}")
    return f' stream="{stream}"'
