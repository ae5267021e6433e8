from __future__ import annotations

import json
import logging
import logging.handlers
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicebus.errors import EnvelopeError, SignatureError
from servicebus.wire.logrecord import (
    HEAD_BYTES,
    MAX_MESSAGE_BYTES,
    Datagram,
    DatagramKind,
    Record,
    cut_message,
    decode_batch,
    decode_datagram,
    decode_object,
    encode_batch,
    encode_datagram,
    in_pieces,
    is_pickled_record,
)
from servicebus.wire.signing import Keyring

KEYS = Keyring(["secret token"])
SENDER = b"0123456789abcdef"
SESSION = SENDER + b"-1"

# Lone surrogates too: a log must be able to carry whatever a str can be.
ANY_TEXT = st.text(st.characters(codec=None))
RECORDS = st.builds(
    Record,
    created=st.floats(0, 1e10) | st.integers(0, 10**10),
    level=st.integers(0, 100),
    level_name=ANY_TEXT,
    logger=ANY_TEXT,
    thread=ANY_TEXT,
    message=ANY_TEXT,
)
DATAGRAMS = st.builds(
    Datagram,
    kind=st.sampled_from(DatagramKind),
    sender=st.binary(min_size=8, max_size=8).map(lambda raw: raw.hex().encode()),
    session=st.just(b"-") | st.integers(0, 10**15).map(lambda count: b"%s-%d" % (SENDER, count)),
    number=st.integers(0, 10**18 - 1),
    attempt=st.integers(0, 10**9 - 1),
    body=st.binary(max_size=200),
)


def reason_of(raw: bytes, signer: Keyring | None = KEYS) -> str:
    with pytest.raises(EnvelopeError) as caught:
        decode_datagram(raw, signer)
    return caught.value.reason


@given(DATAGRAMS, st.sampled_from([None, KEYS]))
def test_a_datagram_survives_the_wire(datagram: Datagram, signer: Keyring | None) -> None:
    raw = encode_datagram(datagram, signer)
    assert decode_datagram(raw, signer) == datagram
    assert len(raw) - len(datagram.body) <= HEAD_BYTES


@given(DATAGRAMS, st.data())
def test_a_signed_datagram_with_one_byte_changed_is_refused(datagram: Datagram, data: st.DataObject) -> None:
    raw = bytearray(encode_datagram(datagram, KEYS))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    assert reason_of(bytes(raw)) in ("malformed", "signature")


@given(DATAGRAMS)
def test_who_has_another_secret_or_none_is_refused(datagram: Datagram) -> None:
    assert reason_of(encode_datagram(datagram, Keyring(["another"]))) == "signature"
    assert reason_of(encode_datagram(datagram, None)) == "signature"
    assert reason_of(encode_datagram(datagram, KEYS), signer=None) == "signature"


def test_while_a_key_rotates_the_old_one_is_still_accepted() -> None:
    datagram = Datagram(DatagramKind.HELLO, SENDER)
    raw = encode_datagram(datagram, Keyring(["old"]))
    assert decode_datagram(raw, Keyring(["new", "old"])) == datagram


def test_what_a_client_signed_cannot_be_played_back_to_it_as_an_answer() -> None:
    """The kind stands in the signed head, and the two directions have domains of their own."""
    raw = encode_datagram(Datagram(DatagramKind.RECORDS, SENDER, SESSION, 7, 0, b"{}"), KEYS)
    assert reason_of(raw.replace(b" records ", b" ack ")) == "signature"


@given(st.binary(max_size=300))
def test_garbage_is_refused_with_a_typed_error_and_nothing_else(raw: bytes) -> None:
    assert reason_of(raw) in ("malformed", "pickled")


@pytest.mark.parametrize(
    "head",
    [
        b"servicebus-log/2 hello 0123456789abcdef - 1 0 -",
        b"servicebus-log/1 shout 0123456789abcdef - 1 0 -",
        b"servicebus-log/1 hello 0123456789ABCDEF - 1 0 -",
        b"servicebus-log/1 hello 0123456789abcdef - -1 0 -",
        b"servicebus-log/1 hello 0123456789abcdef - 1 0",
        b"servicebus-log/1  hello 0123456789abcdef - 1 0 -",
        b"servicebus-log/1 hello 0123456789abcdef - 1 0 - ",
        b"servicebus-log/1 hello 0123456789abcdef - " + b"1" * 19 + b" 0 -",
    ],
)
def test_a_head_that_is_nearly_right_is_malformed(head: bytes) -> None:
    assert reason_of(head + b"\n{}", signer=None) == "malformed"


