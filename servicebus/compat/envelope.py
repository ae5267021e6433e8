"""OldEvent and OldReply <-> the bytes of version 1."""

from __future__ import annotations

from dataclasses import dataclass, field

from servicebus.compat.flatxml import in_cdata, not_xml, parse_flat
from servicebus.errors import EnvelopeError

__all__ = ["OldEvent", "OldReply", "decode_event", "decode_reply", "encode_event", "encode_reply", "is_old_event"]

_EVENT_FIELDS = ("id", "token", "catgory", "category", "service", "params")
_REPLY_FIELDS = ("id", "message")
_HEAD_BYTES = 300


@dataclass(frozen=True, slots=True)
class OldEvent:
    """A request. Whether it is a call or a message, its AMQP properties say."""

    id: str
    """Decimal in practice, and not unique: each process counts from 1."""
    token: str = field(repr=False)
    """Good for forging until the day after tomorrow, so it stays out of logs."""
    category: str
    service: str
    params: bytes
    """JSON text, UTF-8."""
    version: str = "1"


@dataclass(frozen=True, slots=True)
class OldReply:
    """The answer: the text form of the result, or of what went wrong."""

    id: str
    text: str


def encode_event(event: OldEvent) -> bytes:
    """The bytes of *event*, laid out as 2.19 does.

    Raises:
        EnvelopeError: ``unencodable`` for markup in a name, or a character that XML cannot carry.
    """
    for label, name in (("category", event.category), ("service", event.service)):
        if any(char in name for char in "<>&"):
            raise EnvelopeError("unencodable", f"{label} {name!r} holds markup, which py-servicebus 2.x cannot address")
    params = _written_params(event.params)
    for label, text in (("id", event.id), ("category", event.category), ("service", event.service), ("params", params)):
        _check(label, text)
    return (
        '<?xml version="1.0"?>\n<event version="1">\n'
        f"    <id>{_escaped(event.id)}</id>\n"
        f"    <token>{_escaped(event.token)}</token>\n"
        f"    <catgory>{event.category}</catgory>\n"  # sic
        f"    <service>{event.service}</service>\n"
        f"    <params>{in_cdata(params)}</params>\n"
        "</event>\n"
    ).encode()


def decode_event(body: bytes, max_bytes: int) -> OldEvent:
    """Read a request. Its token is not compared, its params are not parsed; nothing of it may be believed yet.

    Raises:
        EnvelopeError: ``oversized``, ``dtd``, ``too-deep`` or ``malformed``. Nothing else.
    """
    document = parse_flat(body, _EVENT_FIELDS, max_bytes, "params")
    if document.root != "event" or "version" not in document.attributes:
        raise EnvelopeError("malformed", "the root is no <event> with a version")
    fields = document.fields
    # "catgory" is what 2.x writes; its documentation says "category".
    category = fields.get("catgory", fields.get("category"))
    missing = [name for name in ("id", "token", "service", "params") if name not in fields]
    if category is None or missing:
        raise EnvelopeError("malformed", f"<{', '.join(missing) or 'catgory'}> is missing")
    return OldEvent(
        id=fields["id"],
        token=fields["token"],
        category=category,
        service=fields["service"],
        params=fields["params"].encode(),
        version=document.attributes["version"],
    )


def is_old_event(body: bytes) -> bool:
    """Whether *body* looks more like a request of version 1 than of version 2. Cheap, and proves nothing."""
    head = body[:_HEAD_BYTES]
    return b"<event" in head and b'version="2"' not in head


def encode_reply(reply: OldReply) -> bytes:
    """The bytes of *reply*, laid out as 2.19 does.

    Raises:
        EnvelopeError: ``unencodable`` for a character that XML cannot carry.
    """
    _check("result", reply.text)
    return (
        f'<?xml version="1.0"?>\n<response>\n    <id>{_escaped(reply.id)}</id>\n'
        f"    <message>{in_cdata(reply.text)}</message>\n</response>\n"
    ).encode()


def decode_reply(body: bytes, max_bytes: int) -> OldReply:
    """Read a reply. It carries no token: what can be believed of it is that it came to an address of ours.

    Raises:
        EnvelopeError: as ``decode_event``.
    """
    fields = parse_flat(body, _REPLY_FIELDS, max_bytes, "message").fields
    if len(fields) != len(_REPLY_FIELDS):
        raise EnvelopeError("malformed", "<id> or <message> is missing")
    return OldReply(fields["id"], fields["message"])


def _written_params(params: bytes) -> str:
    try:
        return params.decode()
    except UnicodeDecodeError:
        raise EnvelopeError("unencodable", "the params are not UTF-8") from None


def _check(label: str, text: str) -> None:
    culprit = not_xml(text)
    if culprit:
        raise EnvelopeError("unencodable", f"the {label} holds {culprit}, which XML cannot carry")


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\r", "&#13;")
