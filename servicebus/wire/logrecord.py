"""Log records as datagrams, and back. Pure; docs/logging.rst describes the format for clients in other languages.

A datagram is one line of ASCII, and then the body::

    servicebus-log/1 <kind> <sender> <session> <number> <attempt> <token>\\n<body>

The token is an HMAC over everything else in the datagram, or ``-`` where no secret is set. It is compared before
anything of the body is read. Bodies are JSON, except that a batch of records which is too long for one datagram
travels as ``piece`` datagrams and one ``last`` datagram, whose bodies joined are the JSON of a ``records`` body.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any, NamedTuple, Protocol

from servicebus.errors import EnvelopeError, SignatureError

__all__ = [
    "LATEST_CREATED",
    "MAX_BATCH_BYTES",
    "MAX_DATAGRAM_BYTES",
    "MAX_MESSAGE_BYTES",
    "Batch",
    "Datagram",
    "DatagramKind",
    "Record",
    "Signer",
    "cut_message",
    "decode_batch",
    "decode_datagram",
    "decode_object",
    "encode_batch",
    "encode_datagram",
    "encode_object",
    "in_pieces",
    "is_pickled_record",
    "read_record",
]

MAGIC = b"servicebus-log/1"
MAX_DATAGRAM_BYTES = 65_507
"""The most that UDP over IPv4 carries."""
HEAD_BYTES = 220
"""Room to leave for the head line: two ids of 16 and 33 digits, two counts and a token of 73 characters at most."""
MAX_MESSAGE_BYTES = 1024 * 1024
"""A longer message is cut, with a mark at its end."""
MAX_BATCH_BYTES = 6 * MAX_MESSAGE_BYTES + 64 * 1024
"""The longest ``records`` body: JSON writes one control character as six bytes."""
LATEST_CREATED = 1e11
"""Seconds since the epoch, in the year 5138: what time.localtime can still show."""
NO_TOKEN = b"-"
NO_SESSION = b"-"

_TO_SERVER = b"servicebus/2 log, to server"
_TO_CLIENT = b"servicebus/2 log, to client"
_HEAD = re.compile(
    rb"servicebus-log/1 ([a-z]{1,16}) ([0-9a-f]{16}) (-|[0-9a-f]{16}-[0-9]{1,16}) ([0-9]{1,18}) ([0-9]{1,9})"
    rb" (-|[\x21-\x7e]{2,100})"
)


class DatagramKind(str, Enum):
    """What a datagram says. The first group travels to the server, the second to the client."""

    HELLO = "hello"
    RECORDS = "records"
    PIECE = "piece"
    LAST = "last"
    BYE = "bye"
    STATS = "stats"

    WELCOME = "welcome"
    ACK = "ack"
    UNKNOWN = "unknown"
    COUNTS = "counts"


_KINDS = {kind.value.encode(): kind for kind in DatagramKind}
_ANSWERS = frozenset({DatagramKind.WELCOME, DatagramKind.ACK, DatagramKind.UNKNOWN, DatagramKind.COUNTS})


class Signer(Protocol):
    """What servicebus.wire.signing.Keyring offers to others than envelopes."""

    def sign_bytes(self, domain: bytes, *parts: bytes) -> str: ...

    def verify_bytes(self, token: str, domain: bytes, *parts: bytes) -> None: ...


class Record(NamedTuple):
    """One log record as it travels: a JSON array in this order."""

    created: float
    """Seconds since the epoch."""
    level: int
    level_name: str
    logger: str
    thread: str
    message: str
    """The formatted message, with the traceback behind it where there is one."""


class Batch(NamedTuple):
    """Records with consecutive numbers, beginning with *first*. An empty one says what the next number will be."""

    first: int
    records: Sequence[Record]


class Datagram(NamedTuple):
    """One datagram; *body* is not looked at yet."""

    kind: DatagramKind
    sender: bytes
    """16 hexadecimal digits, made by each process of a client."""
    session: bytes = NO_SESSION
    """Given out by the server; no two sessions of any server ever have the same."""
    number: int = 0
    attempt: int = 0
    """How many times the same was sent before."""
    body: bytes = b""


def encode_datagram(datagram: Datagram, signer: Signer | None) -> bytes:
    """The bytes of a datagram, signed if there is a signer."""
    kind, sender, session, number, attempt, body = datagram
    head = b"%s %s %s %s %d %d" % (MAGIC, kind.value.encode(), sender, session, number, attempt)
    if signer is None:
        return b"%s %s\n%s" % (head, NO_TOKEN, body)
    return b"%s %s\n%s" % (head, signer.sign_bytes(_domain(kind), head, body).encode(), body)


def decode_datagram(raw: bytes, signer: Signer | None) -> Datagram:
    """The datagram in *raw*, once its token is verified.

    Raises:
        EnvelopeError: with reason ``pickled`` for a record of py-servicebus 2.x (it is not unpickled), else
            ``malformed``.
        SignatureError: no token where a signer is given, a token where none is, or one that does not belong to it.
    """
    head, _, body = raw.partition(b"\n")
    found = _HEAD.fullmatch(head)
    kind = _KINDS.get(found[1]) if found else None
    if found is None or kind is None:
        reason = "pickled" if is_pickled_record(raw) else "malformed"
        raise EnvelopeError(reason, "not a log datagram")
    _verify(found[6], kind, head[: found.end(5)], body, signer)
    return Datagram(kind, found[2], found[3], int(found[4]), int(found[5]), body)


def _verify(token: bytes, kind: DatagramKind, head: bytes, body: bytes, signer: Signer | None) -> None:
    if signer is None:
        if token != NO_TOKEN:
            raise SignatureError("the datagram is signed, but no secret is set here to verify it with")
    elif token == NO_TOKEN:
        raise SignatureError("the datagram is not signed")
    else:
        signer.verify_bytes(token.decode("ascii"), _domain(kind), head, body)


def _domain(kind: DatagramKind) -> bytes:
    # Two domains, so that nothing a client signed can be played back to it as an answer.
    return _TO_CLIENT if kind in _ANSWERS else _TO_SERVER


def is_pickled_record(raw: bytes) -> bool:
    """Whether this looks like a record of logging.handlers.DatagramHandler: a length, and a pickled dict as long."""
    return (
        len(raw) > 6
        and int.from_bytes(raw[:4], "big") == len(raw) - 4
        and raw[4:5] in (b"}", b"\x80", b"(")
        and raw[-1:] == b"."
    )


_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def encode_object(value: dict[str, Any]) -> bytes:
    """A JSON object. Lone surrogates travel as their own three bytes: a log must be able to carry any str."""
    return _encode(value).encode("utf-8", "surrogatepass")


def decode_object(body: bytes) -> dict[str, Any]:
    """The JSON object in *body*. Raises EnvelopeError ``malformed``."""
    try:
        value = json.loads(body.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        raise EnvelopeError("malformed", "the body is no JSON") from None
    if not isinstance(value, dict):
        raise EnvelopeError("malformed", "the body is no JSON object")
    return value


def encode_batch(first: int, records: Sequence[Record]) -> bytes:
    """The body of a ``records`` or ``bye`` datagram."""
    return encode_object({"first": first, "records": records})


def decode_batch(body: bytes) -> Batch:
    """The records in *body*, each checked field by field. Raises EnvelopeError ``malformed``."""
    value = decode_object(body)
    first, rows = value.get("first"), value.get("records")
    if type(first) is not int or not 1 <= first < 10**18 or type(rows) is not list:
        raise EnvelopeError("malformed", "the body is no batch of records")
    return Batch(first, [read_record(row) for row in rows])


def read_record(row: Any) -> Record:
    """A record of the JSON array *row*, checked field by field. Raises EnvelopeError ``malformed``."""
    try:
        created, level, level_name, logger, thread, message = row
    except (TypeError, ValueError):
        raise EnvelopeError("malformed", "a record has six fields") from None
    if not (
        type(created) in (float, int)
        and 0 <= created < LATEST_CREATED
        and type(level) is int
        and type(level_name) is type(logger) is type(thread) is type(message) is str
    ):
        raise EnvelopeError("malformed", "a field of a record has the wrong type")
    return Record(created, level, level_name, logger, thread, message)


def cut_message(message: str, max_bytes: int = MAX_MESSAGE_BYTES) -> str:
    """The message, or as much of it as has *max_bytes* in UTF-8, and a mark that says how much is missing."""
    if len(message) * 4 <= max_bytes or (len(message) <= max_bytes and message.isascii()):
        return message
    raw = message.encode("utf-8", "surrogatepass")
    if len(raw) <= max_bytes:
        return message
    kept = raw[:max_bytes]
    # Not in the middle of a character: go back over its continuation bytes, then over its first byte.
    while kept and raw[len(kept)] & 0xC0 == 0x80:
        kept = kept[:-1]
    return f"{kept.decode('utf-8', 'surrogatepass')} [cut here: {len(raw) - len(kept)} of {len(raw)} bytes are missing]"


def in_pieces(body: bytes, max_bytes: int) -> Iterable[tuple[DatagramKind, bytes]]:
    """The body of a ``records`` datagram as one or several bodies of at most *max_bytes*, each with its kind."""
    if len(body) <= max_bytes:
        return [(DatagramKind.RECORDS, body)]
    slices = [body[at : at + max_bytes] for at in range(0, len(body), max_bytes)]
    return [*((DatagramKind.PIECE, piece) for piece in slices[:-1]), (DatagramKind.LAST, slices[-1])]
