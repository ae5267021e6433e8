"""The pass of a dead letter: for one letter, one burial, and from those who have the secret."""

from __future__ import annotations

from typing import Any, cast

import pytest
from envelopes import sealed
from hypothesis import given
from hypothesis import strategies as st

from servicebus.configuration import Configuration
from servicebus.operations.letters import Judge, read_letter
from servicebus.transport.interface import Delivery
from servicebus.wire import headers
from servicebus.wire.envelope import Kind
from servicebus.wire.requeue import make_pass, read_pass
from servicebus.wire.signing import Keyring

KEYRING = Keyring(["secret token"])
LETTER = "0123456789abcdef-7"


def test_a_pass_says_by_which_id_and_since_when() -> None:
    made = make_pass(KEYRING, LETTER, "1700000000 mq-a", 1_700_000_100_000)
    found = read_pass(KEYRING, LETTER, made)
    assert found is not None
    assert found.made_ms == 1_700_000_100_000
    assert found.id != LETTER


def test_the_same_burial_gets_the_same_id_and_another_one_another() -> None:
    """Killed in between, an operator requeues again: the journal runs it once."""
    ids = [
        read_pass(KEYRING, LETTER, make_pass(KEYRING, LETTER, burial, now))
        for burial, now in (("first", 1), ("first", 2), ("second", 2))
    ]
    assert ids[0] is not None
    assert ids[1] is not None
    assert ids[2] is not None
    assert ids[0].id == ids[1].id != ids[2].id


def test_a_pass_is_for_its_own_letter_only() -> None:
    assert read_pass(KEYRING, "fedcba9876543210-7", make_pass(KEYRING, LETTER, "", 1)) is None


def test_a_stranger_makes_no_pass() -> None:
    assert read_pass(KEYRING, LETTER, make_pass(Keyring(["another"]), LETTER, "", 1)) is None


@pytest.mark.parametrize("header", [None, 7, "", "a b", "a b c d", b"x", True])
def test_anything_else_is_no_pass(header: object) -> None:
    assert read_pass(KEYRING, LETTER, header) is None


@given(st.text())
def test_no_text_that_was_not_signed_is_a_pass(header: str) -> None:
    assert read_pass(KEYRING, LETTER, header) is None


def test_two_letters_of_one_burial_get_one_id_and_a_later_burial_gets_another() -> None:
    """A worker that was killed before its journal knew of the letter was followed by one that wrote a second letter."""
    judge = Judge(Configuration({"hosts": ["mq-a"], "secret_token": "secret token"}), "NODE-01")
    body = sealed("NODE-01.audit.record", kind=Kind.MESSAGE)

    def pass_of(**found: Any) -> str:
        delivery = Delivery(cast(Any, None), 1, body, headers=found)
        passed = judge.with_pass(read_letter(delivery, 10**6), 1_700_000_100).headers[headers.REQUEUED]
        assert isinstance(passed, str)
        return passed

    first = pass_of(**{headers.TIME: 1_700_000_000, headers.ATTEMPTS: 1, headers.HOST: "mq-a"})
    second = pass_of(**{headers.TIME: 1_700_000_001, headers.ATTEMPTS: 2, headers.HOST: "mq-b"})
    later = pass_of(**{headers.TIME: 1_700_000_001, headers.ATTEMPTS: 2, headers.REQUEUED: first})
    assert first == second != later
