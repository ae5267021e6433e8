"""The shape of the two documents, checked on bytes before lxml sees them.

Why not leave it to lxml: libxml2 keeps every element and attribute name that it ever parsed in one table per thread
and never lets go of it (2,000 hostile documents of 40 KB: 78 MB for good), so names that are not ours must not reach
it. And as a document type, a comment or a processing instruction has no place in this shape, none is ever parsed.

Attributes and elements have one order each, so that what was matched is also known to be complete. Every pattern takes
linear time: wherever a match can go on in two ways, the next byte decides which.
"""

from __future__ import annotations

import re

__all__ = [
    "ATTEMPT",
    "CDATA_END",
    "CDATA_START",
    "CONTEXT",
    "CONTRACT",
    "DUE",
    "EVENT_END",
    "EVENT_HEAD",
    "EVENT_TAIL",
    "ID",
    "MAX_ATTEMPT",
    "MAX_NUMBER",
    "NUMBER",
    "PLAIN_EVENT",
    "PLAIN_EVENT_OF_MORE",
    "PLAIN_RESPONSE",
    "PLAIN_RESPONSE_AGAIN",
    "RESPONSE_END",
    "RESPONSE_HEAD",
    "RESPONSE_TAIL",
    "STREAM",
    "TOKEN",
]

CDATA_START = b"<![CDATA["
CDATA_END = b"]]>"

ID = rb"[0-9a-f]{16}-[1-9][0-9]{0,17}"
TOKEN = rb"[0-9A-Za-z:._-]{0,255}"
# One way to write each number: no sign, no leading zero. 15 digits of milliseconds reach to the year 33658.
ATTEMPT = rb"(?:[2-9]|[1-9][0-9]{1,8})"
"""The first attempt is not written: there is one way to write each."""
MAX_ATTEMPT = 10**9 - 1
NUMBER = rb"(?:0|[1-9][0-9]{0,14})"
MAX_NUMBER = 10**15 - 1
DUE = rb"[1-9][0-9]{0,14}"
CONTRACT = rb"[0-9a-f]{24}"
"""The hash of what a caller was built against (servicebus.contracts)."""
CONTEXT = rb"\{[ -%'-;=?-~]{6,4094}\}"
"""A JSON object, printable ASCII without what XML would have to escape; its pairs are read behind the signature."""

STREAM = rb"[1-9][0-9]{0,8},[1-9][0-9]{0,8}(?:,(?:0|[1-9][0-9]{0,14}))?(?:,open)?"
"""The terms of a stream (servicebus.wire.streams)."""

# _ is the white space of XML: the \s of Python knows more of it.
_ = rb"[ \t\r\n]*"
_PROLOG = rb'(?:<\?xml version="1\.0"(?: encoding="(?:UTF-8|utf-8)")?\?>)?' + _


def _start(name: bytes, *attributes: bytes, optional: tuple[bytes, ...] = ()) -> bytes:
    needed = (rb"[ \t\r\n]+" + one for one in attributes)
    perhaps = (rb"(?:[ \t\r\n]+" + one + b")?" for one in optional)
    return b"<" + name + b"".join(needed) + b"".join(perhaps) + _ + b">" + _


def _attribute(name: bytes, value: bytes = rb'[^"<]*') -> bytes:
    return name + b'="' + value + b'"'


def _element(name: bytes, content: bytes = rb"[^<]*") -> bytes:
    return b"<" + name + b">" + content + b"</" + name + b">" + _


EVENT_HEAD = re.compile(
    _PROLOG
    + _start(
        b"event",
        _attribute(b"version", b"2"),
        _attribute(b"node"),
        _attribute(b"kind", b"(?:call|message|control|event)"),
        _attribute(b"sent", NUMBER),
        _attribute(b"ttl", NUMBER),
        _attribute(b"reply"),
        optional=(
            _attribute(b"attempt", ATTEMPT),
            _attribute(b"due", DUE),
            _attribute(b"contract", CONTRACT),
            _attribute(b"stream", STREAM),
        ),
    )
    + _element(b"id", ID)
    + _element(b"token", TOKEN)
    + _element(b"category")
    + _element(b"service")
    + b"(?:"
    + _element(b"context", CONTEXT)
    + b")?"
    + rb"(?=<params><!\[CDATA\[)"
)
"""Everything up to the params, which do not go through lxml: they are signed as the exact bytes received."""

