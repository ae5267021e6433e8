"""What is wrong with a document that has not the shape of ours: the words for the log and for the answer.

Only read when a document is refused already. It looks at the first few tags, whatever was sent, so that garbage costs
no more than an envelope; and it parses nothing, for the reason stated in ``xmlshape``.
"""

from __future__ import annotations

import re

from servicebus.errors import EnvelopeError
from servicebus.wire.printable import printable
from servicebus.wire.xmlshape import ATTEMPT, CONTEXT, CONTRACT, DUE, ID, MAX_NUMBER, NUMBER, STREAM, TOKEN

__all__ = ["why_misshapen"]

_CHILDREN = {
    "event": ("id", "token", "category", "service", "context", "params"),
    "response": ("id", "token", "status", "message", "fault"),
    "fault": ("text", "trace", "data"),
}
_PAYLOADS = ("params", "message")
_LEVELS = {"event": 2, "response": 3}
_MAX_TAGS = 40
_MAX_HEAD_BYTES = 8 * 1024
_MAX_ATTRIBUTES_BYTES = 1000  # the search for them takes quadratic time at worst
_SHOWN = 40

_MARKUP = re.compile(
    rb"<!\[CDATA\[|<(?P<other>[!?][^ \t\r\n>]{0,20})"
    rb"|<(?P<close>/?)(?P<name>[^ \t\r\n<>/!?]+)(?P<attributes>(?:[ \t\r\n/][^<>]*)?)>(?P<text>[^<]*)"
)
_ATTRIBUTE = re.compile(rb"""([^ \t\r\n=<>"']+)[ \t\r\n]*=[ \t\r\n]*("[^"<]*"|'[^'<]*')""")
_NUMBER_WORDS = f"a number from 0 to {MAX_NUMBER} without sign or leading zero"
_WORDS = {
    "version": (b"2", "'2'"),
    "kind": (b"call|message|control|event", "call, message, control or event"),
    "sent": (NUMBER, _NUMBER_WORDS),
    "ttl": (NUMBER, _NUMBER_WORDS),
    "attempt": (ATTEMPT, "a number from 2 to 999999999 without sign or leading zero; the first is not written"),
    "due": (DUE, f"a number from 1 to {MAX_NUMBER} without sign or leading zero"),
    "contract": (CONTRACT, "24 lower-case hex digits"),
    "stream": (
        STREAM,
        "two or three numbers with commas: items and bytes from 1, and a position; then open or nothing",
    ),
    "retry-after": (NUMBER, _NUMBER_WORDS),
    "clock": (NUMBER, _NUMBER_WORDS),
    "type": (rb"[^<]+", "a word"),
    "id": (ID, "<16 lower-case hex digits>-<count from 1>"),
    "token": (TOKEN, "<key id>:<hex digits>"),
    "status": (b"ok|fault", "ok or fault"),
    "context": (CONTEXT, "a JSON object of 8 to 4096 printable ASCII characters without & < >"),
}
_ATTRIBUTES = {
    "event": ("version", "node", "kind", "sent", "ttl", "reply", "attempt", "due", "contract", "stream"),
    "response": ("version", "attempt"),
    "fault": ("type", "retry-after", "clock"),
}
_OPTIONAL = ("attempt", "due", "contract", "stream", "retry-after", "clock")
_OPTIONAL_CHILDREN = ("context", "message", "fault")
_SECRET = ("context",)
"""What may hold tokens is not shown."""


def why_misshapen(body: bytes, root: str) -> EnvelopeError:
    """The error, ``dtd``, ``too-deep`` or ``malformed``, for a *body* that has not the shape of <*root*>."""
    head = body[:_MAX_HEAD_BYTES]
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in head[:4]:
        return _malformed("it is not UTF-8 but UTF-16, UTF-32 or no text at all")
    if head.startswith(b"\xef\xbb\xbf"):
        return _malformed("it begins with a byte order mark")
    start = head.find(b"?>") + 2 if head.startswith(b"<?xml ") else 0
    declared = re.search(rb"encoding=.([^\"']*)", head[:start])
    if declared and declared[1].upper() != b"UTF-8":
        return _malformed(f"its encoding is {_text(declared[1])!r}, not UTF-8")
    if not head[start:].lstrip(b" \t\r\n").startswith(b"<"):
        return _malformed("it is not XML")
    return _first_error(head, start, root) or _malformed(f"it has not the shape of <{root}>")


