"""Envelopes of version 1: the bytes that real peers write, what they accept, and what nobody accepts."""

import json
import subprocess
import sys
from contextlib import suppress
from typing import Any
from xml.dom.minidom import parseString

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_forms import encode_envelope

from servicebus.compat.envelope import (
    OldEvent,
    OldReply,
    decode_event,
    decode_reply,
    encode_event,
    encode_reply,
    is_old_event,
)
from servicebus.errors import EnvelopeError
from servicebus.wire.envelope import Envelope, Kind
from servicebus.wire.jsontext import encode_json

LIMIT = 100_000

EVENT = b"""<?xml version="1.0"?>
<event version="1">
    <id>1</id>
    <token>e3ce9809a6729d10ec65bf4434a96be2c77abcc6</token>
    <catgory>math</catgory>
    <service>add</service>
    <params><![CDATA[[1, 2]]]></params>
</event>
"""
REPLY = b"""<?xml version="1.0"?>
<response>
    <id>1</id>
    <message><![CDATA[3]]></message>
</response>
"""
ADD = OldEvent("1", "e3ce9809a6729d10ec65bf4434a96be2c77abcc6", "math", "add", b"[1, 2]")

# Carriage returns too come back as line feeds, as from every XML.
xml_text = st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from("\t\n"))
names = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="<>&\ufffe\uffff"), min_size=1)
clean_text = xml_text.map(lambda text: text.replace("\ufffe", "").replace("\uffff", ""))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


def test_an_event_is_written_byte_for_byte_as_2_19_does() -> None:
    assert encode_event(ADD) == EVENT
    assert len(EVENT) == 221


def test_the_event_of_2_19_is_read() -> None:
    assert decode_event(EVENT, LIMIT) == ADD


def test_a_reply_is_written_byte_for_byte_as_2_19_does() -> None:
    assert encode_reply(OldReply("1", "3")) == REPLY


def test_the_reply_of_2_19_is_read() -> None:
    assert decode_reply(REPLY, LIMIT) == OldReply("1", "3")


@given(names, names, json_values)
def test_what_json_can_say_comes_back(category: str, service: str, value: object) -> None:
    event = OldEvent("17", "t", category, service, encode_json(value))
    assert decode_event(encode_event(event), LIMIT) == event


@given(names, json_values)
def test_the_parser_of_2_19_reads_what_we_write(category: str, value: object) -> None:
    """It is minidom, which joins text and CDATA of the first element of each name."""
    params = json.dumps(value, ensure_ascii=False).replace("\\ud", "").encode("utf-8", "replace")
    try:
        body = encode_event(OldEvent("17", "t", category, "s", params))
    except EnvelopeError:
        return  # a character that XML cannot carry, raw: refused, not sent
    read: Any = parseString(body).documentElement  # noqa: S318 - what the real peer uses, on what we wrote
    found = {
        name: "".join(part.data for part in read.getElementsByTagName(name)[0].childNodes)
        for name in ("catgory", "params")
    }
    assert found == {"catgory": category, "params": params.decode()}


@given(clean_text, clean_text)
def test_reply_text_comes_back(id: str, text: str) -> None:
    reply = OldReply(id, text)
    assert decode_reply(encode_reply(reply), LIMIT) == reply


def test_the_end_of_cdata_survives_in_both_directions() -> None:
    """2.19 itself loses such calls, and gives None for such replies."""
    event = OldEvent("1", "t", "c", "s", b'["]]>", "a]]>]]>b"]')
    assert decode_event(encode_event(event), LIMIT) == event
    assert decode_reply(encode_reply(OldReply("1", "]]>]]>")), LIMIT).text == "]]>]]>"


