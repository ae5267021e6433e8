from __future__ import annotations

import gc
import random
import threading
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from string import ascii_letters, digits
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_forms import encode_envelope, sign_envelope

from servicebus._context import encode_context
from servicebus.errors import AddressError, EnvelopeError, SignatureError
from servicebus.wire.address import MAX_PART_CHARS, Address
from servicebus.wire.envelope import DIRECT_REPLY_TO, Envelope, Kind, Reply, make_id
from servicebus.wire.fault import Fault
from servicebus.wire.signing import Keyring
from servicebus.wire.xmlcodec import (
    decode_envelope,
    decode_json,
    decode_reply,
    encode_json,
    encode_reply,
    write_answer,
)
from servicebus.wire.xmlshape import PLAIN_EVENT, PLAIN_EVENT_OF_MORE, PLAIN_RESPONSE

UNTIMED = settings(deadline=None)  # other processes may have the cores
MAX_BYTES = 1_000_000
KEYS = Keyring(["secret token"])
REQUEST = KEYS.sign_bytes(b"servicebus/2 event", b"the request")
CALL = Envelope("0123456789abcdef-1", "NODE-01", "math", "add", Kind.CALL, 1_700_000_000_000, 5_000, "", b"[1,2]")
ANY_TEXT = st.text(st.characters(exclude_categories=()))


def is_name(text: str) -> bool:
    try:
        Address("N", text, text)
    except AddressError:
        return False
    return True


