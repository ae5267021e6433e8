from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servicebus._secret import ENCRYPTED
from servicebus.errors import EnvelopeError
from servicebus.wire.jsontext import MAX_JSON_DEPTH, decode_json, encode_json

UNTIMED = settings(deadline=None)  # other processes may have the cores
# Surrogates too, which text() leaves out by itself; and the texts that XML stumbles over, more often than by chance.
TEXTS = st.text(st.characters(exclude_categories=())) | st.sampled_from(
    ["]]>", "]]", ">", "\x00", "\ud800", "<![CDATA["]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
VALUES = st.recursive(
    SCALARS, lambda child: st.lists(child, max_size=5) | st.dictionaries(TEXTS, child, max_size=5), max_leaves=20
)


def as_json_has_it(value: Any) -> Any:
    """JSON has one way to say a high and a low surrogate side by side: the character that they are."""
    return json.loads(json.dumps(value))


@UNTIMED
@given(VALUES)
def test_everything_json_can_say_survives_the_round_trip(value: Any) -> None:
    raw = encode_json(value)
    again = decode_json(raw)
    assert again == as_json_has_it(value)
    assert repr(again) == repr(as_json_has_it(value)), "1 and True, 0.0 and -0.0 are equal, but not the same"


@UNTIMED
@given(VALUES)
def test_what_is_written_is_ascii_without_the_end_of_cdata(value: Any) -> None:
    raw = encode_json(value)
    assert raw.isascii()
    assert b"]]>" not in raw
    assert not any(byte < 0x20 for byte in raw)
    assert json.loads(raw) == json.loads(json.dumps(value))


@UNTIMED
@given(VALUES)
def test_the_prepared_encoder_writes_what_the_standard_one_does(value: Any) -> None:
    expected = json.dumps(value, separators=(",", ":"), allow_nan=False)
    assert encode_json(value).decode() == expected.replace("]]>", "]]\\u003e")


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (float("nan"), "nan at value"),
        ([1.0, float("inf")], "inf at value[1]"),
        ({"a": [0, {1, 2}]}, "set at value['a'][1]"),
        (b"bytes", "bytes at value"),
        ({(1, 2): 3}, "tuple as a key of value"),
        ({"x": object()}, "object at value['x']"),
    ],
)
def test_what_json_cannot_say_is_refused_and_named(value: Any, says: str) -> None:
    with pytest.raises(EnvelopeError) as refusal:
        encode_json(value)
    assert refusal.value.reason == "unencodable"
    assert says in refusal.value.detail


def test_a_number_of_more_digits_than_python_reads_is_refused_at_both_ends() -> None:
    with pytest.raises(EnvelopeError, match=r"unencodable: .*4300"):
        encode_json([10**5000])
    with pytest.raises(EnvelopeError, match=r"bad-json: .*4300"):
        decode_json(b"1" * 5000)


def test_a_class_of_the_user_is_named_with_its_module() -> None:
    class Money:
        pass

    with pytest.raises(EnvelopeError, match=rf"{__name__}\..*Money at value\[0\]"):
        encode_json([Money()])


def test_tuples_and_odd_keys_become_what_the_standard_library_makes_of_them() -> None:
    assert encode_json({1: (2, 3), None: True, 1.5: "x"}) == b'{"1":[2,3],"null":true,"1.5":"x"}'


def nested(depth: int) -> Any:
    value: Any = 0
    for level in range(depth):
        value = [value] if level % 2 else {"[": value}
    return value


def test_depth_is_bounded_at_both_ends() -> None:
    assert decode_json(encode_json(nested(MAX_JSON_DEPTH))) == nested(MAX_JSON_DEPTH)
    with pytest.raises(EnvelopeError) as refusal:
        encode_json(nested(MAX_JSON_DEPTH + 1))
    assert refusal.value.reason == "too-deep"
    with pytest.raises(EnvelopeError) as refusal:
        decode_json(json.dumps(nested(MAX_JSON_DEPTH + 1)).encode())
    assert refusal.value.reason == "too-deep"


@pytest.mark.parametrize("raw", [b"[" * 100_000, b'{"a":' * 100_000, b"[" * 100_000 + b"]" * 100_000])
def test_json_that_is_deep_enough_to_break_a_parser_is_refused_as_too_deep(raw: bytes) -> None:
    with pytest.raises(EnvelopeError) as refusal:
        decode_json(raw)
    assert refusal.value.reason == "too-deep"


def test_a_value_that_holds_itself_is_refused() -> None:
    ring: list[Any] = []
    ring.append(ring)
    with pytest.raises(EnvelopeError) as refusal:
        encode_json(ring)
    assert refusal.value.reason == "too-deep"


