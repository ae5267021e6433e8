"""Stamps: signed with the message's bytes, believed as they were written, and absent when anything differs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicebus.wire import headers
from servicebus.wire.signing import Keyring
from servicebus.wire.stamps import (
    UNSTAMPED,
    DeadLetterStamp,
    Stamps,
    WaitStamp,
    make_requeue_ticket,
    read_dead_letter_stamp,
    read_requeue_ticket,
    read_stamps,
    write_dead_letter_stamp,
    write_wait,
)

KEYRING, STRANGER = Keyring(["secret token"]), Keyring(["another"])
DEAD_LETTER = "0123456789abcdef-7"
BODY = b"<event>the exact bytes</event>"
WAIT = WaitStamp(1_700_000_000_000, 3, 1_600_000_000)
DEAD = DeadLetterStamp(1_700_000_000, 1_600_000_000, 6, 1_700_086_400, "fedcba9876543210-1")


def a_ticket(keyring: Keyring = KEYRING, body: bytes = BODY, former: str = "", now_ms: int = 1) -> str:
    return make_requeue_ticket(keyring, DEAD_LETTER, body, former, now_ms)


def wait_of(header: object, body: bytes = BODY, **more: Any) -> WaitStamp:
    return read_stamps(KEYRING, body, {headers.WAIT: header, **more}).wait


def test_what_was_stamped_is_read() -> None:
    ticket = read_requeue_ticket(KEYRING, BODY, a_ticket(now_ms=1_700_000_100_000))
    assert ticket is not None
    assert (ticket.made_ms, ticket.header) == (1_700_000_100_000, a_ticket(now_ms=1_700_000_100_000))
    assert ticket.id != DEAD_LETTER
    marks = {headers.REQUEUED: ticket.header, headers.WAIT: write_wait(KEYRING, BODY, ticket, WAIT), "tenant": 1}
    assert read_stamps(KEYRING, BODY, marks) == Stamps(ticket, WAIT)
    assert wait_of(write_wait(KEYRING, BODY, None, WAIT)) == WAIT
    letter = write_dead_letter_stamp(KEYRING, BODY, "ValueError", DEAD)
    assert read_dead_letter_stamp(KEYRING, BODY, "ValueError", letter) == DEAD


def test_one_dead_letter_gets_one_id_and_another_one_another() -> None:
    """An operator whose requeue was killed requeues again: the journal runs it once."""
    ids = [
        read_requeue_ticket(KEYRING, BODY, a_ticket(former=former, now_ms=now))
        for former, now in (("", 1), ("", 2), ("x", 2))
    ]
    assert ids[0] and ids[1] and ids[2]
    assert ids[0].id == ids[1].id != ids[2].id


Reader = Callable[[bytes, object], object]
READERS: dict[str, tuple[Callable[[Keyring], str], Reader, object]] = {
    "ticket": (a_ticket, lambda body, header: read_requeue_ticket(KEYRING, body, header), None),
    "wait": (
        lambda keyring: write_wait(keyring, BODY, None, WAIT),
        lambda body, header: wait_of(header, body),
        WaitStamp(),
    ),
    "letter": (
        lambda keyring: write_dead_letter_stamp(keyring, BODY, "ValueError", DEAD),
        lambda body, header: read_dead_letter_stamp(KEYRING, body, "ValueError", header),
        None,
    ),
}
every_stamp = pytest.mark.parametrize(("write", "read", "absent"), READERS.values(), ids=READERS)


@every_stamp
def test_a_stamp_is_absent_unless_it_was_made_for_these_bytes_with_our_secret(
    write: Callable[[Keyring], str], read: Reader, absent: object
) -> None:
    genuine = write(KEYRING)
    assert read(BODY, genuine) != absent
    assert read(BODY + b" ", genuine) == absent
    assert read(BODY, write(STRANGER)) == absent
    for number in range(len(genuine.split(" "))):
        parts = genuine.split(" ")
        parts[number] = f"{parts[number]}0"
        assert read(BODY, " ".join(parts)) == absent, f"value {number} is not covered"


@every_stamp
def test_no_stamp_is_good_as_another_kind_of_stamp(
    write: Callable[[Keyring], str], read: Reader, absent: object
) -> None:
    for other, _, _ in READERS.values():
        if other is not write:
            assert read(BODY, other(KEYRING)) == absent


@every_stamp
@pytest.mark.parametrize(
    "header", [None, 7, "", "a b", "a b c d", b"x", True, 2**63 - 1, ["x"], "1 2 3 \u1234", "\udc80"]
)
def test_anything_else_is_no_stamp(
    write: Callable[[Keyring], str], read: Reader, absent: object, header: object
) -> None:
    assert read(BODY, header) == absent


@given(st.text() | st.integers() | st.binary() | st.lists(st.text()))
def test_nothing_that_was_not_signed_is_a_stamp(header: object) -> None:
    assert read_stamps(KEYRING, BODY, {headers.WAIT: header, headers.REQUEUED: header}) == UNSTAMPED
    assert read_dead_letter_stamp(KEYRING, BODY, "ValueError", header) is None


def test_a_dead_letter_is_signed_with_its_reason() -> None:
    letter = write_dead_letter_stamp(KEYRING, BODY, "ValueError", DEAD)
    assert read_dead_letter_stamp(KEYRING, BODY, "KeyError", letter) is None


def test_a_wait_belongs_to_the_pass_with_which_the_message_was_sent_back() -> None:
    ticket = read_requeue_ticket(KEYRING, BODY, a_ticket())
    wait = write_wait(KEYRING, BODY, ticket, WAIT)
    assert wait_of(wait) == WaitStamp()
    more: dict[str, Any] = {headers.REQUEUED: a_ticket(former="x")}
    assert wait_of(wait, **more) == WaitStamp()


def test_a_message_without_such_headers_costs_no_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("servicebus.wire.stamps.hashlib", None)
    for marks in (None, {}, {"tenant": 1, "x-servicebus-attempts": 1}):
        assert read_stamps(KEYRING, BODY, marks) is UNSTAMPED
