from __future__ import annotations

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servicebus.errors import AddressError
from servicebus.wire.address import (
    Address,
    check_node_name,
    control_queue,
    dead_queue,
    delay_queue,
    messages_queue,
    rpc_queue,
)

UNTIMED = settings(deadline=None)  # other processes may have the cores
AMQP_NAME_BYTES = 255


def test_an_address_is_parsed_and_written_back() -> None:
    address = Address.parse("NODE-01.math.add")
    assert (address.node, address.category, address.name) == ("NODE-01", "math", "add")
    assert str(address) == "NODE-01.math.add"
    assert address == Address("NODE-01", "math", "add")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "0 dots"),
        ("math.add", "1 dot, not two"),
        ("a.b.c.d", "3 dots"),
        (".math.add", "node name is empty"),
        ("N..add", "category is empty"),
        ("N.math.", "name is empty"),
        ("N.ma th.add", "white space"),
        ("N.math.a\nb", "white space"),
        ("N.math.a\u00a0b", "white space"),
        ("N.math.a\x00", "unprintable"),
        ("N.math.\ud800", "unprintable"),
        ("N.math." + "a" * 101, "100 characters"),
        ("amq.math.add", "reserved"),
        ("N" * 100 + "." + "c" * 100 + "." + "s" * 100, "240 bytes"),
        ("\u65e5" * 100 + ".c.s", "220 bytes"),
    ],
)
def test_a_text_that_is_no_address_is_refused_with_the_reason(text: str, says: str) -> None:
    with pytest.raises(AddressError) as refusal:
        Address.parse(text)
    assert says in str(refusal.value)
    assert pickle.loads(pickle.dumps(refusal.value)).reason == refusal.value.reason


def test_names_beyond_ascii_are_names() -> None:
    assert str(Address.parse("K\u00d6LN.\u65e5\u672c.<&>")) == "K\u00d6LN.\u65e5\u672c.<&>"


def test_a_node_has_a_queue_for_each_subscription() -> None:
    assert rpc_queue("N") == "N.rpc"
    assert control_queue("N") == "N.control"
    assert messages_queue("N") == "N.messages"
    assert delay_queue("N", 5) == "N.messages.delay.5"
    assert dead_queue("N") == "N.dead"


@UNTIMED
@given(st.text(max_size=120))
def test_every_text_is_an_address_or_refused_and_nothing_else_happens(text: str) -> None:
    try:
        address = Address.parse(text)
    except AddressError:
        return
    assert str(address) == text


@UNTIMED
@given(st.text(st.characters(), min_size=1, max_size=100))
def test_the_queues_of_every_node_that_is_accepted_fit_into_amqp(node: str) -> None:
    try:
        check_node_name(node)
    except AddressError:
        return
    assert len(delay_queue(node, 86400).encode()) <= AMQP_NAME_BYTES