# What needs no XML to be read: letters, digits and signs that stand for themselves in attributes and in text.
_PLAIN = rb"([0-9A-Za-z._:/+-]*)"
_USUAL_PROLOG = rb'(?:<\?xml version="1\.0"\?>\n)?'


def _plain_event(marks: bytes = b"", context: bytes = b"") -> re.Pattern[bytes]:
    return re.compile(
        _USUAL_PROLOG + rb'<event version="2" node="' + _PLAIN + rb'" kind="(call|message|control|event)" sent="('
        + NUMBER + rb')" ttl="(' + NUMBER + rb')" reply="' + _PLAIN + rb'"' + marks + rb"><id>(" + ID
        + rb")</id><token>(" + TOKEN + rb")</token><category>" + _PLAIN + rb"</category><service>" + _PLAIN
        + rb"</service>" + context + rb"<params><!\[CDATA\["
    )  # fmt: skip


PLAIN_EVENT = _plain_event()
"""A subset of EVENT_HEAD, up to the first byte of the params: what our own writer makes of plain names, but for delayed
messages. Its groups are
what lxml would give, at a third of the cost; and lxml lets go of the interpreter for each document, and then waits
until it gets it back from whichever thread took it."""

PLAIN_EVENT_OF_MORE = _plain_event(
    rb'(?: contract="(' + CONTRACT + rb')")?(?: stream="(' + STREAM + rb')")?',
    rb"(?:<context>(" + CONTEXT + rb")</context>)?",
)
"""The same of a caller that knows the contract of the service, sends a context, or asks for a stream."""

EVENT_END = b"]]></params></event>"
EVENT_TAIL = re.compile(rb"\]\]></params>" + _ + b"</event>" + _ + rb"\Z")

_FAULT = (
    b"<fault"
    + rb"[ \t\r\n]+"
    + _attribute(b"type", rb'[^"<]+')
    + rb"(?:[ \t\r\n]+"
    + _attribute(b"retry-after", NUMBER)
    + rb")?(?:[ \t\r\n]+"
    + _attribute(b"clock", NUMBER)
    + b")?"
    + _
    + b">"
    + _
    + _element(b"text")
    + b"(?:"
    + _element(b"trace")
    + b")?(?:"
    + _element(b"data")
    + b")?</fault>"
    + _
    + b"</response>"
    + _
    + rb"\Z"
)
RESPONSE_HEAD = re.compile(
    _PROLOG
    + _start(b"response", _attribute(b"version", b"2"), optional=(_attribute(b"attempt", ATTEMPT),))
    + _element(b"id", ID)
    + _element(b"token", TOKEN)
    + b"<status>(?:ok</status>"
    + _
    + rb"(?P<message>(?=<message><!\[CDATA\[))|fault</status>"
    + _
    + _FAULT
    + b")"
)
"""Up to the message, which does not go through lxml; or the whole of a reply that is a fault."""


def _plain_response(attempt: bytes) -> re.Pattern[bytes]:
    return re.compile(
        _USUAL_PROLOG + rb'<response version="2"' + attempt + rb"><id>(" + ID + rb")</id><token>(" + TOKEN
        + rb")</token><status>ok</status><message><!\[CDATA\["
    )  # fmt: skip


PLAIN_RESPONSE = _plain_response(b"")
"""A subset of RESPONSE_HEAD, up to the first byte of the message; see PLAIN_EVENT. What answers a first attempt."""

PLAIN_RESPONSE_AGAIN = _plain_response(rb' attempt="(' + ATTEMPT + rb')"')
"""What answers a later one. A Sender that has to fail over should not have to import lxml first."""

RESPONSE_END = b"]]></message></response>"
RESPONSE_TAIL = re.compile(rb"\]\]></message>" + _ + b"</response>" + _ + rb"\Z")
