"""JSON text <-> values by the standard library: strict, compact, of bounded depth, and fit for a CDATA section.

The same on every Python. ``wire/jsontext`` is what the others import.
"""

from __future__ import annotations

import json
import json.encoder
import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, NoReturn

from servicebus._secret import ENCRYPTED, Secret, SecretText, hidden_at, revealed, secret_text
from servicebus.errors import EnvelopeError
from servicebus.wire.printable import describe

__all__ = ["LONG_BYTES", "MAX_JSON_DEPTH", "HoldsSecret", "check_depth", "decode", "encode", "is_shallow"]

MAX_JSON_DEPTH = 200
"""Deep enough for data, and far from the recursion limit of every supported Python, whatever stack is in use."""

_MAX_PLACES = 100_000
LONG_BYTES = 4096
"""Counting the brackets of a longer text costs more than a look at what it says."""
_FEW_PARTS = 64
_ATOMS = frozenset({str, int, float, bool, type(None)})

# Everything but brackets goes, then each becomes a step up (1) or down (255, that is -1 as signed byte).
_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_STEPS = bytes(1 if byte in b"[{" else 255 for byte in range(256))


class HoldsSecret(EnvelopeError):
    """Raised by ``encode()`` for a value with a ``Secret`` in it."""

    def __init__(self, where: str):
        super().__init__("unencodable", f"a Secret at {where} only travels encrypted, which this cannot be")


def encode(hides_secrets: bool, value: Any) -> bytes:
    """*value* as JSON text: compact, ASCII, without ``]]>``.

    As in the standard library tuples become arrays, and keys that are numbers, booleans or None become text. With
    *hides_secrets* a value with a Secret in it becomes a SecretText.

    Raises:
        EnvelopeError: ``unencodable`` for NaN, infinities, and every type that JSON has no word for, named with its
            place, a Secret among them (HoldsSecret); ``too-deep`` past ``MAX_JSON_DEPTH``, and so for a value that
            holds itself.
    """
    try:
        text = "".join(_encode_chunks(value, 0))
    except BaseException as error:
        if not isinstance(error, Exception) and error.__traceback__.tb_next is None:  # type: ignore[union-attr]
            raise  # no method of the value's raised it: a signal
        # From Python 3.12 on the encoder asks a NaN for its text, and a program's own float may raise anything.
        try:
            culprit = _culprit(value)
        except HoldsSecret:
            if not hides_secrets:
                raise
            plain, places = revealed(value)
            return secret_text(encode(False, plain), () if () in places else places)
        if culprit:
            raise EnvelopeError("unencodable", culprit) from None
        if isinstance(error, RecursionError):
            raise EnvelopeError("too-deep", f"nested deeper than {MAX_JSON_DEPTH}, or the value holds itself") from None
        if isinstance(error, (TypeError, ValueError)):
            raise EnvelopeError("unencodable", describe(error)) from None
        raise
    # ">" can only stand inside a string, where JSON lets us write it as an escape. One byte is found sixty times faster
    # than three, and most texts hold their first bracket at their end.
    bracket = text.find("]")
    if bracket >= 0 and text.find("]]>", bracket) >= 0:
        text = text.replace("]]>", "]]\\u003e")
    raw = text.encode("ascii")
    # Depth is at most the count of opening brackets: settles all small texts.
    is_long = len(raw) > LONG_BYTES
    if not is_shallow(value) if is_long else raw.count(b"[") + raw.count(b"{") > MAX_JSON_DEPTH:
        check_depth(raw)
    return raw


def decode(hides_secrets: bool, raw: bytes) -> Any:
    """The value of JSON text in UTF-8. With *hides_secrets* there is a Secret at each place that a SecretText names.

    Raises:
        EnvelopeError: ``too-deep`` past ``MAX_JSON_DEPTH``; ``bad-json`` for everything else that is not JSON, NaN and
            Infinity and numbers of more than 4300 digits included.
    """
    is_long = len(raw) > LONG_BYTES
    # Depth is at most the count of opening brackets: settles all small texts.
    if not is_long and raw.count(b"[") + raw.count(b"{") > MAX_JSON_DEPTH:
        check_depth(raw)
    try:
        text = raw.decode("utf-8")
        try:
            value, end = _DECODER.raw_decode(text)
        except json.JSONDecodeError:
            end = -1
        # raw_decode() knows no white space around the value and is three times faster than decode(), which does.
        if end != len(text):
            value = _DECODER.decode(text)
    except RecursionError:
        raise EnvelopeError("too-deep", f"JSON nested deeper than {MAX_JSON_DEPTH}") from None
    except ValueError as error:
        if raw.startswith(ENCRYPTED):
            raise EnvelopeError(
                "encryption", "it is encrypted, and there are no keys for it (encryption.keys)"
            ) from None
        if is_long:  # from Python 3.13 on, deep nesting that breaks off is no RecursionError
            check_depth(raw)
        raise EnvelopeError("bad-json", _without_data(error)) from None
    if is_long and not is_shallow(value):
        check_depth(raw)
    return hidden_at(value, raw.places) if hides_secrets and type(raw) is SecretText else value


