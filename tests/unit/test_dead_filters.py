"""Which dead letters are meant, and what would become of one that goes back: pure."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import pytest
from envelopes import SECRET, dead_letter_headers, envelope, signed
from hypothesis import given
from hypothesis import strategies as st
from wire_forms import encode_envelope, sign_envelope

from servicebus.compat.envelope import OldEvent, encode_event
from servicebus.compat.tokens import DailyTokens
from servicebus.configuration import Configuration
from servicebus.errors import EnvelopeError
from servicebus.operations.dead_letter import DeadLetter, RequeueCheck, RequeueStatus
from servicebus.operations.filters import Filter, parse_age, parse_rate, show_age
from servicebus.transport.interface import Delivery, Flaw
from servicebus.wire import headers
from servicebus.wire.envelope import Kind
from servicebus.wire.signing import Keyring
from servicebus.wire.stamps import read_requeue_ticket

NOW = 1_800_000_000.0
CONFIG = Configuration({"hosts": ["mq"], "secret_token": [SECRET, "the old secret"], "node_name": "NODE-01"})
CHECK = RequeueCheck(CONFIG, "NODE-01")


def dead_letter(body: bytes | None = None, reason: str = "ValueError", **how: Any) -> DeadLetter:
    """A letter that a worker wrote an hour ago; *how* as for ``dead_letter_headers()``."""
    body = signed("NODE-01.audit.record", {"a": 1}, kind=Kind.MESSAGE) if body is None else body
    found = dead_letter_headers(body, reason, **{"now": NOW, "age_s": 3600, **how})
    return CHECK.read(Delivery(None, 1, body, headers=found))  # type: ignore[arg-type]


def made_up(body: bytes | None = None, **found: Any) -> DeadLetter:
    """A letter that a stranger wrote."""
    body = signed("NODE-01.audit.record", {"a": 1}, kind=Kind.MESSAGE) if body is None else body
    return CHECK.read(Delivery(None, 1, body, headers=found))  # type: ignore[arg-type]


# -- ages and rates ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("2h", 7200), ("1d12h", 129600), ("1.5h", 5400), ("2w", 1209600)]
)
def test_ages_are_written_with_their_units(text: str, seconds: float) -> None:
    assert parse_age(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "2 h", "-2h", "2h!", "1..5h", "\uff12h", "1e3s", "2H"])
def test_what_is_no_age_is_refused_with_the_way_to_write_one(text: str) -> None:
    with pytest.raises(ValueError, match="write 90s, 15m, 2h, 3d"):
        parse_age(text)


@given(st.text(alphabet="0123456789.smhdw -", max_size=12))
def test_an_age_is_a_number_of_seconds_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert parse_age(text) >= 0


@given(st.integers(0, 10**8))
def test_an_age_that_is_shown_can_be_read_again_and_is_never_longer(seconds: int) -> None:
    shown = parse_age(show_age(seconds))
    assert shown <= seconds
    assert seconds - shown < max(60, seconds * 0.05), "two units are enough"


@pytest.mark.parametrize(
    ("text", "per_s"), [("10/s", 10), ("10", 10), ("90/m", 1.5), ("500/h", 500 / 3600), ("0.5/s", 0.5), ("36/h", 0.01)]
)
def test_rates_are_dead_letters_per_time(text: str, per_s: float) -> None:
    assert parse_rate(text) == pytest.approx(per_s)


@pytest.mark.parametrize("text", ["", "0/s", "0", "35/h", "10/d", "/s", "10/", "-1/s", "a/s", "1/s/s"])
def test_what_is_no_rate_or_too_slow_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no rate; write 10/s|the slowest rate is 36/h"):
        parse_rate(text)


@given(st.text(alphabet="0123456789./smh -", max_size=12))
def test_a_rate_is_positive_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert parse_rate(text) > 0


# -- filters -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "matches"),
    [
        (Filter(), True),
        (Filter(services=("audit.record",)), True),
        (Filter(services=("audit.*",)), True),
        (Filter(services=("*.rec?rd", "x")), True),
        (Filter(services=("audit",)), False),
        (Filter(services=("AUDIT.*",)), False),
        (Filter(reasons=("Value*",)), True),
        (Filter(reasons=("stale", "signature")), False),
        (Filter(oldest_s=7200.0), True),
        (Filter(oldest_s=1800.0), False),
        (Filter(youngest_s=1800.0), True),
        (Filter(youngest_s=7200.0), False),
        (Filter(youngest_s=1800.0, oldest_s=7200.0), True),
        (Filter(services=("audit.*",), reasons=("stale",)), False),
        (Filter(ids=frozenset({"another"})), False),
        (Filter(until=int(NOW)), True),
        (Filter(until=int(NOW) - 7200), False),
    ],
)
def test_every_condition_must_hold_and_one_of_several_alternatives(wanted: Filter, matches: bool) -> None:
    assert wanted.matches(dead_letter(), NOW) is matches


def test_a_dead_letter_is_found_by_its_id() -> None:
    mine = dead_letter()
    assert Filter(ids=frozenset({mine.id, "x"})).matches(mine, NOW)


def test_a_dead_letter_without_a_time_is_older_than_everything() -> None:
    ancient = made_up()
    assert ancient.age_s(NOW) is None
    assert Filter(youngest_s=1e9).matches(ancient, NOW)
    assert not Filter(oldest_s=1e9).matches(ancient, NOW)


# -- reading -----------------------------------------------------------------------------------------------------------


def test_a_dead_letter_says_what_the_worker_wrote_down_and_keeps_the_senders_headers() -> None:
    written: dict[str, Any] = {"tenant": "a", headers.TRACE: b"bytes", headers.DETAIL: "boom", headers.HOST: "mq:1"}
    found = dead_letter(**written)
    assert (found.service, found.reason, found.detail, found.attempts) == ("audit.record", "ValueError", "boom", 6)
    assert (found.trace, found.time, found.first, found.host) == ("bytes", NOW - 3600, NOW - 4200, "mq:1")
    assert found.headers == {"tenant": "a"}


@given(st.binary(max_size=300))
def test_whatever_bytes_stand_there_are_a_dead_letter_with_an_id(body: bytes) -> None:
    found = dead_letter(body)
    assert found.id == dead_letter(body).id
    assert found.id.startswith("sha256-")
    assert found.service == "?"
    assert made_up(body).id == found.id
    assert CHECK.status(found, NOW)[0] is RequeueStatus.REFUSED


@given(
    st.dictionaries(
        st.sampled_from([headers.REASON, headers.DEAD_LETTER, headers.REQUEUED, headers.HOST, "x"]),
        st.none() | st.integers() | st.text() | st.binary(),
    )
)
def test_whatever_headers_a_stranger_wrote_do_no_harm_and_prove_nothing(written: dict[str, Any]) -> None:
    found = made_up(**written)
    assert (found.age_s(NOW), found.attempts, found.first) == (None, 0, 0)
    assert isinstance(found.reason, str)
    assert CHECK.status(found, NOW)[0] is RequeueStatus.UNVERIFIED


# -- what would become of it -------------------------------------------------------------------------------------------


def message(sent_s: float, *, secret: str = SECRET, address: str = "NODE-01.audit.record", **how: Any) -> DeadLetter:
    burial = {name: how.pop(name) for name in ("age_s", "known_s") if name in how}
    unsigned = replace(envelope(address, [1, 2], **{"kind": Kind.MESSAGE, **how}), sent_ms=int(sent_s * 1000))
    return dead_letter(encode_envelope(unsigned, sign_envelope(Keyring([secret]), unsigned)), **burial)


REFUSED = [
    (message(NOW - 60, secret="a stranger's"), "signature"),
    (message(NOW - 60, address="NODE-02.audit.record"), "wrong-node"),
    (message(NOW - 60, kind=Kind.CALL), "a call among messages"),
    (dead_letter(b"<event"), "malformed"),
    (dead_letter(encode_event(OldEvent("1", "t", "a", "b", b"null"))), "its token was not that of the day"),
]
REQUEUED: dict[str, Any] = {headers.REASON: "ConnectionError", headers.REQUEUED: "anything"}
OTHER_REASON: dict[str, Any] = {headers.REASON: "KeyError"}
OTHER_DEAD_LETTER: dict[str, Any] = {headers.DEAD_LETTER: f"1 1 1 9999999999  e8e26184:{'0' * 64}"}
UNVERIFIED = [
    made_up(),
    made_up(**REQUEUED),
    made_up(b"rubbish"),
    dead_letter(secret="a stranger's"),
    dead_letter(**OTHER_REASON),
    dead_letter(**OTHER_DEAD_LETTER),
]


@pytest.mark.parametrize(
    ("found", "status", "why"),
    [
        (message(NOW - 60), RequeueStatus.GOOD, ""),
        (message(NOW - 60, secret="the old secret"), RequeueStatus.GOOD, ""),
        (message(NOW - 2 * 86400), RequeueStatus.GOOD, ""),
        (message(NOW - 86400, age_s=86390), RequeueStatus.GOOD, ""),
        (message(NOW - 86500, age_s=86410), RequeueStatus.STALE, "longer ago than the node remembers"),
        (message(NOW - 60, known_s=None), RequeueStatus.STALE, "cannot know whether it ran before"),
        (message(NOW + 3600, age_s=-3600), RequeueStatus.STALE, "in the future"),
        *((found, RequeueStatus.REFUSED, why) for found, why in REFUSED),
        *((found, RequeueStatus.UNVERIFIED, "no worker has signed") for found in UNVERIFIED),
    ],
)
def test_the_judge_says_which_dead_letters_may_go_back(found: DeadLetter, status: RequeueStatus, why: str) -> None:
    judged, text = CHECK.status(found, NOW)
    assert judged is status
    assert why in text


@pytest.mark.parametrize(
    "flaw", [Flaw("oversized", "3000000 bytes, and max_envelope_bytes is 2000000"), Flaw("unreadable", "bad UTF-8")]
)
def test_of_a_dead_letter_that_is_not_whole_the_judge_says_what_is_missing(flaw: Flaw) -> None:
    """A worker may have signed it: that no one has signed what stands here says nothing about the whole."""
    cut = CHECK.read(Delivery(None, 1, b"<event", flaw=flaw))  # type: ignore[arg-type]
    assert CHECK.status(cut, NOW) == (RequeueStatus.REFUSED, f"{flaw.reason}: {flaw.detail}")
    with pytest.raises(EnvelopeError):
        CHECK.with_ticket(cut, NOW)


@pytest.mark.parametrize("secret", [SECRET, "the old secret"])
def test_a_pass_is_made_with_the_first_secret_for_the_exact_bytes(secret: str) -> None:
    found = message(NOW - 3 * 86400, secret=secret)
    header = CHECK.with_ticket(found, NOW).headers[headers.REQUEUED]
    ticket = read_requeue_ticket(Keyring([SECRET]), found.body, header)
    assert ticket is not None
    assert ticket.made_ms == NOW * 1000


@pytest.mark.parametrize("found", [*(found for found, _ in REFUSED), *UNVERIFIED])
def test_what_no_worker_dead_lettered_or_no_sender_of_ours_sent_gets_no_ticket(found: DeadLetter) -> None:
    with pytest.raises(EnvelopeError):
        CHECK.with_ticket(found, NOW)


def test_two_copies_of_one_dead_letter_get_one_ticket_and_a_later_one_gets_another() -> None:
    """A worker that was killed before its journal knew of the letter was followed by one that wrote a second letter."""
    body = signed("NODE-01.audit.record", kind=Kind.MESSAGE)

    def pass_id(**how: Any) -> str:
        header = CHECK.with_ticket(dead_letter(body, **how), NOW).headers[headers.REQUEUED]
        ticket = read_requeue_ticket(Keyring([SECRET]), body, header)
        assert ticket is not None
        return ticket.id

    first = pass_id(attempts=1)
    assert pass_id(attempts=2, age_s=60, reason="KeyError") == first
    assert pass_id(attempts=2, former=first) != first


def test_a_dead_letter_of_version_1_goes_back_if_its_daily_token_was_good_when_it_was_dead_lettered() -> None:
    token = DailyTokens([SECRET]).make(NOW)
    body = encode_event(OldEvent("1", token, "audit", "record", b'{"a": 1}'))
    found = dead_letter(body)
    assert found.is_old
    assert found.service == "audit.record"
    assert CHECK.status(found, NOW)[0] is RequeueStatus.GOOD
    assert CHECK.status(found, NOW + 3 * 86400)[0] is RequeueStatus.STALE
    assert CHECK.status(dead_letter(body, age_s=-5 * 86400), NOW)[0] is RequeueStatus.REFUSED
    assert (
        read_requeue_ticket(Keyring([SECRET]), body, CHECK.with_ticket(found, NOW).headers[headers.REQUEUED])
        is not None
    )
