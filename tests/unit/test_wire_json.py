"""The rules of JSON on the wire: the same for the standard library and for msgspec (the extra ``fast``)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servicebus._secret import ENCRYPTED, Secret, secret_text
from servicebus.errors import EnvelopeError
from servicebus.wire import fastjson, standardjson
from servicebus.wire.jsontext import MAX_JSON_DEPTH

UNTIMED = settings(deadline=None)  # other processes may have the cores
# Surrogates too, which text() leaves out by itself; and the texts that XML stumbles over, more often than by chance.
TEXTS = st.text(st.characters(exclude_categories=())) | st.sampled_from(
    ["]]>", "]]", ">", "\x00", "\ud800", "<![CDATA["]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
VALUES = st.recursive(
    SCALARS, lambda child: st.lists(child, max_size=5) | st.dictionaries(TEXTS, child, max_size=5), max_leaves=20
)

BOTH = {"standard": standardjson, "msgspec": fastjson}
used: list[ModuleType] = []


@pytest.fixture(params=BOTH, scope="module", autouse=True)
def library(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test of this file is run with both."""
    used.append(BOTH[request.param])
    yield
    used.clear()


def encode_json(value: Any) -> bytes:
    raw: bytes = used[0].encode(False, value)
    return raw


def decode_json(raw: bytes) -> Any:
    return used[0].decode(False, raw)


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


def said(what: Any, function: str, library: ModuleType) -> str:
    """The value with its types, or the refusal: what a caller sees."""
    try:
        return repr(getattr(library, function)(False, what))
    except EnvelopeError as refusal:
        return str(refusal)


ODD_TEXTS = [
    rb'["\ud800", "\ud83d\ude00", "\ude00\ud83d", "\ud800\u0041"]',
    rb'{"\ud800": 1, "\ud800": 2}',
    b'{"a": 1, "b": 2, "a": {"x": 1, "x": []}}',
    b"[18446744073709551616, -9223372036854775809, 123456789012345678901234567890]",
    b"9" * 4300,
    b"9" * 4301,
    b"-" + b"9" * 4301,
    b"[1e400, -1e400, 1e-400, 5e-324, -0, -0.0, 1E5, 9007199254740993.0]",
    b"1" * 5000 + b".0",
    b"[1.7976931348623158e308, 1.7976931348623159e308, 2.4703282292062328e-324]",
    b'{"a": 1,}',
    b"{1: 2}",
    b'"\x7f"',
    b"[1] \x00",
    b'{"\xed\xa0\x80": 1}',
    rb'"\u+041"',
    rb'"\x41"',
    b"x" * 5000,
    b"[" * 300 + b"x",
    ENCRYPTED,
]


@pytest.mark.parametrize("raw", ODD_TEXTS)
def test_both_libraries_read_an_odd_text_alike(raw: bytes) -> None:
    assert said(raw, "decode", fastjson) == said(raw, "decode", standardjson)
    long = b'["' + b"x" * 5000 + b'",' + raw + b"]"
    assert said(long, "decode", fastjson) == said(long, "decode", standardjson)


def test_what_a_secret_text_hides_is_hidden_where_that_is_asked_for() -> None:
    for raw in (b'{"name":"Ada","iban":"DE1"}', b'{"name":"Ada","iban":"DE1","more":[' + b"[]," * 2000 + b"[]]}"):
        text = secret_text(raw, [("iban",)])
        assert used[0].decode(True, text)["iban"] == Secret("DE1")
        assert decode_json(text)["iban"] == used[0].decode(True, raw)["iban"] == "DE1"


class Yes(int):
    def __repr__(self) -> str:
        return "yes"


@pytest.mark.parametrize(
    "value",
    [
        [float("nan")], float("inf"), {"a": float("nan")}, [1e16, 1e-5, 1e-7, 1.5, -0.0], {1.5: 1e300},
        [b"x"], {"a": {1, 2}}, [bytearray(b"x")], [1j], [object], {b"x": 1}, [Ellipsis],
        ["\ud800"], {"\ud800": "\udfff"}, "\x7f", ["\x00\x1f\b\f/<>&'"], {"\x7f": 1}, "é\u2028😀", {"é": 1},
        [2**63, 2**64, -(2**63) - 1, 10**30], 10**4301, [10**4301], {"a": 10**4301},
        [Yes(1)], Yes(1), {Yes(1): 1}, {"a": Yes(1)}, {1: 2}, {True: 1, None: 2}, (1, "]]>"), {"]]>": "]]>"},
        [], {}, (),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_both_libraries_write_an_odd_value_alike(value: Any) -> None:
    assert said(value, "encode", fastjson) == said(value, "encode", standardjson)


@UNTIMED
@given(VALUES, st.data())
def test_both_libraries_say_the_same_of_a_broken_text(value: Any, data: st.DataObject) -> None:
    raw = standardjson.encode(False, value)
    at = data.draw(st.integers(0, len(raw)))
    raw = raw[:at] + data.draw(st.binary(max_size=3)) + raw[at + data.draw(st.integers(0, 2)) :]
    assert said(raw, "decode", fastjson) == said(raw, "decode", standardjson)


def test_msgspec_is_used_where_it_is_installed_and_not_needed() -> None:
    which = "import servicebus.wire.jsontext as text; print(text.encode.__module__, text.decode.__module__)"
    for before, name in (("", "fastjson"), ("import sys; sys.modules['msgspec'] = None; ", "standardjson")):
        done = subprocess.run([sys.executable, "-c", before + which], capture_output=True, text=True, check=True)
        assert done.stdout.split() == [f"servicebus.wire.{name}"] * 2