@pytest.mark.parametrize(
    "body",
    [
        EVENT.replace(b'version="1"', b'version="2"'),
        EVENT.replace(b'version="1"', b'version=""'),
        EVENT.replace(b"catgory", b"category"),
        EVENT.replace(b"<catgory>", b"<category>other</category><catgory>"),
        EVENT.removeprefix(b'<?xml version="1.0"?>\n'),
        EVENT.replace(b"?>", b' encoding="UTF-8"?>', 1),
        EVENT.replace(b"<![CDATA[[1, 2]]]>", b" [1, 2]&#10;"),
        EVENT.replace(b"<![CDATA[[1, 2]]]>", b"<![CDATA[[1,]]><![CDATA[ 2]]]>"),
        EVENT.replace(b"</params>", b"</params><id>2</id><more><deep/></more>"),
        EVENT.replace(b"    <id>1</id>\n", b"").replace(b"</params>", b"</params><id>1</id>"),
    ],
)
def test_what_a_real_agent_accepts_is_accepted(body: bytes) -> None:
    event = decode_event(body, LIMIT)
    assert (event.id, event.category, event.service) == ("1", "math", "add")
    assert json.loads(event.params) == [1, 2]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "malformed"),
        (b"PING\n", "malformed"),
        (b"{}", "malformed"),
        (EVENT.replace(b' version="1"', b"", 1).replace(b'?><event version="1"', b"?><event"), "malformed"),
        (b"<event><id>1</id></event>", "malformed"),
        (EVENT.replace(b"event", b"wrong"), "malformed"),
        (EVENT.replace(b"catgory", b"kategorie"), "malformed"),
        (EVENT.replace(b"<token>", b"<nekot>").replace(b"</token>", b"</nekot>"), "malformed"),
        (EVENT.replace(b"math", b"<b>math</b>"), "malformed"),
        (EVENT.replace(b"math", b"ma<!-- -->th"), "malformed"),
        (EVENT.replace(b"math", b"&math;"), "malformed"),
        (EVENT.replace(b"math", b"\x01"), "malformed"),
        (EVENT.replace(b"math", b"\xff"), "malformed"),
        (EVENT.decode().encode("utf-16"), "malformed"),
        (b"<!-- c -->" + EVENT.removeprefix(b'<?xml version="1.0"?>\n'), "malformed"),
        (EVENT.replace(b"<event", b"<!DOCTYPE event><event", 1), "dtd"),
        (EVENT.replace(b"<event", b'<!DOCTYPE e [<!ENTITY a "b">]><event', 1), "dtd"),
        (EVENT.replace(b"</event>", b"<a>" * 300 + b"</a>" * 300 + b"</event>"), "too-deep"),
        (EVENT + b" " * LIMIT, "oversized"),
    ],
)
def test_what_is_no_event_is_refused_with_its_reason(body: bytes, reason: str) -> None:
    with pytest.raises(EnvelopeError) as refused:
        decode_event(body, LIMIT)
    assert refused.value.reason == reason


@given(st.binary(max_size=300))
def test_garbage_raises_envelope_error_and_nothing_else(body: bytes) -> None:
    for decode in (decode_event, decode_reply):
        with pytest.raises(EnvelopeError):
            decode(body, LIMIT)


@given(st.data())
def test_a_damaged_envelope_is_read_or_refused_and_nothing_else(data: st.DataObject) -> None:
    body = bytearray(data.draw(st.sampled_from([EVENT, REPLY])))
    for _ in range(data.draw(st.integers(1, 5))):
        start = data.draw(st.integers(0, len(body)))
        body[start : start + data.draw(st.integers(0, 8))] = data.draw(
            st.binary(max_size=6) | st.sampled_from([b"<", b"]]>", b"<![CDATA[", b"&#0;", b"<!DOCTYPE x>", b"<?p?>"])
        )
    for decode in (decode_event, decode_reply):
        with suppress(EnvelopeError):
            decode(bytes(body), LIMIT)


@pytest.mark.parametrize("name", ["a<b", "a>b", "a&b", "</catgory><service>other</service>"])
def test_a_name_with_markup_is_refused_before_it_is_sent(name: str) -> None:
    """2.19 pastes it in: whoever chooses the category chooses the service, and more."""
    for event in (OldEvent("1", "t", name, "s", b"1"), OldEvent("1", "t", "c", name, b"1")):
        with pytest.raises(EnvelopeError, match="unencodable"):
            encode_event(event)


@pytest.mark.parametrize("text", ["\0", "a\x1b[0m", "\ud800", "\uffff"])
def test_what_xml_cannot_hold_is_refused_by_name(text: str) -> None:
    with pytest.raises(EnvelopeError, match=r"unencodable: the result holds U\+"):
        encode_reply(OldReply("1", text))