@pytest.mark.parametrize("raw", [b"[" * 5000, b'{"a":' * 5000, b"[" * 5000 + b"]" * 4999 + b"x"])
def test_deep_text_that_is_no_json_is_too_deep(raw: bytes) -> None:
    """With every Python: from 3.13 on its own parser does not mind 5000 levels."""
    with pytest.raises(EnvelopeError, match="too-deep"):
        decode_json(raw)


def test_a_small_value_with_many_places_does_not_delay_its_refusal() -> None:
    """30 lists that each hold the next one twice: a thousand million places to look for the culprit."""
    value: Any = 10**5000
    for _ in range(30):
        value = [value, value]
    with pytest.raises(EnvelopeError) as refusal:
        encode_json(value)
    assert "4300" in refusal.value.detail


def test_brackets_inside_strings_are_no_depth() -> None:
    for text in ("[" * 1000, '"[' * 1000, '\\"[{' * 1000, "]" * 1000, '\\\\"['):
        value = {"a": [text, text], "b": [[]] * 300}
        assert decode_json(json.dumps(value).encode()) == value
        assert decode_json(encode_json(value)) == value


@pytest.mark.parametrize("string", [rb'"]\"]"', rb'"\\"', rb'"]\\\"]"', b'"]]]]"'])
def test_strings_cannot_hide_depth(string: bytes) -> None:
    """A bracket inside a string must not count, or a document could look shallow and be deep.

    300 levels: no parser's own limit comes to our help.
    """
    raw = b"[%b," % string * 300 + b"1" + b"]" * 300
    json.loads(raw)
    with pytest.raises(EnvelopeError) as refusal:
        decode_json(raw)
    assert refusal.value.reason == "too-deep"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" ",
        b"[1,2",
        b"[1,2]]",
        b"[1,]",
        b"{'a':1}",
        b"NaN",
        b"[Infinity]",
        b"-Infinity",
        b'"\x01"',
        b'"\n"',
        b"\xff",
        b'"\xed\xa0\x80"',
        b'"\xc3"',
        b"\xef\xbb\xbf1",
        "[1]".encode("utf-16"),
        b"01",
        b"1 2",
        b"nul",
    ],
)
def test_what_is_not_json_in_utf_8_is_refused(raw: bytes) -> None:
    with pytest.raises(EnvelopeError) as refusal:
        decode_json(raw)
    assert refusal.value.reason == "bad-json"


def test_white_space_around_a_value_is_json() -> None:
    assert decode_json(b" \r\n\t[1 , 2] \n") == [1, 2]


def test_a_refusal_does_not_repeat_the_payload() -> None:
    """It goes into logs, and the payload may be a secret."""
    with pytest.raises(EnvelopeError) as refusal:
        decode_json(b'{"password": "hunter2"')
    assert "hunter2" not in str(refusal.value)


@UNTIMED
@given(st.binary(max_size=200) | TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_no_bytes_raise_anything_but_envelope_errors(raw: bytes) -> None:
    try:
        decode_json(raw)
    except EnvelopeError as refusal:
        assert refusal.reason in ("bad-json", "too-deep") or (
            refusal.reason == "encryption" and raw.startswith(ENCRYPTED)
        )


@pytest.mark.parametrize("depth", [1, 2, MAX_JSON_DEPTH, MAX_JSON_DEPTH + 1, 100_000])
@pytest.mark.parametrize("length", [0, 5_000])
def test_the_limit_of_depth_is_the_same_for_long_texts(depth: int, length: int) -> None:
    raw = b"[" * depth + b'"' + b"x" * length + b'"' + b"]" * depth
    if depth <= MAX_JSON_DEPTH:
        assert encode_json(decode_json(raw)) == raw
        return
    with pytest.raises(EnvelopeError) as refusal:
        decode_json(raw)
    assert refusal.value.reason == "too-deep"
    if depth < 900:
        value: object = "x" * length
        for _ in range(depth):
            value = [value]
        with pytest.raises(EnvelopeError, match="too-deep"):
            encode_json(value)


@pytest.mark.parametrize("text", ["]]>", "a]b]]>", "]" * 5 + ">", "x" * 9000 + "]]>", "]]>" + "x" * 9000, "]]"])
def test_the_end_of_a_cdata_section_never_stands_in_the_text(text: str) -> None:
    for value in (text, [text], [[1], text], {"]]>": text}):
        raw = encode_json(value)
        assert b"]]>" not in raw
        assert decode_json(raw) == value
