"""Envelope and Reply <-> signed XML. The one place that parses XML, with one hardened lxml parser per thread.

Written by format strings (0.5 us; building by lxml costs 6), read in three steps: the shape (``xmlshape``), then lxml
for all but the payload, then the values. The payload, JSON in CDATA, is cut out as bytes: it is signed as exactly these
bytes, which XML's own rules would change (CR LF becomes LF), and nobody parses it before its signature was compared.
Everything here may be called by any thread at any time.
"""

from __future__ import annotations

import re
import threading
from functools import lru_cache

from lxml import etree

from servicebus.errors import EnvelopeError
from servicebus.wire.address import name_problem
from servicebus.wire.envelope import FAULT, OK, VERSION, Envelope, Kind, Reply
from servicebus.wire.fault import Fault
from servicebus.wire.jsontext import decode_json, encode_json
from servicebus.wire.xmlshape import (
    CDATA_END,
    CDATA_START,
    EVENT_HEAD,
    EVENT_TAIL,
    RESPONSE_HEAD,
    RESPONSE_TAIL,
    why_misshapen,
)

__all__ = [
    "decode_envelope",
    "decode_json",
    "decode_reply",
    "encode_envelope",
    "encode_json",
    "encode_reply",
]

_KINDS = {kind.value: kind for kind in Kind}
_ID = re.compile(r"[0-9a-f]{16}-[1-9][0-9]{0,17}")
_MAX_NUMBER = 10**15  # milliseconds: the year 33658
_MAX_WORD_CHARS = 255  # of a reply address or token: an AMQP short string
_SPLIT = CDATA_END + CDATA_START
_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\r": "&#13;", "\n": "&#10;", "\t": "&#9;"}
_ESCAPE_TABLE = str.maketrans(_ESCAPES)


def encode_envelope(envelope: Envelope, token: str | None = None) -> bytes:
    """Give the bytes of *envelope*, with *token* in place of its own if one is given.

    Raises:
        EnvelopeError: ``unencodable`` for a name, id, address or number that ``decode_envelope`` would refuse.
    """
    e = envelope
    token = e.token if token is None else token
    node, address = _written_names(e.node, e.category, e.service)
    if not _ID.fullmatch(e.id) or not 0 <= e.sent_ms < _MAX_NUMBER or not 0 <= e.ttl_ms < _MAX_NUMBER:
        raise EnvelopeError("unencodable", f"id {e.id!r}, sent {e.sent_ms} or ttl {e.ttl_ms} is out of bounds")
    head = (
        f'<?xml version="1.0"?>\n<event version="2" node="{node}" kind="{e.kind.value}" sent="{e.sent_ms}"'
        f' ttl="{e.ttl_ms}" reply="{_written_word(e.reply)}"><id>{e.id}</id><token>{_written_word(token)}</token>'
        f"{address}<params><![CDATA["
    )
    return b"%b%b]]></params></event>" % (head.encode(), _in_cdata(e.params))


def decode_envelope(body: bytes, max_bytes: int) -> Envelope:
    """Read an envelope. Its token is not compared, its params are not parsed; nothing of it may be believed yet.

    Raises:
        EnvelopeError: ``oversized``, ``dtd``, ``too-deep`` or ``malformed``, with what is wrong. Nothing else.
    """
    _check_size(body, max_bytes)
    head = EVENT_HEAD.match(body)
    if head is None:
        raise why_misshapen(body, "event")
    start = head.end()
    params = _cdata(body, start + 8, EVENT_TAIL)
    root = _parsed(body[:start] + b"</event>")
    attributes = _attributes(root)
    id, token, category, service = [child.text or "" for child in root]
    try:
        version, node, reply = attributes["version"], attributes["node"], attributes["reply"]
        kind, sent, ttl = attributes["kind"], attributes["sent"], attributes["ttl"]
    except KeyError as missing:
        raise EnvelopeError("malformed", f"<event> has no {missing} attribute") from None
    _check_version(version)
    _check_id(id)
    _check_names(node, category, service)
    if kind not in _KINDS:
        raise EnvelopeError("malformed", f"kind {kind[:40]!r} is none of {', '.join(_KINDS)}")
    return Envelope(
        id,
        node,
        category,
        service,
        _KINDS[kind],
        _number(sent, "sent"),
        _number(ttl, "ttl"),
        _word(reply, "reply"),
        params,
        _word(token, "token"),
    )


def encode_reply(reply: Reply) -> bytes:
    """Give the bytes of *reply*: its message if its status is ok, else its fault.

    Raises:
        EnvelopeError: ``unencodable`` for an id or token that ``decode_reply`` would refuse, or a fault that is not
            there.
    """
    if not _ID.fullmatch(reply.id):
        raise EnvelopeError("unencodable", f"id {reply.id!r} is out of bounds")
    head = (
        f'<?xml version="1.0"?>\n<response version="2"><id>{reply.id}</id><token>{_written_word(reply.token)}</token>'
        f"<status>{reply.status}</status>"
    )
    if reply.status == OK:
        return b"%b<message><![CDATA[%b]]></message></response>" % (head.encode(), _in_cdata(reply.message))
    if reply.status != FAULT or reply.fault is None:
        raise EnvelopeError("unencodable", f"status {reply.status!r} with fault {reply.fault!r}")
    return f"{head}{_written_fault(reply.fault)}</response>".encode()


