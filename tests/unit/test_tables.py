"""AMQP tables: the same as pika's where both are right, and bounded whatever a stranger writes."""

from __future__ import annotations

import struct
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

import pika.data
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicebus.transport.tables import MAX_DEPTH, MAX_VALUES, Unreadable, read_table, write_table

names = st.text(max_size=40).filter(lambda text: len(text.encode()) <= 255)
times = st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31), timezones=st.just(timezone.utc)).map(
    lambda time: time.replace(microsecond=0)
)
decimals = st.builds(
    lambda scale, value: Decimal(value).scaleb(-scale), st.integers(0, 255), st.integers(-(2**31), 2**31 - 1)
)
both_know = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.text(max_size=20), st.binary(max_size=20), times
)
we_know = both_know | st.floats(allow_nan=False) | decimals


def tables(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    nested = st.recursive(
        values,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
        max_leaves=20,
    )
    return st.dictionaries(names, nested, max_size=6).filter(lambda table: depth(table) <= MAX_DEPTH)


def depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(depth, inner), default=0) if isinstance(value, (dict, list)) else 0


def raw(value: bytes, name: bytes = b"n") -> bytes:
    """A table that holds one value, written by hand."""
    content = bytes([len(name)]) + name + value
    return struct.pack(">I", len(content)) + content


def read(data: bytes) -> tuple[dict[str, Any], int]:
    return read_table(data, 0, len(data))


@given(tables(both_know))
def test_tables_are_written_and_read_as_pika_does_it(table: dict[str, Any]) -> None:
    pieces: list[bytes] = []
    pika.data.encode_table(pieces, table)
    ours = write_table(table)
    assert ours == b"".join(pieces)
    assert read(ours) == (pika.data.decode_table(ours, 0)[0], len(ours))


@given(tables(we_know))
def test_what_is_read_can_be_written_again(table: dict[str, Any]) -> None:
    data = write_table(table)
    assert read(data) == (table, len(data))


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (b"b\xff", -1), (b"B\xff", 255), (b"s\xff\xff", -1), (b"U\xff\xff", -1), (b"u\xff\xff", 65535),
        (b"i\xff\xff\xff\xff", 2**32 - 1), (b"L" + b"\xff" * 8, -1), (b"f\x3f\x00\x00\x00", 0.5), (b"t\x02", True),
        (b"D\xff\x7f\xff\xff\xff", Decimal("2147483647E-255")), (b"S\x00\x00\x00\x01\xff", b"\xff"),
    ],
)  # fmt: skip
def test_the_types_that_others_write_are_read_and_can_be_written_again(value: bytes, found: Any) -> None:
    table, _ = read(raw(value))
    assert table == {"n": found}
    assert read(write_table(table))[0] == table


NESTED = b"V"
for _ in range(3000):
    NESTED = b"A" + struct.pack(">I", len(NESTED)) + NESTED


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (raw(b"T" + struct.pack(">Q", 1795900000000)), "milliseconds"),
        (raw(b"T" + b"\xff" * 8), "after the year 9999"),
        (raw(NESTED), "nested deeper"),
        (raw(b"V", name=b"\xff"), "not UTF-8"),
        (raw(b"?"), "unknown type 0x3f"),
        (raw(b"I\x00"), "cut off"),
        (raw(b""), "cut off"),
        (raw(b"S\xff\xff\xff\xffx"), "longer than the frame"),
        (raw(b"A\x00\x00\x00\x09V"), "longer than the frame"),
        (b"\xff\xff\xff\xff", "longer than the frame"),
        (b"\x00\x00", "cut off"),
        (struct.pack(">I", 3 * (MAX_VALUES + 1)) + b"\x01nV" * (MAX_VALUES + 1), f"more than {MAX_VALUES}"),
        (raw(b"A" + struct.pack(">I", MAX_VALUES) + b"V" * MAX_VALUES), f"more than {MAX_VALUES}"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_says_so_and_no_more(data: bytes, why: str) -> None:
    with pytest.raises(Unreadable, match=why):
        read(data)


def test_as_many_values_and_tables_as_are_allowed_are_read() -> None:
    assert read(struct.pack(">I", 3 * MAX_VALUES) + b"\x01nV" * MAX_VALUES)[0] == {"n": None}
    value = b"V"
    for _ in range(MAX_DEPTH - 1):
        value = b"A" + struct.pack(">I", len(value)) + value
    assert depth(read(raw(value))[0]) == MAX_DEPTH
    with pytest.raises(Unreadable, match="nested deeper"):
        read(raw(b"A" + struct.pack(">I", len(value)) + value))


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused_within_their_bounds(data: bytes) -> None:
    for end in (len(data), len(data) // 2):
        try:
            _, stop = read_table(data, 0, end)
        except Unreadable:
            continue
        assert stop <= end


@given(tables(we_know), st.data())
def test_a_table_that_was_changed_is_read_or_refused(table: dict[str, Any], data: st.DataObject) -> None:
    found = bytearray(write_table(table))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(found) - 1))
        found[at] = data.draw(st.integers(0, 255))
    try:
        again, stop = read(bytes(found))
    except Unreadable:
        return
    assert stop <= len(found)
    write_table(again)


@pytest.mark.parametrize("value", [2**63, Decimal("1E10"), Decimal("NaN"), Decimal(2**31), object(), {1, 2}])
def test_what_amqp_cannot_say_is_refused(value: Any) -> None:
    with pytest.raises(Unreadable):
        write_table({"n": value})
    with pytest.raises(Unreadable):
        write_table({"n" * 256: 1})


def test_text_that_is_no_unicode_is_written_with_escapes() -> None:
    assert read(write_table({"n": "a\ud800b"}))[0] == {"n": r"a\ud800b"}