def _no_word_for(value: object) -> NoReturn:
    raise TypeError(f"JSON has no word for {_type_name(value)}")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def _make_encode() -> Callable[[Any, int], Sequence[str]]:
    """Prepare the C encoder once, which ``JSONEncoder`` does for every value (0.4 us instead of 1.1).

    It takes the value, and the level of indentation: 0.
    """
    plain = json.JSONEncoder(
        separators=(",", ":"), allow_nan=False, check_circular=False, ensure_ascii=True, default=_no_word_for
    )
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:  # another Python than CPython
        return lambda value, _level: (plain.encode(value),)
    escape = json.encoder.encode_basestring_ascii
    encode: Callable[[Any, int], Sequence[str]] = make(None, _no_word_for, escape, None, ":", ",", False, False, False)
    return encode


_encode_chunks = _make_encode()


def is_shallow(value: Any) -> bool:
    """Whether *value* is an atom, or holds a few atoms and nothing else. False says nothing."""
    kind = type(value)
    if kind is dict:
        value = value.values()
    elif kind is not list and kind is not tuple:
        return kind in _ATOMS
    return len(value) <= _FEW_PARTS and all(type(part) in _ATOMS for part in value)


def check_depth(raw: bytes) -> None:
    """Raise EnvelopeError ``too-deep`` if JSON text is nested deeper than ``MAX_JSON_DEPTH``."""
    if raw.count(b"[") + raw.count(b"{") <= MAX_JSON_DEPTH:
        return
    if b"\\" in raw:
        raw = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    skeleton = b"".join(raw.split(b'"')[::2]).translate(_STEPS, _NOT_BRACKETS)
    if max(accumulate(memoryview(skeleton).cast("b")), default=0) > MAX_JSON_DEPTH:
        raise EnvelopeError("too-deep", f"JSON nested deeper than {MAX_JSON_DEPTH}")


def _without_data(error: ValueError) -> str:
    """The error's own words without the payload: it may be secret."""
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 at byte {error.start}"
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos}"
    return str(error)


def _culprit(value: Any) -> str:
    """Find what JSON has no word for, and where: ``a set at params["a"][3]``. Only called when encoding failed.

    Asks the built-in types alone: the methods of a program's own may raise, end the thread or block.
    """
    stack = [("value", value, 0)]
    # Bounded: a small value that holds its parts many times over can have more places than there are atoms.
    for _ in range(_MAX_PLACES):
        if not stack:
            break
        where, item, depth = stack.pop()
        kind = type(item)
        if issubclass(kind, dict) and depth <= MAX_JSON_DEPTH:
            for key in dict.keys(item):
                if not issubclass(type(key), (str, int, float, type(None))):
                    return f"JSON has no word for {_type_name(key)} as a key of {where}"
            stack += [(f"{where}[{_key_text(key)}]", child, depth + 1) for key, child in dict.items(item)]
        elif issubclass(kind, (list, tuple)) and depth <= MAX_JSON_DEPTH:
            parts = (list if issubclass(kind, list) else tuple).__iter__(item)
            stack += [(f"{where}[{index}]", child, depth + 1) for index, child in enumerate(parts)]
        elif issubclass(kind, float) and not math.isfinite(item):
            return f"JSON has no word for {float.__repr__(item)} at {where}"
        elif issubclass(kind, Secret):
            raise HoldsSecret(where) from None
        elif not issubclass(kind, (str, int, float, dict, list, tuple, type(None))):
            return f"JSON has no word for {_type_name(item)} at {where}{_hint(kind)}"
    return ""


def _hint(kind: type) -> str:
    """What to write in place of a value of a class that many programs have."""
    names = {
        name for each in type.__dict__["__mro__"].__get__(kind) for name in type.__dict__["__dict__"].__get__(each)
    }
    if "model_dump" in names:
        return '; write its .model_dump(mode="json")'
    return "; write its dataclasses.asdict()" if "__dataclass_fields__" in names else ""


def _key_text(key: Any) -> str:
    known: Any = next((each for each in (bool, str, int, float) if issubclass(type(key), each)), type(None))
    try:
        return str(known.__repr__(key))
    except ValueError:  # an int of more than 4300 digits
        return "..."


def _type_name(item: object) -> str:
    module, name = (type.__dict__[each].__get__(type(item)) for each in ("__module__", "__qualname__"))
    return name if type(module) is not str or module == "builtins" else f"{module}.{name}"