NAMES = st.text(min_size=1, max_size=MAX_PART_CHARS // 4).filter(is_name)
NUMBERS = st.integers(min_value=0, max_value=10**15 - 1)
IDS = st.builds(make_id, st.from_regex(r"[0-9a-f]{16}", fullmatch=True), st.integers(1, 10**18 - 1))
ENVELOPES = st.builds(
    Envelope,
    id=IDS,
    node=NAMES,
    category=NAMES,
    service=NAMES,
    kind=st.sampled_from([Kind.CALL, Kind.MESSAGE, Kind.CONTROL]),
    sent_ms=NUMBERS,
    ttl_ms=NUMBERS,
    reply=st.sampled_from(["", DIRECT_REPLY_TO]) | NAMES,
    params=ANY_TEXT.map(encode_json)
    | st.sampled_from([b'"]]>"', b'"]]>]]>"', b'"<![CDATA[x]]>"', b'"]]]]>>"', b'["]>", "]]>"]']),
    due_ms=st.just(0) | NUMBERS,
).map(lambda envelope: envelope if envelope.kind is Kind.MESSAGE else replace(envelope, due_ms=0))
CONTRACTS = st.just("") | st.from_regex(r"[0-9a-f]{24}", fullmatch=True)
CONTEXTS = st.dictionaries(
    st.from_regex(r"[a-z0-9._-]{1,64}", fullmatch=True),
    st.text(st.characters(exclude_categories=["Cc", "Cs"])),
    max_size=5,
).map(encode_context)
FAULTS = st.builds(
    Fault,
    ANY_TEXT,
    ANY_TEXT,
    st.none() | ANY_TEXT,
    st.none() | st.integers(),
    st.none() | st.integers(),
    st.none() | ANY_TEXT,
)


MORE = st.fixed_dictionaries({"contract": CONTRACTS, "context": CONTEXTS})


def signed(envelope: Envelope) -> bytes:
    return encode_envelope(envelope, sign_envelope(KEYS, envelope))


# -- round trips -------------------------------------------------------------------------------------------------------


@UNTIMED
@given(ENVELOPES, MORE, st.integers(1, 10**9 - 1))
def test_every_envelope_survives_the_round_trip_and_verifies(
    envelope: Envelope, more: dict[str, Any], attempt: int
) -> None:
    for each in (replace(envelope, **more), replace(envelope, **more, attempt=attempt)):
        read = decode_envelope(signed(each), MAX_BYTES)
        assert replace(read, token="") == each
        KEYS.verify_envelope(read)


PLAIN_NAMES = st.text(f"{ascii_letters}{digits}_:/+-", min_size=1, max_size=20)


@UNTIMED
@given(ENVELOPES, PLAIN_NAMES, PLAIN_NAMES, PLAIN_NAMES, MORE)
def test_plain_documents_are_read_as_lxml_reads_them(
    envelope: Envelope, node: str, category: str, name: str, more: dict[str, Any]
) -> None:
    plain: dict[str, Any] = {"node": node, "category": category, "service": name, "reply": DIRECT_REPLY_TO, "due_ms": 0}
    for each in (envelope, replace(envelope, **more), replace(envelope, **plain, **more), replace(envelope, **plain)):
        body = signed(each)
        through_lxml = body.replace(b"<event ", b"<event  ", 1)
        assert PLAIN_EVENT.match(through_lxml) is None and PLAIN_EVENT_OF_MORE.match(through_lxml) is None
        assert decode_envelope(body, MAX_BYTES) == decode_envelope(through_lxml, MAX_BYTES)
    assert PLAIN_EVENT.match(body) is not None
    assert PLAIN_EVENT_OF_MORE.match(signed(replace(envelope, **plain, **more))) is not None


@UNTIMED
@given(IDS, ANY_TEXT)
def test_plain_replies_are_read_as_lxml_reads_them(id: str, text: str) -> None:
    payload = encode_json(text)
    body = encode_reply(Reply(id, KEYS.sign_reply(REQUEST, id, "ok", payload, None), "ok", payload))
    through_lxml = body.replace(b"<response ", b"<response  ", 1)
    assert PLAIN_RESPONSE.match(body) is not None
    assert PLAIN_RESPONSE.match(through_lxml) is None
    assert decode_reply(body, MAX_BYTES) == decode_reply(through_lxml, MAX_BYTES)


@UNTIMED
@given(IDS, st.binary(max_size=50).map(lambda raw: encode_json(raw.hex())), ANY_TEXT)
def test_every_result_survives_the_round_trip_and_verifies(id: str, message: bytes, text: str) -> None:
    for payload in (message, encode_json(text)):
        reply = Reply(id, KEYS.sign_reply(REQUEST, id, "ok", payload, None), "ok", payload)
        read = decode_reply(encode_reply(reply), MAX_BYTES)
        assert read == reply
        KEYS.verify_reply(read, REQUEST)


@UNTIMED
@given(IDS, FAULTS)
def test_every_fault_survives_the_round_trip_and_verifies(id: str, fault: Fault) -> None:
    reply = Reply(id, KEYS.sign_reply(REQUEST, id, "fault", b"", fault), "fault", b"", fault)
    read = decode_reply(encode_reply(reply), MAX_BYTES)
    assert read == reply
    KEYS.verify_reply(read, REQUEST)


@pytest.mark.parametrize("length", [0, 900, 1100, 100_000])
@pytest.mark.parametrize("inside", [b"]]>", b"]>]]>", b"> ]", b">", b"]]>]]>", b""])
def test_the_end_of_cdata_in_a_text_of_any_length_is_split(length: int, inside: bytes) -> None:
    for params in (b'"' + b"x" * length + inside + b'"', b'["' + inside + b"x" * length + b'"]'):
        body = encode_envelope(replace(CALL, params=params), "k:00")
        assert body.count(b"]]>") == body.count(b"<![CDATA[") == 1 + inside.count(b"]]>")
        assert decode_envelope(body, MAX_BYTES).params == params
        assert decode_reply(write_answer(CALL.id, "k:00", params), MAX_BYTES).message == params


def test_a_decoded_envelope_is_the_frozen_value_that_its_class_promises() -> None:
    """It is built by a faster way than its constructor."""
    read = decode_envelope(encode_envelope(CALL), MAX_BYTES)
    assert type(read) is Envelope
    assert read == CALL
    assert hash(read) == hash(CALL)
    assert repr(read) == repr(CALL)
    with pytest.raises(FrozenInstanceError):
        read.node = "OTHER"  # type: ignore[misc]


def test_a_decoded_reply_is_the_frozen_value_that_its_class_promises() -> None:
    reply = Reply(CALL.id, "key:00", "ok", b"3")
    read = decode_reply(encode_reply(reply), MAX_BYTES)
    assert type(read) is Reply
    assert (read, hash(read), repr(read)) == (reply, hash(reply), repr(reply))
    with pytest.raises(FrozenInstanceError):
        read.id = "OTHER"  # type: ignore[misc]


def test_an_envelope_knows_the_parts_of_its_id_and_its_address() -> None:
    assert (CALL.incarnation, CALL.count, CALL.address) == ("0123456789abcdef", 1, "NODE-01.math.add")


def test_white_space_between_elements_is_no_matter() -> None:
    body = signed(CALL)
    spread = body.replace(b"><", b">\r\n\t <").replace(b"<params>\r\n\t <", b"<params><").replace(b" node", b"\n\tnode")
    spread = spread.replace(b"]>\r\n\t </params>", b"]></params>") + b"\n"
    assert spread != body
    KEYS.verify_envelope(decode_envelope(spread, MAX_BYTES))


@pytest.mark.parametrize(
    "prolog", ["", '<?xml version="1.0"?>\n', '<?xml version="1.0" encoding="UTF-8"?>', '<?xml version="1.0"?>\r\n\r\n']
)
def test_the_xml_declaration_may_differ_or_be_missing(prolog: str) -> None:
    body = prolog.encode() + signed(CALL)
    KEYS.verify_envelope(decode_envelope(body, MAX_BYTES))


# -- what is refused ---------------------------------------------------------------------------------------------------


def flips(body: bytes) -> Any:
    for position, byte in enumerate(body):
        for other in range(256):
            if other != byte:
                yield position, body[:position] + bytes([other]) + body[position + 1 :]


def check_flips(body: bytes, original: Any, verified: Callable[[bytes], Any]) -> None:
    for position, flipped in flips(body):
        try:
            read = verified(flipped)
        except EnvelopeError:
            continue
        # White space between tags is nobody's: one for another is the same envelope still. Nothing else verifies.
        assert read == original
        assert {body[position], flipped[position]} <= set(b" \t\r\n")


@pytest.mark.parametrize(
    "fields",
    [
        {"service": "a<b"},
        {"contract": "0123456789abcdef01234567", "context": '{"k":"a\\n \\u003c"}'},
        {"context": '{"k":""}'},
    ],
    ids=["bare", "with-all", "with-a-context"],
)
def test_no_byte_of_a_signed_envelope_can_be_flipped(fields: dict[str, Any]) -> None:
    """All 255 flips of each of its bytes."""

    def verified(body: bytes) -> Envelope:
        read = decode_envelope(body, MAX_BYTES)
        KEYS.verify_envelope(read)
        return read

    body = signed(replace(CALL, reply=DIRECT_REPLY_TO, **fields))
    check_flips(body, verified(body), verified)


@pytest.mark.parametrize("fault", [None, Fault("busy", "a & b", "Traceback\n", 50)])
def test_no_byte_of_a_signed_reply_can_be_flipped(fault: Fault | None) -> None:
    def verified(body: bytes) -> Reply:
        read = decode_reply(body, MAX_BYTES)
        KEYS.verify_reply(read, REQUEST)
        return read

    status, message = ("ok", b"3") if fault is None else ("fault", b"")
    token = KEYS.sign_reply(REQUEST, CALL.id, status, message, fault)
    body = encode_reply(Reply(CALL.id, token, status, message, fault))
    check_flips(body, verified(body), verified)


EVENT = signed(replace(CALL, reply=DIRECT_REPLY_TO))
EVENT_WITH_CONTEXT = signed(replace(CALL, reply=DIRECT_REPLY_TO, context='{"traceparent":"00-4bf9-00f0-01","k":"v"}'))
RESPONSES = [
    encode_reply(Reply(CALL.id, "t", "ok", b'{"a":"]]"}')),
    encode_reply(Reply(CALL.id, "t", "fault", b"", Fault("E", "text", "trace", 5))),
]
SNIPPETS = [
    *(b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b"&b;", b"&#0;", b"&lt;", b"<!--", b"-->", b"<![CDATA[", b"]]>", b"<?x?>"),
    *(b"<a>", b"</a>", b"<id>", b"</event>", b"<params>", b"\xff", b"\x00", b"\xed\xa0\x80", b"xmlns='x'", b' ttl="1"'),
    *(
        b"<context>",
        b"</context>",
        b'<context>{"k":"v"}</context>',
        b'","l":"',
        b' contract="0123456789abcdef01234567"',
    ),
]


@st.composite
def mutants(draw: st.DrawFn) -> bytes:
    body = draw(st.sampled_from([EVENT, EVENT_WITH_CONTEXT, *RESPONSES]))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(body)))
        end = draw(st.integers(start, min(len(body), start + 40)))
        new = draw(st.binary(max_size=5) | st.sampled_from(SNIPPETS) | st.just(body[start:end] * 2))
        body = body[:start] + new + body[end:]
    return body