def test_the_id_of_a_request_cannot_bend_its_reply() -> None:
    reply = OldReply("</id><message>forged</message><id>", "true")
    assert decode_reply(encode_reply(reply), LIMIT) == reply


@pytest.mark.parametrize(
    "body",
    [
        REPLY.replace(b"response", b"anything"),
        REPLY.replace(b"<![CDATA[3]]>", b"3"),
        REPLY.replace(b"<![CDATA[3]]>", b"<![CDATA[]]>3"),
        REPLY.replace(b"</response>", b"<more/></response>"),
    ],
)
def test_what_a_real_caller_accepts_as_a_reply_is_accepted(body: bytes) -> None:
    assert decode_reply(body, LIMIT) == OldReply("1", "3")


@pytest.mark.parametrize("body", [b"", b"PONG", b"3", b"<response><id>1</id></response>"])
def test_what_is_no_reply_is_refused(body: bytes) -> None:
    with pytest.raises(EnvelopeError):
        decode_reply(body, LIMIT)


def test_the_two_versions_are_told_apart() -> None:
    new = Envelope("0123456789abcdef-1", "N", "c", "s", Kind.MESSAGE, 1, 1, "", b"1", "01234567:" + "0" * 64)
    assert is_old_event(EVENT)
    assert not is_old_event(encode_envelope(new))
    assert not is_old_event(b"garbage")


def test_the_token_stays_out_of_the_repr() -> None:
    assert ADD.token not in repr(ADD)


PASTED = ["]]>", "a]]>b", "]]>]]>", "x]]", "]]>\n</params>\n", "<b>]]></message>&amp;]]>", "]]>]]></params></event>"]


@pytest.mark.parametrize("text", PASTED)
def test_a_payload_with_the_end_of_cdata_arrives_as_2_19_writes_it(text: str) -> None:
    """It pastes payloads into one CDATA section, so that this is no XML: its own peers lose such calls."""
    params = json.dumps([text])
    assert decode_event(EVENT.replace(b"[1, 2]", params.encode()), LIMIT).params.decode() == params
    assert decode_reply(REPLY.replace(b"[3]", f"[{text}]".encode()), LIMIT).text == text


@given(clean_text, clean_text)
def test_any_payload_around_the_end_of_cdata_arrives(one: str, other: str) -> None:
    text = f"{one}]]>{other}"
    if "<![CDATA[" not in text:  # this would be XML, and mean what XML says
        assert decode_reply(REPLY.replace(b"[3]", f"[{text}]".encode()), 10 * LIMIT).text == text


@pytest.mark.parametrize(
    "body",
    [
        b"<r>" + b"<a>" * 300_000,
        b"<r>" + b"<a/>" * 300_000,
        b"<r" + b' a="b"' * 300_000,
        b"<r" + b" " * 1_000_000,
        b"<" + b"a" * 1_000_000,
        b"<r>" + b"<![CDATA[" * 100_000,
        b"<r><id/><message><![CDATA[" + b"]]>" * 300_000 + b"</message>",
        b"<r><id/><message><![CDATA[" + b"]]></message>" * 100_000,
        b"<r>" + b"&" * 1_000_000,
    ],
    ids=["deep", "flat", "attributes", "spaces", "a name", "CDATA", "ends", "closed often", "references"],
)
def test_what_is_no_document_is_known_in_linear_time(body: bytes) -> None:
    """A quadratic reader would need minutes, which the limit of each test ends."""
    for decode in (decode_event, decode_reply):
        with pytest.raises(EnvelopeError):
            decode(body, 10 * len(body))


def test_names_that_a_stranger_chose_never_reach_libxml2() -> None:
    """It keeps them all."""
    program = (
        "import sys\n"
        "from servicebus.compat.envelope import decode_event, decode_reply\n"
        f"decode_event({EVENT!r}, 10000)\n"
        f"decode_reply({REPLY!r}, 10000)\n"
        "assert not [name for name in sys.modules if name.startswith('lxml')]\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
