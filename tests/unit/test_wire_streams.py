"""Terms, chunks, credits and ends of streams, as they travel."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace

import pytest

from servicebus.errors import EnvelopeError, SignatureError
from servicebus.wire.envelope import CALL, MESSAGE
from servicebus.wire.optional_parts import stream_mark
from servicebus.wire.signing import Keyring
from servicebus.wire.streams import (
    Chunk,
    Credit,
    StreamTerms,
    chunk_queue_problem,
    decode_chunk,
    items_id,
    read_credit,
    read_end,
    read_terms,
    verify_chunk,
    write_chunk,
    write_end,
)

SECRET = "a secret of the test"
KEYRING = Keyring([SECRET])
REQUEST = "e8e26184:6d65e9b15616eb37dc62a782fd37e391cdf4ecf40733f1a18f236c3c25165f45"
ID = "0123456789abcdef-1"
CHUNK = Chunk(ID, 1, 0, 2, "amq.gen-Jz_TY20BRgKO-Hj", True, b"[1,2]")


def written(chunk: Chunk = CHUNK) -> bytes:
    return write_chunk(KEYRING, REQUEST, chunk)


def read(body: bytes) -> Chunk:
    return decode_chunk(body, 10_000)


def test_a_chunk_is_signed_as_the_page_says() -> None:
    fields = (b"servicebus/2 chunk", REQUEST.encode(), ID.encode(), b"0", b"2", CHUNK.queue.encode(), b"yes", b"[1,2]")
    text = b"".join(b"%d:%b" % (len(field), field) for field in fields)
    token = f"{KEYRING.key_id}:{hmac.new(SECRET.encode(), text, hashlib.sha256).hexdigest()}"
    assert written().decode() == (
        f'<chunk version="2" first="0" count="2" queue="{CHUNK.queue}" resumable="yes"><id>{ID}</id>'
        f"<token>{token}</token><items><![CDATA[[1,2]]]></items></chunk>"
    )


@pytest.mark.parametrize(
    "chunk",
    [
        CHUNK,
        replace(CHUNK, attempt=3, first=10**14, is_resumable=False),
        replace(CHUNK, count=0, items=b"[]"),
        replace(CHUNK, items=b'["]]>", "]]>]]>", ">"]'),
        replace(CHUNK, items='["ü🐇"]'.encode()),
    ],
    ids=["plain", "later", "empty", "cdata", "text"],
)
def test_a_chunk_is_read_as_it_was_written(chunk: Chunk) -> None:
    found = read(written(chunk))
    verify_chunk(KEYRING, REQUEST, found)
    assert replace(found, token="") == chunk


@pytest.mark.parametrize(
    "change",
    [
        {"first": 1},
        {"count": 1},
        {"queue": "amq.gen-other"},
        {"is_resumable": False},
        {"items": b"[1,3]"},
        {"id": "0123456789abcdef-2"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_is_changed_is_not_believed(change: dict[str, object]) -> None:
    with pytest.raises(SignatureError):
        verify_chunk(KEYRING, REQUEST, replace(read(written()), **change))  # type: ignore[arg-type]


def test_a_chunk_answers_one_request_only() -> None:
    with pytest.raises(SignatureError):
        verify_chunk(KEYRING, REQUEST[:-1] + "0", read(written()))
    with pytest.raises(SignatureError):
        verify_chunk(Keyring(["another secret of it"]), REQUEST, read(written()))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'version="2"', b'version="3"'),
        (b'first="0"', b'first="00"'),
        (b'count="2"', b'count="-2"'),
        (b'resumable="yes"', b'resumable="perhaps"'),
        (b'queue="amq', b'queue="a<b'),
        (b"]]></items></chunk>", b"]]></items></chunk>\n"),
        (b"<items>", b"<!-- --><items>"),
        (b"[1,2]", b"[1,]]>2]"),
        (b"<chunk ", b"<response "),
    ],
)
def test_another_shape_is_malformed(old: bytes, new: bytes) -> None:
    body = written()
    assert old in body
    with pytest.raises(EnvelopeError, match="malformed"):
        read(body.replace(old, new, 1))


def test_a_chunk_has_a_size() -> None:
    with pytest.raises(EnvelopeError, match="oversized"):
        decode_chunk(written(), 100)


@pytest.mark.parametrize(
    "terms",
    [
        StreamTerms(1, 1),
        StreamTerms(2000, 1 << 20, 0),
        StreamTerms(5, 7, 10**14),
        StreamTerms(1, 1, None, True),
        StreamTerms(1, 2, 3, True),
    ],
)
def test_terms_travel(terms: StreamTerms) -> None:
    assert read_terms(terms.text()) == terms
    assert stream_mark(terms.text(), CALL) == f' stream="{terms.text()}"'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0,1",
        "1",
        "1,0",
        "1,1,",
        "1,1,01",
        "1,1,1,1",
        "-1,1",
        "a,b",
        "1, 1",
        "1,open",
        "1,1,Open",
        "1,1,open,1",
        "1,1,open,open",
    ],
)
def test_what_are_no_terms(text: str) -> None:
    assert read_terms(text) is None
    with pytest.raises(EnvelopeError):
        stream_mark(text, CALL)


def test_only_a_call_asks_for_a_stream() -> None:
    with pytest.raises(EnvelopeError):
        stream_mark("1,1", MESSAGE)


def test_credits_and_ends() -> None:
    assert read_credit(b'["0123456789abcdef-1", 5, 7]') == Credit(ID, 5, 7)
    for params in (b"null", b"[]", b'["x", 1]', b'["x", -1, 1]', b'["x", true, 1]', b"[1, 1, 1]", b'["x", 1.5, 1]'):
        with pytest.raises(EnvelopeError):
            read_credit(params)
    assert write_end(3) == b'{"items":3}' and read_end({"items": 3}) == 3
    assert [read_end(value) for value in (None, 3, {}, {"items": "3"}, {"items": -1}, {"items": True})] == [None] * 6


def test_names() -> None:
    assert items_id(ID) == f"{ID}/items"
    assert not chunk_queue_problem(CHUNK.queue)
    assert chunk_queue_problem("a b") and chunk_queue_problem('a"') and chunk_queue_problem("")