@UNTIMED
@given(st.binary(max_size=400) | mutants())
def test_no_bytes_raise_anything_but_envelope_errors(body: bytes) -> None:
    for decode in (decode_envelope, decode_reply):
        try:
            read = decode(body, MAX_BYTES)
        except EnvelopeError as refusal:
            assert refusal.reason in ("malformed", "dtd", "too-deep")
            assert refusal.detail
        else:
            assert isinstance(read, (Envelope, Reply))


@UNTIMED
@given(mutants())
def test_no_mutant_of_a_signed_envelope_verifies_as_another(body: bytes) -> None:
    try:
        read = decode_envelope(body, MAX_BYTES)
        KEYS.verify_envelope(read)
    except EnvelopeError:
        return
    assert read in (decode_envelope(EVENT, MAX_BYTES), decode_envelope(EVENT_WITH_CONTEXT, MAX_BYTES))


def test_a_context_taken_out_or_moved_to_another_envelope_is_refused() -> None:
    head, context, tail = EVENT_WITH_CONTEXT.partition(b'<context>{"traceparent":"00-4bf9-00f0-01","k":"v"}</context>')
    for body in (head + tail, EVENT.replace(b"<params>", context + b"<params>")):
        with pytest.raises(SignatureError):
            KEYS.verify_envelope(decode_envelope(body, MAX_BYTES))


