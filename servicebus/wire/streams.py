"""Streams: the terms on which a call asks for one, and the chunks of items that answer it.

A stream is a call whose service answers many items: chunks come over the reply path, signed and numbered, and the reply
of the call is the end. The caller says how many items and bytes may be sent, first in the terms, then by credits;
these are totals from the first item on, so that a credit that is lost or comes twice does no harm.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from servicebus.errors import EnvelopeError
from servicebus.wire.jsontext import decode_json, encode_json
from servicebus.wire.optional_parts import attempt_mark
from servicebus.wire.signing import Keyring, canonical_bytes
from servicebus.wire.xmlshape import ATTEMPT, CDATA_END, CDATA_START, ID, NUMBER, STREAM, TOKEN

__all__ = [
    "CREDIT",
    "Chunk",
    "Credit",
    "StreamTerms",
    "chunk_queue_problem",
    "chunk_text",
    "decode_chunk",
    "items_id",
    "read_credit",
    "read_end",
    "read_terms",
    "verify_chunk",
    "write_chunk",
    "write_end",
]

CREDIT = "credit"
"""The control request by which a caller lets its stream go on; its params are ``[id, items, bytes]``."""
CHUNK_DOMAIN = b"servicebus/2 chunk"
_STREAM = re.compile(STREAM.decode())
_QUEUE = rb"[0-9A-Za-z._:~-]{1,255}"
_CHUNK = re.compile(
    rb'<chunk version="2"(?: attempt="(' + ATTEMPT + rb')")? first="(' + NUMBER + rb')" count="(' + NUMBER
    + rb')" queue="(' + _QUEUE + rb')" resumable="(yes|no)"><id>(' + ID + rb")</id><token>(" + TOKEN
    + rb")</token><items><!\[CDATA\["
)  # fmt: skip
_CHUNK_END = b"]]></items></chunk>"
_OPEN = ",open"
_SPLIT = CDATA_END + CDATA_START


class StreamTerms(NamedTuple):
    """What a call says that asks for a stream."""

    items: int
    bytes: int
    """How much may be sent before the first credit; the last item may exceed the bytes."""
    position: int | None = None
    """The number of the first item, from 0, of a stream that goes on; None for one that begins."""
    is_open: bool = False
    """The time to live of the call is for the begin alone: what has begun has no deadline."""

    @property
    def first(self) -> int:
        return self.position or 0

    def text(self) -> str:
        """As the attribute of the envelope."""
        position = "" if self.position is None else f",{self.position}"
        return f"{self.items},{self.bytes}{position}{_OPEN if self.is_open else ''}"


class Credit(NamedTuple):
    """How much the stream *id* may send in all, counted from the first item of the call that asked for it."""

    id: str
    items: int
    bytes: int


@dataclass(slots=True)
class Chunk:
    """Items ``first`` to ``first + count - 1``; none if it only says that the stream lives."""

    id: str
    attempt: int
    first: int
    count: int
    queue: str
    """Of the worker that runs the stream: its own, where credits go."""
    is_resumable: bool
    items: bytes
    """JSON text: an array of so many values."""
    token: str = ""


def read_terms(text: str) -> StreamTerms | None:
    """The terms of *text*, which has the form of the attribute; None for none."""
    if not _STREAM.fullmatch(text):
        return None
    items, size, *position = map(int, text.removesuffix(_OPEN).split(","))
    return StreamTerms(items, size, position[0] if position else None, text.endswith(_OPEN))


def write_chunk(keyring: Keyring, request_token: str, chunk: Chunk) -> bytes:
    """The bytes of *chunk*, signed as an answer to the request that carried *request_token*."""
    head = (
        f'<chunk version="2"{attempt_mark(chunk.attempt)} first="{chunk.first}" count="{chunk.count}" '
        f'queue="{chunk.queue}" resumable="{"yes" if chunk.is_resumable else "no"}"><id>{chunk.id}</id>'
    )
    token = keyring.sign_answer(request_token, CHUNK_DOMAIN, *_signed(request_token, chunk))
    items = chunk.items.replace(CDATA_END, b"]]" + _SPLIT + b">") if b">" in chunk.items else chunk.items
    return b"".join((head.encode(), f"<token>{token}</token><items><![CDATA[".encode(), items, _CHUNK_END))


def decode_chunk(body: bytes, max_bytes: int) -> Chunk:
    """Read a chunk. Its token is not compared, its items are not parsed. Raises EnvelopeError."""
    if len(body) > max_bytes:
        raise EnvelopeError("oversized", f"{len(body)} bytes, allowed are {max_bytes}")
    found = _CHUNK.match(body)
    if found is None or not body.endswith(_CHUNK_END):
        raise EnvelopeError("malformed", "it has not the shape of <chunk>")
    attempt, first, count, queue, resumable, id, token = (part.decode() if part else "" for part in found.groups())
    items = body[found.end() : -len(_CHUNK_END)]
    if CDATA_END in items:
        pieces = items.split(_SPLIT)
        if any(CDATA_END in piece for piece in pieces):
            raise EnvelopeError("malformed", "there is something between two CDATA sections of the items")
        items = b"".join(pieces)
    return Chunk(id, int(attempt or 1), int(first), int(count), queue, resumable == "yes", items, token)


def verify_chunk(keyring: Keyring, request_token: str, chunk: Chunk) -> None:
    """Accept *chunk* as one that answers the request with *request_token*, or raise SignatureError."""
    keyring.verify_answer(chunk.token, request_token, CHUNK_DOMAIN, *_signed(request_token, chunk))


def chunk_queue_problem(queue: str) -> bool:
    """Whether *queue* cannot be named in a chunk."""
    return re.fullmatch(_QUEUE.decode(), queue) is None


def chunk_text(request_token: str, chunk: Chunk) -> bytes:
    """The canonical bytes of *chunk*, which answers the request with *request_token*."""
    return canonical_bytes(CHUNK_DOMAIN, *_signed(request_token, chunk))


def _signed(request_token: str, chunk: Chunk) -> Sequence[bytes]:
    resumable = "yes" if chunk.is_resumable else "no"
    texts = (request_token, chunk.id, str(chunk.first), str(chunk.count), chunk.queue, resumable)
    return [*(text.encode() for text in texts), chunk.items]


def read_credit(params: bytes) -> Credit:
    """Raises EnvelopeError: *params* are none."""
    said = decode_json(params)
    if isinstance(said, list) and len(said) == 3 and isinstance(said[0], str) and all(map(_is_count, said[1:])):
        return Credit(*said)
    raise EnvelopeError("malformed", "the params of a credit are not [id, items, bytes]")


def write_end(count: int) -> bytes:
    """The message of the reply that ends a stream: JSON text."""
    return encode_json({"items": count})


def read_end(value: Any) -> int | None:
    """How many items there are, the first position included, by the result of the call; None: it is no such end."""
    count = value.get("items") if isinstance(value, dict) else None
    return count if _is_count(count) else None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def items_id(id: str) -> str:
    """The correlation id of the chunks of the stream *id*."""
    return f"{id}/items"
