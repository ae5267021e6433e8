"""The shape of the two documents, checked on bytes before lxml sees them.

Why not leave it to lxml: libxml2 keeps every element and attribute name that it ever parsed in one table per thread
and never lets go of it (2,000 hostile documents of 40 KB: 78 MB for good), so names that are not ours must not reach
it. And as a document type, a comment or a processing instruction has no place in this shape, none is ever parsed.

Every pattern is linear: no two parts of it can match the same byte.
"""

from __future__ import annotations

import re

from servicebus.errors import EnvelopeError

__all__ = ["CDATA_END", "CDATA_START", "EVENT_HEAD", "EVENT_TAIL", "RESPONSE_HEAD", "RESPONSE_TAIL", "why_misshapen"]

CDATA_START = b"<![CDATA["
CDATA_END = b"]]>"

# _ is the white space of XML: the \s of Python knows more of it.
_ = rb"[ \t\r\n]*"
_PROLOG = rb'(?:<\?xml version="1\.0"(?: encoding="(?:UTF-8|utf-8)")?\?>)?' + _


def _attributes(*names: bytes) -> bytes:
    return rb"(?:[ \t\r\n]+(?:" + b"|".join(names) + rb""")=(?:"[^"<]*"|'[^'<]*'))*""" + _


def _element(name: bytes, content: bytes = rb"[^<]*") -> bytes:
    return b"<" + name + b">" + content + b"</" + name + b">" + _


EVENT_HEAD = re.compile(
    _PROLOG
    + b"<event"
    + _attributes(b"version", b"node", b"kind", b"sent", b"ttl", b"reply")
    + b">"
    + _
    + _element(b"id")
    + _element(b"token")
    + _element(b"category")
    + _element(b"service")
    + b"(?=<params><!\\[CDATA\\[)"
)
"""Everything up to the params, which never go through lxml: they are signed as the exact bytes received."""

EVENT_TAIL = re.compile(rb"\]\]></params>" + _ + b"</event>" + _ + rb"\Z")

RESPONSE_HEAD = re.compile(
    _PROLOG
    + b"<response"
    + _attributes(b"version")
    + b">"
    + _
    + _element(b"id")
    + _element(b"token")
    + _element(b"status")
    + b"(?:(?P<message>(?=<message><!\\[CDATA\\[))|(?:<fault"
    + _attributes(b"type", b"retry-after")
    + b">"
    + _
    + _element(b"text")
    + b"(?:"
    + _element(b"trace")
    + b")?</fault>"
    + _
    + b"</response>"
    + _
    + rb"\Z))"
)
"""Up to the message, or the whole of a reply that is a fault."""

RESPONSE_TAIL = re.compile(rb"\]\]></message>" + _ + b"</response>" + _ + rb"\Z")

_CHILDREN = {
    "event": ("id", "token", "category", "service", "params"),
    "response": ("id", "token", "status", "message or fault"),
    "fault": ("text", "trace"),
}
_MAX_DEPTH = {"event": 2, "response": 3}
_MAX_TAGS = 50
_MARKUP = re.compile(rb"<!\[CDATA\[|<(?P<close>/?)(?P<name>[^\s<>/!?]+)[^<>]*?(?P<empty>/?)>|<(?P<other>[!?]\S{0,20})")


def why_misshapen(body: bytes, root: str) -> EnvelopeError:
    """Say what is wrong with a document that did not match. Reads a few tags only, whatever was sent."""
    if body[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in body[:4]:
        return EnvelopeError("malformed", "it is not UTF-8 but UTF-16 or UTF-32")
    if body[:3] == b"\xef\xbb\xbf":
        return EnvelopeError("malformed", "it begins with a byte order mark")
    if not body.strip():
        return EnvelopeError("malformed", "it is empty")
    return _first_fault_in_tags(body, root) or EnvelopeError("malformed", f"it has not the shape of <{root}>")


def _first_fault_in_tags(body: bytes, root: str) -> EnvelopeError | None:
    start = body.find(b"?>") + 2 if body.startswith(b'<?xml version="1.0"') else 0
    open_tags: list[str] = []
    seen: list[str] = []
    for count, tag in enumerate(_MARKUP.finditer(body, start)):
        if tag["other"]:
            return _not_an_element(tag["other"])
        if tag["name"] is None or count >= _MAX_TAGS:  # what follows is data
            return None
        name = tag["name"][:40].decode("utf-8", "replace")
        if not open_tags and not tag["close"]:
            if seen or name != root:
                return EnvelopeError("malformed", f"the root is <{name}>, not <{root}>")
        elif not tag["close"]:
            error = _misplaced(name, open_tags, seen, root)
            if error:
                return error
        if tag["close"]:
            if open_tags:
                open_tags.pop()
        elif not tag["empty"]:
            open_tags.append(name)
        seen.append(name)
    return None


def _not_an_element(markup: bytes) -> EnvelopeError:
    if markup.upper().startswith(b"!DOCTYPE"):
        return EnvelopeError("dtd", "an envelope has no document type and no entities")
    return EnvelopeError("malformed", "a comment, processing instruction or declaration has no place in an envelope")


def _misplaced(name: str, open_tags: list[str], seen: list[str], root: str) -> EnvelopeError | None:
    if len(open_tags) > _MAX_DEPTH[root] - 1:
        return EnvelopeError("too-deep", f"<{name}> inside <{open_tags[-1]}>")
    known = _CHILDREN.get(open_tags[-1])
    if known is None:
        return EnvelopeError("malformed", f"<{name}> inside <{open_tags[-1]}>")
    if name in seen:
        return EnvelopeError("malformed", f"<{name}> is there twice")
    if not any(name in words.split(" or ") for words in known):
        return EnvelopeError("malformed", f"<{name}> is not known inside <{open_tags[-1]}>")
    return None