def test_a_context_is_not_in_the_repr_of_its_envelope() -> None:
    read = decode_envelope(EVENT_WITH_CONTEXT, MAX_BYTES)
    assert "traceparent" in read.context and "traceparent" not in repr(read)


def test_a_parser_that_has_refused_reads_the_next_envelope() -> None:
    """One parser serves a thread for its life."""
    for body in (EVENT[:250], EVENT.replace(b"math", b"&nothing;"), EVENT.replace(b"math", b"\xff"), b"<" * 1000):
        with pytest.raises(EnvelopeError):
            decode_envelope(body, MAX_BYTES)
        assert decode_envelope(EVENT, MAX_BYTES).category == "math"


@pytest.mark.parametrize(("decode", "body"), [(decode_envelope, EVENT), (decode_reply, RESPONSES[0])])
def test_a_body_above_the_limit_is_refused_unread(decode: Callable[[bytes, int], Any], body: bytes) -> None:
    assert decode(body, len(body))
    with pytest.raises(EnvelopeError, match=rf"{len(body)} bytes, allowed are {len(body) - 1}") as refusal:
        decode(body, len(body) - 1)
    assert refusal.value.reason == "oversized"


def test_a_payload_of_many_megabytes_is_no_matter() -> None:
    """libxml2 stops at 10 MB of text; the payload does not go through it."""
    envelope = replace(CALL, params=encode_json("x]]>" * 4_000_000))
    assert decode_envelope(signed(envelope), 50_000_000).params == envelope.params