def test_a_record_of_the_old_service_is_recognised_without_unpickling() -> None:
    """The bytes are what logging.handlers.DatagramHandler really sends, as py-servicebus 2.x used it."""
    handler = logging.handlers.DatagramHandler("127.0.0.1", 9)
    raw = handler.makePickle(logging.LogRecord("app", logging.INFO, "f.py", 1, "text", None, None))
    handler.close()
    assert is_pickled_record(raw)
    assert reason_of(raw) == "pickled"


@given(st.integers(1, 10**17), st.lists(RECORDS, max_size=5))
def test_a_batch_survives_the_wire(first: int, records: list[Record]) -> None:
    batch = decode_batch(encode_batch(first, records))
    assert batch.first == first
    assert list(batch.records) == records


@given(st.lists(RECORDS, max_size=5), st.integers(1, 500))
def test_pieces_have_the_size_that_was_asked_for_and_join_to_the_whole(records: list[Record], max_bytes: int) -> None:
    body = encode_batch(1, records)
    pieces = list(in_pieces(body, max_bytes))
    assert b"".join(piece for _, piece in pieces) == body
    assert all(len(piece) <= max_bytes for _, piece in pieces)
    kinds = [kind for kind, _ in pieces]
    assert kinds == (
        [DatagramKind.RECORDS]
        if len(body) <= max_bytes
        else [DatagramKind.PIECE] * (len(kinds) - 1) + [DatagramKind.LAST]
    )


GOOD_ROW: list[Any] = [1.5, 20, "INFO", "app", "MainThread", "text"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"\xff",
        b"{" * 100_000,
        b"[" * 100_000,
        b'{"first": 1}',
        b'{"first": 0, "records": []}',
        b'{"first": true, "records": []}',
        b'{"first": 1.0, "records": []}',
        b'{"first": 1, "records": [7]}',
        b'{"first": 1, "records": [[]]}',
        b'{"first": 1, "records": [[NaN, 20, "INFO", "a", "b", "c"]]}',
        b'{"first": 1, "records": [[Infinity, 20, "INFO", "a", "b", "c"]]}',
        b'{"first": 1, "records": [[-1, 20, "INFO", "a", "b", "c"]]}',
    ],
)
def test_a_body_that_is_no_batch_is_malformed(body: bytes) -> None:
    with pytest.raises(EnvelopeError, match="malformed"):
        decode_batch(body)


@pytest.mark.parametrize("at", range(6))
def test_each_field_of_a_record_is_checked(at: int) -> None:
    row = list(GOOD_ROW)
    row[at] = None
    with pytest.raises(EnvelopeError, match="wrong type"):
        decode_batch(json.dumps({"first": 1, "records": [row]}).encode())


def test_a_body_that_is_an_array_is_no_object() -> None:
    with pytest.raises(EnvelopeError, match="no JSON object"):
        decode_object(b"[1]")


@given(ANY_TEXT, st.integers(0, 40))
def test_a_long_message_is_cut_between_two_characters_and_says_so(message: str, max_bytes: int) -> None:
    size = len(message.encode("utf-8", "surrogatepass"))
    found = cut_message(message, max_bytes)
    if size <= max_bytes:
        assert found == message
        return
    kept, mark, _ = found.rpartition(" [cut here: ")
    assert mark
    assert message.startswith(kept)
    kept_bytes = len(kept.encode("utf-8", "surrogatepass"))
    assert max_bytes - 4 < kept_bytes <= max_bytes
    assert found.endswith(f"{size - kept_bytes} of {size} bytes are missing]")


def test_a_message_of_one_mebibyte_is_not_cut() -> None:
    message = "x" * MAX_MESSAGE_BYTES
    assert cut_message(message) is message


def test_a_signature_error_is_an_envelope_error_that_keeps_the_secret() -> None:
    with pytest.raises(SignatureError) as caught:
        decode_datagram(encode_datagram(Datagram(DatagramKind.HELLO, SENDER), Keyring(["another secret"])), KEYS)
    assert "secret token" not in str(caught.value)
