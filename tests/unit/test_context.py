"""The pairs of a context, as a program gives them and as they travel."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servicebus._context import MAX_CONTEXT_BYTES, decode_context, encode_context, merged
from servicebus.errors import EnvelopeError

UNTIMED = settings(deadline=None)  # other processes may have the cores
KEYS = st.from_regex(r"[a-z0-9._-]{1,64}", fullmatch=True)
VALUES = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=60)


@UNTIMED
@given(st.dictionaries(KEYS, VALUES, max_size=8))
def test_pairs_come_back_as_they_went_whatever_their_values(pairs: dict[str, str]) -> None:
    text = encode_context(pairs)
    assert text.isascii() and text.isprintable() and not set(text) & set("<>&")
    assert dict(decode_context(text)) == pairs if pairs else text == ""


@UNTIMED
@given(st.text(max_size=200) | st.recursive(st.none() | st.integers() | VALUES, st.lists).map(json.dumps))
def test_no_text_raises_anything_but_an_envelope_error(text: str) -> None:
    try:
        pairs = decode_context(text)
    except EnvelopeError as refusal:
        assert refusal.reason == "malformed"
    else:
        assert decode_context(encode_context(pairs) or "{}") == pairs


def test_a_text_of_many_brackets_is_no_json_and_no_recursion() -> None:
    with pytest.raises(EnvelopeError, match="no JSON"):
        decode_context('{"k":' + "[" * 4000)


class Url(str):
    """A text of a program's own type."""


BAD: list[tuple[Any, str]] = [
    ({"Key": "v"}, "the key 'Key' is not 1 to 64 of the characters a-z 0-9 . _ -"),
    ({"": "v"}, "the key '' is not"),
    ({"k" * 65: "v"}, "the key 'kkk"),
    ({"k\n": "v"}, r"the key 'k\\n' is not"),
    ({"k\u00e9": "v"}, r"the key 'k\\xe9' is not"),
    ({1: "v"}, "a key is of type int, not text"),
    ({"k": 1}, "the value of k is of type int, not text"),
    ({"k": b"v"}, "the value of k is of type bytes, not text"),
    ({"k": ["v"]}, "the value of k is of type list, not text"),
    ({"k": "a\nb"}, "the value of k holds a control character"),
    ({"k": "a\x7f"}, "the value of k holds a control character"),
    ({"k": "\x85"}, "the value of k holds a control character"),
    ({"k": "\ud800"}, "the value of k holds a control character or a lone surrogate"),
]


@pytest.mark.parametrize(("pairs", "says"), BAD)
def test_what_is_no_context_is_refused_with_its_key(pairs: Any, says: str) -> None:
    with pytest.raises(EnvelopeError, match=f"context: {says}") as refusal:
        encode_context(pairs)
    assert refusal.value.reason == "unencodable"


@pytest.mark.parametrize("value", ["hunter2\n", "hunter2" * 1000, b"hunter2"])
def test_a_refusal_does_not_show_the_value(value: Any) -> None:
    with pytest.raises(EnvelopeError) as refusal:
        encode_context({"authorization": value})
    assert "hunter2" not in str(refusal.value)


def test_the_limit_is_that_of_the_text_that_travels() -> None:
    room = MAX_CONTEXT_BYTES - len('{"k":""}')
    assert len(encode_context({"k": "v" * room})) == MAX_CONTEXT_BYTES
    for value in ("v" * (room + 1), "\u00e9" * (room // 6 + 1), "<" * (room // 6 + 1), '"' * (room // 2 + 1)):
        with pytest.raises(EnvelopeError, match="4096 are allowed"):
            encode_context({"k": value})


def test_a_text_of_a_programs_own_type_is_a_text() -> None:
    assert encode_context({"url": Url("http://x")}) == '{"url":"http://x"}'


def test_what_was_read_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        decode_context('{"k":"v"}')["k"] = "w"  # type: ignore[index]


def test_given_pairs_win_and_none_leaves_out_what_was_inherited() -> None:
    inherited = {"a": "1", "b": "2"}
    assert merged(inherited, {"b": "3", "c": "4"}) == {"a": "1", "b": "3", "c": "4"}
    assert merged(inherited, {"a": None, "unknown": None}) == {"b": "2"}
    assert inherited == {"a": "1", "b": "2"}


@pytest.mark.parametrize("given", ["k=v", [("k", "v")], {"k"}, 0, False])
def test_what_is_no_mapping_is_refused(given: Any) -> None:
    with pytest.raises(EnvelopeError, match="context: a mapping is wanted"):
        merged({}, given)