def grown_kib(work: Callable[[], None]) -> int:
    def resident_kib() -> int:
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4

    before = resident_kib()
    work()
    return resident_kib() - before


def test_names_of_strangers_leave_no_trace_in_memory() -> None:
    """libxml2 keeps each element and attribute name for the life of the thread: these would leave 24 MB behind."""
    long = b"x" * 40_000

    def refuse_many() -> None:
        for number in range(300):
            name = b"%b%d" % (long, number)
            for body in (
                EVENT.replace(b"category", name),
                EVENT.replace(b" kind=", b" " + name + b'="1" kind='),
                EVENT.replace(b"event", name),
            ):
                with pytest.raises(EnvelopeError):
                    decode_envelope(body, MAX_BYTES)

    assert grown_kib(refuse_many) < 10_000


# -- what cannot be written --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"node": ""},
        {"node": "a.b"},
        {"category": "a b"},
        {"service": "a\x00"},
        {"service": "\ud800"},
        {"service": "\ufffe"},
        {"service": "s" * 101},
        {"id": "1"},
        {"id": "0123456789ABCDEF-1"},
        {"id": "0123456789abcdef-0"},
        {"id": "0123456789abcdef-1\n"},
        {"id": "0123456789abcdef-\u0661"},
        {"sent_ms": -1},
        {"ttl_ms": 10**15},
        {"reply": "a b"},
        {"reply": "a\nb"},
        {"reply": "r" * 256},
        {"token": "<"},
        {"token": "a</token><token>b"},
        {"token": "\u00e9"},
        {"token": "t" * 256},
        {"context": "{}"},
        {"context": '["k","v"]'},
        {"context": '{"k":"<"}'},
        {"context": '{"k":"\u00e9"}'},
        {"context": '{"k":"v"}\n'},
        {"context": '{"k":"%s"}' % ("v" * 4089)},
        {"contract": "0123456789ABCDEF01234567"},
    ],
)
def test_what_no_receiver_would_accept_is_refused_at_the_caller(wrong: dict[str, Any]) -> None:
    with pytest.raises(EnvelopeError) as refusal:
        encode_envelope(replace(CALL, **wrong))
    assert refusal.value.reason == "unencodable"


def test_a_refusal_does_not_show_the_token() -> None:
    with pytest.raises(EnvelopeError) as refusal:
        encode_envelope(replace(CALL, id="wrong"), "e8e26184:feedface")
    assert "feedface" not in str(refusal.value)


@pytest.mark.parametrize(
    "reply",
    [
        Reply("1", "t", "ok", b"3"),
        Reply(CALL.id, "<", "ok", b"3"),
        Reply(CALL.id, "t", "maybe", b"3"),
        Reply(CALL.id, "t", "fault", b""),
        Reply(CALL.id, "t", "ok", b"3", Fault("E", "x")),
    ],
)
def test_a_reply_that_no_caller_would_accept_is_refused_at_the_agent(reply: Reply) -> None:
    with pytest.raises(EnvelopeError) as refusal:
        encode_reply(reply)
    assert refusal.value.reason == "unencodable"


# -- threads -----------------------------------------------------------------------------------------------------------


def test_many_threads_encode_and_decode_at_once_without_mixing_anything_up() -> None:
    wrong: list[object] = []

    def work(seed: int) -> None:
        chance = random.Random(seed)
        for count in range(1, 400):
            envelope = replace(
                CALL,
                id=make_id(f"{seed:016x}", count),
                service=f"s{seed}",
                params=encode_json([seed, count, "]]>" * chance.randrange(50)]),
            )
            body = signed(envelope)
            if chance.random() < 0.2:
                body = body[: chance.randrange(len(body))]
            try:
                read = decode_envelope(body, MAX_BYTES)
                KEYS.verify_envelope(read)
                if replace(read, token="") != envelope or decode_json(read.params)[:2] != [seed, count]:
                    wrong.append((envelope, read))
            except SignatureError as error:
                wrong.append(error)
            except EnvelopeError as error:
                if body == signed(envelope):
                    wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []
