"""All properties of another program's message: to values and back, and what a copy or a bridge keeps of them."""

from __future__ import annotations

from typing import Any

import pika
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicebus._plain import MessageProperties
from servicebus.transport.frames import read_properties
from servicebus.transport.interface import Origin
from servicebus.transport.properties import (
    as_dead_letter,
    as_republished,
    as_stored,
    read_all,
    read_checked,
    write_all,
)
from servicebus.transport.tables import Unreadable
from servicebus.wire import headers

ALL: dict[str, Any] = {
    "content_type": "text/plain", "content_encoding": "utf-8", "headers": {"a": 1, "b": {"c": [True, None]}},
    "delivery_mode": 2, "priority": 7, "correlation_id": "c", "reply_to": "r", "expiration": "1000",
    "message_id": "m", "timestamp": 1700000000, "type": "t", "user_id": "guest", "app_id": "app",
}  # fmt: skip
TEXTS = st.text(max_size=60)


def test_they_are_what_pika_reads_and_writes() -> None:
    flags, raw = write_all(MessageProperties(**ALL))
    theirs = pika.BasicProperties(**ALL)
    assert flags.to_bytes(2, "big") + raw == b"".join(theirs.encode())
    assert read_all(flags, raw) == MessageProperties(**ALL)


@pytest.mark.parametrize("name", ALL)
def test_each_alone_is_read_as_it_was_written(name: str) -> None:
    given_alone = MessageProperties(**{name: ALL[name]})
    assert read_all(*write_all(given_alone)) == given_alone


@given(
    st.builds(MessageProperties, content_type=TEXTS, message_id=TEXTS, type=TEXTS, timestamp=st.integers(0, 2**64 - 1))
)
def test_any_are_read_as_they_were_written(found: MessageProperties) -> None:
    assert read_all(*write_all(found)) == found


@given(st.integers(0, 0xFFFF), st.binary(max_size=80))
def test_whatever_the_bytes_nothing_else_is_raised(flags: int, raw: bytes) -> None:
    try:
        found = read_all(flags, raw)
    except Unreadable:
        return
    assert isinstance(found, MessageProperties)


@given(st.integers(0, 0xFFFF), st.binary(max_size=80))
def test_what_is_only_checked_is_refused_for_the_same(flags: int, raw: bytes) -> None:
    said = []
    for read in (read_all, read_checked):
        try:
            read(flags, raw)
            said.append("")
        except Unreadable as error:
            said.append(str(error))
    assert said[0] == said[1]


@given(st.sets(st.sampled_from(sorted(ALL))))
def test_what_is_only_checked_has_what_requests_have(names: set[str]) -> None:
    flags, raw = write_all(MessageProperties(**{name: ALL[name] for name in names}))
    assert read_checked(flags, raw) == read_properties(raw, 0, len(raw), flags)


@pytest.mark.parametrize(
    "wrong",
    [{"message_id": "x" * 256}, {"priority": 256}, {"timestamp": -1}, {"headers": {"a": object()}}],
    ids=["too long", "too large", "negative", "no value"],
)
def test_what_amqp_cannot_say_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(Unreadable):
        write_all(MessageProperties(**wrong))


def test_what_goes_on_is_the_same_bytes_but_for_what_a_broker_acts_on() -> None:
    plain = write_all(MessageProperties(**{**ALL, "user_id": None}))
    assert as_republished(*plain) == plain
    routed = MessageProperties(**{**ALL, "headers": {"CC": ["x"], "BCC": ["y"], "a": 1}})
    found = read_all(*as_republished(*write_all(routed)))
    assert found.user_id is None and found.headers == {"a": 1} and found.expiration == "1000"


def test_a_copy_lives_for_as_long_as_it_is_needed() -> None:
    found = read_all(*as_stored(Origin("x", "k", *write_all(MessageProperties(**ALL))), {"own": 1}))
    assert (found.expiration, found.user_id, found.delivery_mode, found.headers) == (None, None, 2, {"own": 1})
    assert (found.content_type, found.correlation_id, found.app_id) == ("text/plain", "c", "app")


def test_a_dead_letter_says_where_it_was_published_to() -> None:
    found = read_all(*as_dead_letter(Origin("x", "k", *write_all(MessageProperties(**ALL))), "full"))
    assert found.headers is not None and found.headers["a"] == 1
    assert [found.headers[name] for name in (headers.EXCHANGE, headers.ROUTING_KEY, headers.REASON)] == [
        "x",
        "k",
        "full",
    ]