def _first_error(head: bytes, start: int, root: str) -> EnvelopeError | None:
    path: list[str] = []
    seen: list[str] = []
    for number, tag in enumerate(_MARKUP.finditer(head, start)):
        if tag["other"] is not None:
            return _no_element(tag["other"])
        if tag["name"] is None or number == _MAX_TAGS:  # the payload begins, or this leads nowhere
            break
        name = printable(_text(tag["name"]))
        if tag["close"]:
            if name in _PAYLOADS:
                return _malformed(f"<{name}> holds no CDATA")
            path = path[:-1]
            continue
        error = _misplaced(name, path, seen, root) or _bad_values(name, tag["attributes"], tag["text"])
        if error:
            return error
        seen.append(name)
        if not tag["attributes"].endswith(b"/"):
            path.append(name)
    return _missing(seen, root)


def _no_element(markup: bytes) -> EnvelopeError:
    if markup.upper().startswith(b"!DOCTYPE"):
        return EnvelopeError("dtd", "an envelope has no document type and no entities of its own")
    return _malformed("a comment, processing instruction or declaration has no place in an envelope")


def _misplaced(name: str, path: list[str], seen: list[str], root: str) -> EnvelopeError | None:
    if not path:
        return None if not seen and name == root else _malformed(f"the root is <{name}>, not <{root}>")
    if len(path) >= _LEVELS[root]:
        return EnvelopeError("too-deep", f"<{name}> inside <{'><'.join(path)}>")
    if name not in _CHILDREN.get(path[-1], ()):
        return _malformed(f"<{name}> is not known inside <{path[-1]}>")
    if name in seen:
        return _malformed(f"<{name}> is there twice")
    return None


def _bad_values(name: str, attributes: bytes, text: bytes) -> EnvelopeError | None:
    known = _ATTRIBUTES.get(name, ())
    found = {_text(key): value[1:-1] for key, value in _ATTRIBUTE.findall(attributes[:_MAX_ATTRIBUTES_BYTES])}
    for key, value in found.items():
        if key not in known:
            return _malformed(f"<{name}> has an attribute {key!r} that is not known")
        if _is_wrong(key, value):
            return _malformed(f"{key} {_text(value)!r} is not {_WORDS[key][1]}")
    missing = [key for key in known if key not in found and key not in _OPTIONAL]
    if missing:
        return _malformed(f"<{name}> has no attribute {missing[0]!r}")
    if list(found) != [key for key in known if key in found]:
        return _malformed(f"the attributes of <{name}> are not in the order {', '.join(known)}")
    if b"'" in attributes and attributes.count(b'"') < 2 * len(found):
        return _malformed(f"the attributes of <{name}> stand in single quotes")
    if name in _PAYLOADS and text:
        return _malformed(f"<{name}> does not begin with CDATA")
    if _is_wrong(name, text):
        shown = "" if name in _SECRET else f" {_text(text)!r}"
        return _malformed(f"{name}{shown} is not {_WORDS[name][1]}")
    return None


def _missing(seen: list[str], root: str) -> EnvelopeError | None:
    if not seen:
        return None
    wanted = [
        name for name in _CHILDREN[root] if name not in _OPTIONAL_CHILDREN or (name == "context" and name in seen)
    ]
    for name in wanted:
        if name not in seen:
            return _malformed(f"<{root}> has no <{name}>, or it stands behind the payload")
    if [name for name in seen if name in wanted] != wanted:
        return _malformed(f"the elements of <{root}> are not in the order {', '.join(_CHILDREN[root])}")
    return None


def _is_wrong(key: str, value: bytes) -> bool:
    return key in _WORDS and re.fullmatch(_WORDS[key][0], value) is None


def _text(raw: bytes) -> str:
    return raw[:_SHOWN].decode("utf-8", "replace")


def _malformed(detail: str) -> EnvelopeError:
    return EnvelopeError("malformed", detail)
