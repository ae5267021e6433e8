"""Envelope and Reply <-> signed XML.

Written by format strings (building by lxml costs six times as much), read in three steps: the shape (``xmlshape``),
then lxml for all but the payload (``xmltree``), then the names. Documents that hold nothing but plain text, as nearly
all do, are read by their shape alone. The payload, JSON in CDATA, is cut out as bytes: it is signed as exactly these
bytes, which XML's own rules would change (CR LF becomes LF), and it is parsed only after its signature was compared.
Everything here may be called by any thread at any time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from servicebus.errors import EnvelopeError
from servicebus.wire.address import name_problem
from servicebus.wire.diagnosis import why_misshapen
from servicebus.wire.envelope import (
    EVENT,
    FAULT,
    FIRST_AND_PLAIN,
    OK,
    Envelope,
    EnvelopeDraft,
    Kind,
    More,
    Reply,
    ReplyDraft,
)
from servicebus.wire.events import name_of_event_problem
from servicebus.wire.fault import Fault
from servicebus.wire.jsontext import decode_json, encode_json
from servicebus.wire.optional_parts import DELAYED, attempt_mark, written_parts
from servicebus.wire.xmlshape import (
    CDATA_END,
    CDATA_START,
    EVENT_END,
    EVENT_HEAD,
    EVENT_TAIL,
    ID,
    MAX_NUMBER,
    PLAIN_EVENT,
    PLAIN_EVENT_OF_MORE,
    PLAIN_RESPONSE,
    PLAIN_RESPONSE_AGAIN,
    RESPONSE_END,
    RESPONSE_HEAD,
    RESPONSE_TAIL,
    TOKEN,
)

__all__ = [
    "decode_envelope",
    "decode_json",
    "decode_reply",
    "encode_json",
    "encode_reply",
    "write_answer",
    "write_event",
]

_KINDS = {kind.value: kind for kind in Kind}
_MAX_REPLY_CHARS = 255  # an AMQP short string
_SPLIT = CDATA_END + CDATA_START
_LONG_BYTES = 1024
_PARAMS_BYTES = len(b"<params>" + CDATA_START)
_MESSAGE_BYTES = len(b"<message>" + CDATA_START)
_ID = re.compile(ID.decode())
_TOKEN = re.compile(TOKEN.decode())
_ESCAPES = str.maketrans(
    # White space too: XML makes a space of it in attributes, and LF of CR LF in text.
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\r": "&#13;", "\n": "&#10;", "\t": "&#9;"}
)


def write_event(
    id: str,
    node: str,
    category: str,
    service: str,
    kind: Kind,
    sent_ms: int,
    ttl_ms: int,
    reply: str,
    params: bytes,
    token: str,
    more: More = FIRST_AND_PLAIN,
) -> bytes:
    """The bytes of the envelope that these fields make. *id* and *token* are well formed: they were made here.

    Raises:
        EnvelopeError: ``unencodable`` for a name, reply address or number that no receiver would accept.
    """
    if not 0 <= sent_ms <= MAX_NUMBER or not 0 <= ttl_ms <= MAX_NUMBER:
        raise EnvelopeError("unencodable", f"sent {sent_ms} or ttl {ttl_ms} is not from 0 to {MAX_NUMBER}")
    start, answer, names = _written_names(node, kind._value_, reply, category, service)
    marks = ""
    if more != FIRST_AND_PLAIN:
        marks, element = written_parts(more, kind)
        names += element
    head = (
        f'{start} sent="{sent_ms}" ttl="{ttl_ms}" {answer}{marks}>'
        f"<id>{id}</id><token>{token}</token>{names}<params><![CDATA["
    )
    # Not by %: that lets a long payload grow where it lies, which took 600 us for 1 MB where this takes 25.
    return b"".join((head.encode(), params if b">" not in params else _in_cdata(params), EVENT_END))


def decode_envelope(body: bytes, max_bytes: int) -> Envelope:
    """Read an envelope. Its token is not compared, its params are not parsed; nothing of it may be believed yet.

    Raises:
        EnvelopeError: ``oversized``, ``dtd``, ``too-deep`` or ``malformed``, with what is wrong. Nothing else.
    """
    if len(body) > max_bytes:
        raise EnvelopeError("oversized", f"{len(body)} bytes, allowed are {max_bytes}")
    plain = PLAIN_EVENT.match(body)
    if plain is not None:
        return _decode_plain_event(plain, plain.groups())
    plain = PLAIN_EVENT_OF_MORE.match(body)
    if plain is not None:
        more = [found.decode() if found else "" for found in plain.group(6, 12, 7)]
        return _decode_plain_event(plain, plain.group(1, 2, 3, 4, 5, 8, 9, 10, 11), *more)
    head = EVENT_HEAD.match(body)
    if head is None:
        raise why_misshapen(body, "event")
    start = head.end()
    params = _payload(body, start + _PARAMS_BYTES, EVENT_END, EVENT_TAIL)
    root = _parsed(body[:start] + b"</event>")
    id, token, category, service, *more = root  # in this order, without attributes: EVENT_HEAD has seen it
    _version, node, kind, sent, ttl, reply = root.values()[:6]
    attempt, due = root.get("attempt"), root.get("due")
    if due and kind not in DELAYED:
        raise EnvelopeError("malformed", f"a {kind} is never due: only messages are delayed")
    names = (node, reply, category.text or "", service.text or "")
    _check_names(kind, *names)
    return Envelope(
        id.text,
        node,
        names[2],
        names[3],
        _KINDS[kind],
        int(sent),
        int(ttl),
        reply,
        params,
        token.text or "",
        int(attempt) if attempt else 1,
        int(due) if due else 0,
        root.get("contract", ""),
        more[0].text if more else "",
        root.get("stream", ""),
    )


def _decode_plain_event(
    found: re.Match[bytes], fields: Iterable[bytes], contract: str = "", context: str = "", stream: str = ""
) -> Envelope:
    params = _payload(found.string, found.end(), EVENT_END, EVENT_TAIL)
    # One decode for all; none of them holds a space.
    node, kind, sent, ttl, reply, id, token, category, service = b" ".join(fields).decode("ascii").split(" ")
    _check_names(kind, node, reply, category, service)
    marks = 1, 0, contract, context, stream
    draft = EnvelopeDraft(id, node, category, service, _KINDS[kind], int(sent), int(ttl), reply, params, token, *marks)
    draft.__class__ = Envelope
    return draft  # type: ignore[no-any-return]


def encode_reply(reply: Reply) -> bytes:
    """The bytes of *reply*: its message if its status is ok, else its fault.

    Raises:
        EnvelopeError: ``unencodable`` for an id or token that no caller would accept, or a fault that is missing.
    """
    _check_ticket(reply.id, reply.token)
    if reply.status == OK and reply.fault is None:
        return write_answer(reply.id, reply.token, reply.message, reply.attempt)
    if reply.status != FAULT or reply.fault is None:
        raise EnvelopeError("unencodable", f"status {reply.status!r} does not go with fault {reply.fault!r}")
    return (
        f'<response version="2"{attempt_mark(reply.attempt)}><id>{reply.id}</id><token>{reply.token}</token>'
        f"<status>{FAULT}</status>{_written_fault(reply.fault)}</response>"
    ).encode()


def write_answer(id: str, token: str, message: bytes, attempt: int = 1) -> bytes:
    """The reply that is ok, to a request whose *id* was read, with a *token* that was made here."""
    again = "" if attempt == 1 else attempt_mark(attempt)
    head = f'<response version="2"{again}><id>{id}</id><token>{token}</token><status>{OK}</status><message><![CDATA['
    return b"".join((head.encode(), message if b">" not in message else _in_cdata(message), RESPONSE_END))


def decode_reply(body: bytes, max_bytes: int) -> Reply:
    """Read a reply. Its token is not compared, its message is not parsed; nothing of it may be believed yet.

    Raises:
        EnvelopeError: as ``decode_envelope``.
    """
    if len(body) > max_bytes:
        raise EnvelopeError("oversized", f"{len(body)} bytes, allowed are {max_bytes}")
    plain = PLAIN_RESPONSE.match(body)
    if plain is not None:
        message = _payload(body, plain.end(), RESPONSE_END, RESPONSE_TAIL)
        draft = ReplyDraft(plain[1].decode("ascii"), plain[2].decode("ascii"), OK, message, None, 1)
        draft.__class__ = Reply
        return draft  # type: ignore[no-any-return]
    again = PLAIN_RESPONSE_AGAIN.match(body)
    if again is not None:
        message = _payload(body, again.end(), RESPONSE_END, RESPONSE_TAIL)
        return Reply(again[2].decode("ascii"), again[3].decode("ascii"), OK, message, None, int(again[1]))
    head = RESPONSE_HEAD.match(body)
    if head is None:
        raise why_misshapen(body, "response")
    if head["message"] is None:
        return _decode_fault(body)
    start = head.end()
    message = _payload(body, start + _MESSAGE_BYTES, RESPONSE_END, RESPONSE_TAIL)
    root = _parsed(body[:start] + b"</response>")
    id, token, status = root
    return Reply(id.text, token.text or "", status.text, message, None, int(root.get("attempt", 1)))


def _decode_fault(body: bytes) -> Reply:
    root = _parsed(body)
    id, token, status, about = root
    retry, clock = about.get("retry-after"), about.get("clock")
    texts = {child.tag: child.text or "" for child in about}
    fault = Fault(
        about.get("type"),
        texts["text"],
        texts.get("trace"),
        None if retry is None else int(retry),
        None if clock is None else int(clock),
        texts.get("data"),
    )
    return Reply(id.text, token.text or "", status.text, b"", fault, int(root.get("attempt", 1)))


def _parsed(document: bytes) -> Any:
    from servicebus.wire.xmltree import parsed  # late: its docstring says why

    return parsed(document)


def _payload(body: bytes, start: int, usual_end: bytes, tail: re.Pattern[bytes]) -> bytes:
    """What the CDATA sections from *start* to the *tail* of the document hold together."""
    is_usual = body.endswith(usual_end)
    end = len(body) - len(usual_end) if is_usual else body.rfind(CDATA_END)
    if end < start or not (is_usual or tail.match(body, end)):
        raise EnvelopeError("malformed", "the payload is not CDATA up to the end of the document")
    content = body[start:end]
    bracket = content.find(b"]")  # one byte is found sixty times faster than three
    return _joined(content) if bracket >= 0 and content.find(CDATA_END, bracket) >= 0 else content


def _joined(content: bytes) -> bytes:
    """Undo the split: a CDATA section cannot hold its own end, so "]]>" is spread over two."""
    pieces = content.split(_SPLIT)
    if any(CDATA_END in piece for piece in pieces):
        raise EnvelopeError("malformed", "there is something between two CDATA sections of the payload")
    return b"".join(pieces)


def _in_cdata(payload: bytes) -> bytes:
    """encode_json() never makes "]]>"; the encoder of another client may have."""
    if len(payload) > _LONG_BYTES:
        bracket = payload.find(b"]")  # as in _payload()
        if bracket < 0 or payload.find(CDATA_END, bracket) < 0:
            return payload
    return payload.replace(CDATA_END, b"]]" + _SPLIT + b">")


# A bus has few names, so they are looked at once. Refusals are not remembered, nor can a stranger fill the memory.
@lru_cache(maxsize=1024)
def _check_names(kind: str, node: str, reply: str, category: str, service: str) -> None:
    problem = _names_problem(kind, node, reply, category, service)
    if problem:
        raise EnvelopeError("malformed", problem)


@lru_cache(maxsize=1024)
def _written_names(node: str, kind: str, reply: str, category: str, service: str) -> tuple[str, str, str]:
    problem = _names_problem(kind, node, reply, category, service)
    if problem:
        raise EnvelopeError("unencodable", problem)
    return (
        f'<event version="2" node="{_escaped(node)}" kind="{kind}"',
        f'reply="{_escaped(reply)}"',
        f"<category>{_escaped(category)}</category><service>{_escaped(service)}</service>",
    )


def _names_problem(kind: str, node: str, reply: str, category: str, service: str) -> str:
    if kind == EVENT.value:
        if node or category or reply:
            return "an event has no node, category or reply address"
        return name_of_event_problem(service)
    for label, part in (("node", node), ("category", category), ("service", service)):
        problem = name_problem(part)
        if problem:
            return f"the {label} {problem}"
    if len(reply) > _MAX_REPLY_CHARS or " " in reply or not reply.isprintable():
        return "the reply address is too long, or holds white space"
    return ""


def _check_ticket(id: str, token: str) -> None:
    if _ID.fullmatch(id) is None or _TOKEN.fullmatch(token) is None:
        raise EnvelopeError("unencodable", f"id {id[:40]!r} or the token (of {len(token)} characters) is malformed")


def _written_fault(fault: Fault) -> str:
    retry = "" if fault.retry_after_ms is None else f' retry-after="{fault.retry_after_ms}"'
    clock = "" if fault.clock_ms is None else f' clock="{fault.clock_ms}"'
    trace = f"<trace>{_escaped(fault.trace)}</trace>" if fault.trace else ""
    data = f"<data>{_escaped(fault.data)}</data>" if fault.data else ""
    return (
        f'<fault type="{_escaped(fault.type)}"{retry}{clock}><text>{_escaped(fault.text)}</text>{trace}{data}</fault>'
    )


def _escaped(text: str) -> str:
    return text.translate(_ESCAPES)
