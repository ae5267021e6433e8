from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from servicebus.policy.clocks import TransitClock

HOUR_MS = 3_600_000


def test_the_first_request_of_a_sender_counts_as_having_taken_no_time() -> None:
    """Its clock may be wrong by anything; what it waited at the broker is bounded by its expiration there."""
    assert TransitClock().transit_ms("a", 0, HOUR_MS) == 0


def test_what_exceeds_the_smallest_difference_is_transit() -> None:
    clock = TransitClock()
    clock.transit_ms("a", 1_000, 501_000)
    assert clock.transit_ms("a", 2_000, 502_300) == 300
    assert clock.transit_ms("a", 3_000, 503_000) == 0


def test_a_faster_request_shows_that_the_ones_before_were_slow() -> None:
    clock = TransitClock()
    assert clock.transit_ms("a", 0, 900) == 0
    assert clock.transit_ms("a", 1_000, 1_100) == 0
    assert clock.transit_ms("a", 2_000, 2_900) == 800


def test_senders_do_not_share_a_clock() -> None:
    clock = TransitClock()
    clock.transit_ms("a", 0, 5)
    assert clock.transit_ms("b", 0, 70_000) == 0
    assert clock.transit_ms("a", 0, 105) == 100


def test_a_clock_that_was_set_is_believed_after_two_minutes() -> None:
    """The smallest difference is remembered for one to two minutes, so that a corrected clock does not count for ever
    as a slow network."""
    clock = TransitClock()
    clock.transit_ms("a", 0, 0)
    taken = [clock.transit_ms("a", now, now + 10_000) for now in range(1_000, 200_000, 1_000)]
    assert taken[0] == 10_000
    assert taken[-1] == 0
    assert all(taken[n] == 0 for n in range(130, len(taken)))


def test_a_clock_of_ours_that_was_set_back_starts_a_new_estimate() -> None:
    clock = TransitClock()
    clock.transit_ms("a", 10 * HOUR_MS, 10 * HOUR_MS)
    later = [clock.transit_ms("a", 10 * HOUR_MS + n, 9 * HOUR_MS + n) for n in range(3)]
    assert later == [0, 0, 0]


def test_a_flood_of_senders_does_not_fill_the_memory_and_does_not_forget_the_busy_ones() -> None:
    """A Sender's incarnation is signed, but its holder may make as many as it likes. The one that talks all the time
    keeps its estimate."""
    clock = TransitClock()
    clock.transit_ms("busy", 0, 0)
    for n in range(20_000):
        clock.transit_ms(f"passing-{n}", 0, 0)
        if n % 1000 == 0:
            assert clock.transit_ms("busy", n, n + 250) == 250
    assert len(clock._seen) <= 4096


@given(st.integers(-HOUR_MS, HOUR_MS), st.lists(st.integers(0, 30_000), min_size=1, max_size=50))
def test_transit_is_never_negative_and_never_more_than_was_really_taken(offset: int, transits: list[int]) -> None:
    """Whatever the clocks' offset: the estimate errs towards "just sent", so no request is dropped before its time."""
    clock = TransitClock()
    sent = 0
    for transit in transits:
        sent += 100
        assert 0 <= clock.transit_ms("a", sent, sent + offset + transit) <= transit