def decode_reply(body: bytes, max_bytes: int) -> Reply:
    """Read a reply. Its token is not compared, its message is not parsed; nothing of it may be believed yet.

    Raises:
        EnvelopeError: as ``decode_envelope``.
    """
    _check_size(body, max_bytes)
    head = RESPONSE_HEAD.match(body)
    if head is None:
        raise why_misshapen(body, "response")
    if head["message"] is None:
        return _decode_fault(body)
    start = head.end()
    message = _cdata(body, start + 9, RESPONSE_TAIL)
    root = _parsed(body[:start] + b"</response>")
    id, token, status = [child.text or "" for child in root]
    _check_head(root.get("version"), id, status, OK)
    return Reply(id, _word(token, "token"), status, message)


def _decode_fault(body: bytes) -> Reply:
    root = _parsed(body)
    children = list(root)
    id, token, status = [child.text or "" for child in children[:3]]
    _check_head(root.get("version"), id, status, FAULT)
    about = _attributes(children[3])
    kind = about.get("type", "")
    if not _word(kind, "type"):
        raise EnvelopeError("malformed", "<fault> has no type")
    retry = about.get("retry-after")
    texts = [child.text or "" for child in children[3]]
    fault = Fault(
        kind, texts[0], texts[1] if len(texts) > 1 else None, None if retry is None else _number(retry, "retry-after")
    )
    return Reply(id, _word(token, "token"), status, b"", fault)


class _Parsers(threading.local):
    """One parser per thread: a shared one would make them wait for each other."""

    def __init__(self) -> None:
        self.parser = new_parser()


def new_parser() -> etree.XMLParser:
    """Make the hardened parser: no document type, no entities, no network, and libxml2's own limits left on."""
    return etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        dtd_validation=False,
        huge_tree=False,
        collect_ids=False,
    )


_parsers = _Parsers()


def _parsed(document: bytes) -> etree._Element:
    try:
        return etree.fromstring(document, _parsers.parser)
    except etree.XMLSyntaxError as error:
        raise EnvelopeError("malformed", str(error.msg)[:200]) from None


def _attributes(element: etree._Element) -> dict[str, str]:
    return dict(element.items())  # type: ignore[arg-type]  # the stubs think of bytes, lxml gives str


def _cdata(body: bytes, start: int, tail: re.Pattern[bytes]) -> bytes:
    """Give what the CDATA sections from *start* to the tail of the document hold together."""
    end = body.rfind(CDATA_END)
    if end < start + len(CDATA_START) or tail.match(body, end) is None:
        raise EnvelopeError("malformed", "the payload is not CDATA up to the end of the document")
    content = body[start + len(CDATA_START) : end]
    if CDATA_END in content:  # a section cannot hold its own end: "]]>" is split over two
        pieces = content.split(_SPLIT)
        if any(CDATA_END in piece for piece in pieces):
            raise EnvelopeError("malformed", "the payload is not CDATA up to the end of the document")
        content = b"".join(pieces)
    return content


def _in_cdata(payload: bytes) -> bytes:
    # encode_json() never gives "]]>"; the payload of somebody else's encoder may.
    return payload.replace(CDATA_END, b"]]" + _SPLIT + b">") if CDATA_END in payload else payload


def _check_size(body: bytes, max_bytes: int) -> None:
    if len(body) > max_bytes:
        raise EnvelopeError("oversized", f"{len(body)} bytes, allowed are {max_bytes}")


def _check_version(version: str | None) -> None:
    if version != VERSION:
        raise EnvelopeError("malformed", f"version {(version or '')[:40]!r}, not {VERSION!r}")


def _check_id(id: str) -> None:
    if _ID.fullmatch(id) is None:
        raise EnvelopeError("malformed", f"id {id[:40]!r} is not <16 lower-case hex digits>-<count>")


def _check_head(version: str | None, id: str, status: str, expected: str) -> None:
    _check_version(version)
    _check_id(id)
    if status != expected:
        raise EnvelopeError("malformed", f"status {status[:40]!r} does not go with what follows it")


def _check_names(node: str, category: str, service: str) -> None:
    for label, part in (("node", node), ("category", category), ("service", service)):
        problem = name_problem(part)
        if problem:
            raise EnvelopeError("malformed", f"the {label} {problem}")


def _number(text: str, name: str) -> int:
    # Exactly one way to write each number: no sign, space, leading zero or foreign digit.
    if not text.isascii() or not text.isdigit() or len(text) > 15 or (text[0] == "0" and text != "0"):
        raise EnvelopeError("malformed", f"{name} {text[:40]!r} is not a number from 0 to {_MAX_NUMBER - 1}")
    return int(text)


def _word(text: str, name: str) -> str:
    if text and (len(text) > _MAX_WORD_CHARS or " " in text or not text.isprintable()):
        raise EnvelopeError("malformed", f"{name} {text[:40]!r} is too long or holds white space")
    return text


def _written_word(text: str) -> str:
    if text and (len(text) > _MAX_WORD_CHARS or " " in text or not text.isprintable()):
        raise EnvelopeError("unencodable", f"{text[:40]!r} is too long or holds white space")
    return text.translate(_ESCAPE_TABLE)


@lru_cache(maxsize=1024)
def _written_names(node: str, category: str, service: str) -> tuple[str, str]:
    for label, part in (("node", node), ("category", category), ("service", service)):
        problem = name_problem(part)
        if problem:
            raise EnvelopeError("unencodable", f"the {label} {problem}")
    return _escaped(node), f"<category>{_escaped(category)}</category><service>{_escaped(service)}</service>"


def _written_fault(fault: Fault) -> str:
    retry = "" if fault.retry_after_ms is None else f' retry-after="{fault.retry_after_ms}"'
    trace = f"<trace>{_escaped(fault.trace)}</trace>" if fault.trace else ""
    return f'<fault type="{_escaped(fault.type)}"{retry}><text>{_escaped(fault.text)}</text>{trace}</fault>'


def _escaped(text: str) -> str:
    return text.translate(_ESCAPE_TABLE)
