"""Exception <-> fault: how an error of the node or of its service crosses the wire."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from servicebus.errors import (
    CallInterrupted,
    CallRefused,
    CallTimeout,
    ContractMismatch,
    EnvelopeError,
    InvalidParam,
    InvalidParams,
    PermissionDenied,
    RemoteError,
    ServiceBusError,
    ServiceBusy,
    UnknownService,
)
from servicebus.wire.jsontext import decode_json, encode_json
from servicebus.wire.printable import printable

__all__ = [
    "BUSY",
    "CONTRACT_MISMATCH",
    "DEFECT",
    "EXPIRED",
    "HIDDEN_TEXT",
    "INTERRUPTED",
    "INVALID_PARAMS",
    "IS_STREAM",
    "NOT_RESUMABLE",
    "NOT_RUN",
    "NO_STREAM",
    "PERMISSION_DENIED",
    "REFUSED",
    "RESERVED",
    "STOPPING",
    "UNKNOWN_SERVICE",
    "Fault",
    "declare",
    "denied",
    "describe",
    "error_from_fault",
    "fault_from_exception",
    "without_text",
]

BUSY = "busy"
DEFECT = "defect"
"""Reason of a refusal: something raised where nothing should."""
EXPIRED = "expired"
INTERRUPTED = "interrupted"
INVALID_PARAMS = "invalid-params"
"""Reason of a refusal: the params are not what the signature of the service says."""
CONTRACT_MISMATCH = "contract-mismatch"
"""The same, of a caller that was built against another version of the service."""
IS_STREAM, NO_STREAM, NOT_RESUMABLE = "is-stream", "no-stream", "not-resumable"
"""Reasons of a refusal: a service that answers a stream was called, and the other way round; a stream cannot go on."""
PERMISSION_DENIED = "permission-denied"
"""Reason of a refusal: the caller may not do this."""
REFUSED = "refused"
STOPPING = "stopping"
UNKNOWN_SERVICE = "unknown-service"
NOT_RUN = frozenset({BUSY, EXPIRED, REFUSED, STOPPING, UNKNOWN_SERVICE})
"""The node did not run this attempt. It proves nothing about the other attempts of the call."""
RESERVED = frozenset({BUSY, EXPIRED, INTERRUPTED, REFUSED, STOPPING, UNKNOWN_SERVICE})

MAX_TYPE_CHARS = 200
MAX_RETRY_AFTER_MS = 24 * 3600 * 1000
MAX_CLOCK_MS = 10**15 - 1
MAX_TEXT_BYTES = 4 * 1024
MAX_TRACE_BYTES = 16 * 1024
_MAX_WHY_BYTES = 1024
_MAX_CAUSES = 5
HIDDEN_TEXT = "(its text is not shown: what was asked for is encrypted)"

# What XML 1.0 cannot carry, not even as a character reference (https://www.w3.org/TR/xml/#charsets). As the negation of
# what it can carry, it would take ten times as long to compile.
NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a call has no result.

    ``type`` is one of ``RESERVED`` (of the node itself) or the name of the class that the service raised. What XML
    cannot carry is replaced by U+FFFD on construction, so that the signature covers what the other side will read.
    """

    type: str
    text: str
    trace: str | None = None
    retry_after_ms: int | None = None
    clock_ms: int | None = None
    """Of an ``expired``: the Unix time, in milliseconds, by which the node judged the request."""
    data: str | None = None
    """JSON text: the fields of an error that the service declares, or what is wrong with the params."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "type", _clean_type(self.type))
        object.__setattr__(self, "text", NOT_XML.sub("\ufffd", self.text))
        # No trace and an empty one look the same on the wire, so they are the same here.
        object.__setattr__(self, "trace", NOT_XML.sub("\ufffd", self.trace) if self.trace else None)
        if self.retry_after_ms is not None:
            object.__setattr__(self, "retry_after_ms", min(max(int(self.retry_after_ms), 0), MAX_RETRY_AFTER_MS))
        if self.clock_ms is not None:
            object.__setattr__(self, "clock_ms", min(max(int(self.clock_ms), 0), MAX_CLOCK_MS))
        object.__setattr__(self, "data", NOT_XML.sub("\ufffd", self.data) if self.data else None)


def fault_from_exception(exc: BaseException, with_trace: bool) -> Fault:
    """Describe what a service raised: text cut to 4 KiB, the end of the trace to 16 KiB (UTF-8).

    A class that bears a reserved name is named with its module, so that no service can report errors of the node.
    """
    name = type(exc).__name__
    if name in RESERVED:
        name = f"{type(exc).__module__}.{name}"
    trace = _trace_of(exc) if with_trace else None
    return Fault(name, _cut(_text_of(exc), MAX_TEXT_BYTES), trace and _cut_head(trace, MAX_TRACE_BYTES))


def denied(caller: str, rule: str, doing: str, why: str = "") -> Fault:
    """That *caller* ("" for a peer with a secret of the bus) may not do what it asks for, by *rule*.

    Args:
        doing: such as ``call NODE.category.name``.
        why: what the rule says; cut to 1 KiB.
    """
    who = f"caller {caller!r}" if caller else "a peer with the secret of the bus"
    text = f"{PERMISSION_DENIED}: {who} may not {doing}, by {rule}"
    told = encode_json({"caller": caller, "rule": rule}).decode()
    return Fault(REFUSED, f"{text}: {_cut(why, _MAX_WHY_BYTES)}" if why else text, data=told)


def without_text(error: BaseException) -> BaseException:
    """What is shown in place of *error* where its text may hold a secret: its class, traceback and causes."""
    return _without_text(error, 0)


def _without_text(error: BaseException, depth: int) -> BaseException:
    name, module = (type.__dict__[each].__get__(type(error)) for each in ("__name__", "__module__"))
    shown: BaseException = type(str(name), (Exception,), {"__module__": module})(HIDDEN_TEXT)
    shown.__traceback__ = error.__traceback__
    if depth < _MAX_CAUSES:
        for which in ("__cause__", "__context__"):
            if (other := getattr(error, which)) is not None:
                setattr(shown, which, _without_text(other, depth + 1))
    shown.__suppress_context__ = error.__suppress_context__
    return shown


_declared: dict[tuple[str, str], Callable[[str], Exception]] = {}


def declare(service: str, type: str, make: Callable[[str], Exception]) -> None:
    """From now on a fault *type* of *service* (``category.name``) is raised as what *make* returns for its data.

    It raises ValueError for data that it cannot use; the caller then gets a RemoteError, as for every other class.
    """
    _declared[service, type] = make


def error_from_fault(fault: Fault, address: str, waited_s: float = 0.0) -> Exception:
    """The exception that the caller of *address* gets; *waited_s* is how long it has waited.

    Its text is printable, since it ends on terminals and in logs; its attributes have the text as it came. An error
    that the service declares, and that this program knows, is of its own class, with the RemoteError as its cause.
    """
    make = _ERRORS.get(fault.type)
    if make is None:
        error: ServiceBusError = RemoteError(address, fault.type, fault.text, fault.trace)
    else:
        error = make(fault, address, waited_s)
    error.args = (printable(str(error), keep_newlines=True),)
    if make is None and fault.data is not None and _declared:
        return _declared_error(fault, address, error)
    return error


def _declared_error(fault: Fault, address: str, remote: Exception) -> Exception:
    make = _declared.get((".".join(address.rsplit(".", 2)[1:]), fault.type))
    if make is None or fault.data is None:
        return remote
    try:
        error = make(fault.data)
    except Exception:  # by pydantic, or by a class of the program: another version of it, perhaps
        return remote
    error.__cause__ = remote
    return error


def _busy(fault: Fault, address: str, waited_s: float) -> ServiceBusError:
    return ServiceBusy(address, None if fault.retry_after_ms is None else fault.retry_after_ms / 1000, fault.text)


def _refused(fault: Fault, address: str, waited_s: float) -> ServiceBusError:
    reason, _, detail = fault.text.partition(": ")
    if reason in (INVALID_PARAMS, CONTRACT_MISMATCH) and fault.data is not None:
        with suppress(ValueError, TypeError, LookupError, EnvelopeError):
            told = decode_json(fault.data.encode())
            errors = [InvalidParam(tuple(place), str(message), str(kind)) for place, message, kind in told["errors"]]
            if reason == CONTRACT_MISMATCH:
                return ContractMismatch(address, errors, detail, int(told["count"]), present=dict(told["present"]))
            return InvalidParams(address, errors, detail, int(told["count"]))
    if reason == PERMISSION_DENIED and fault.data is not None:
        with suppress(ValueError, TypeError, LookupError, EnvelopeError):
            told = decode_json(fault.data.encode())
            return PermissionDenied(address, detail, str(told["caller"]), str(told["rule"]))
    return CallRefused(address, reason, detail)


_ERRORS: dict[str, Callable[[Fault, str, float], ServiceBusError]] = {
    BUSY: _busy,
    STOPPING: _busy,
    REFUSED: _refused,
    UNKNOWN_SERVICE: lambda fault, address, waited_s: UnknownService(address, fault.text.partition("; ")[2]),
    INTERRUPTED: lambda fault, address, waited_s: CallInterrupted(address, fault.text),
    EXPIRED: lambda fault, address, waited_s: CallTimeout(address, waited_s, [("the node", fault.text)]),
}


def _clean_type(name: str) -> str:
    kept = "".join(char if char.isprintable() and char != " " else "?" for char in name[:MAX_TYPE_CHARS])
    return kept or "?"


def describe(exc: BaseException) -> str:
    """*exc* by its class and its text."""
    text = _text_of(exc)
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__


def _text_of(exc: BaseException) -> str:
    try:
        return str(exc)
    except BaseException as broken:  # a user's __str__ may raise whatever it likes
        return f"(its text could not be made: {type(broken).__name__})"


def _trace_of(exc: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(exc))
    except BaseException as broken:  # it asks for text of its causes and notes, too
        return f"(its traceback could not be made: {type(broken).__name__})"


def _cut(text: str, max_bytes: int) -> str:
    raw = text.encode("utf-8", "replace")
    if len(raw) <= max_bytes:
        return text
    return raw[: max_bytes - 3].decode("utf-8", "ignore") + "\u2026"


def _cut_head(text: str, max_bytes: int) -> str:
    raw = text.encode("utf-8", "replace")
    if len(raw) <= max_bytes:
        return text
    return "\u2026" + raw[-(max_bytes - 3) :].decode("utf-8", "ignore")
