from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from servicebus.policy.clocks import TransitClock

HOUR_MS = 3_600_000


def test_clocks_are_taken_to_agree() -> None:
    """A request that stood in a dead network for 8 s is 8 s old, also if it is the first that we hear of its Sender."""
    assert TransitClock().transit_ms("a", 1_000, 9_000) == 8_000


def test_a_burst_out_of_a_dead_network_teaches_nothing() -> None:
    clock = TransitClock()
    assert [clock.transit_ms("a", 1_000 + n, 9_000) for n in range(3)] == [8_000, 7_999, 7_998]


def test_a_request_from_the_future_shows_that_its_clock_is_ahead() -> None:
    clock = TransitClock()
    assert clock.transit_ms("a", 30_000, 0) == 0
    assert clock.transit_ms("a", 31_000, 1_300) == 300


def test_a_request_that_was_sent_just_now_shows_that_its_clock_is_behind() -> None:
    clock = TransitClock()
    assert clock.transit_ms("a", 0, 20_000) == 20_000
    assert clock.transit_ms("a", 100, 20_100, is_fresh=True) == 0
    assert clock.transit_ms("a", 1_000, 21_300) == 300


def test_a_clock_that_was_set_right_again_is_believed() -> None:
    clock = TransitClock()
    clock.transit_ms("a", 0, 20_000, is_fresh=True)
    assert clock.transit_ms("a", 21_000, 21_050) == 0
    assert clock.transit_ms("a", 22_000, 22_150) == 100
    clock.transit_ms("b", 30_000, 0)
    assert clock.transit_ms("b", 1_000, 1_000) == 30_000
    assert clock.transit_ms("b", 1_100, 1_100, is_fresh=True) == 0
    assert clock.transit_ms("b", 1_200, 1_300) == 100


def test_senders_do_not_share_a_clock() -> None:
    clock = TransitClock()
    clock.transit_ms("a", HOUR_MS, 0)
    assert clock.transit_ms("b", 0, 70) == 70


def test_a_flood_of_senders_does_not_fill_the_memory_and_does_not_forget_the_busy_ones() -> None:
    """A Sender's incarnation is signed, but its holder may make as many as it likes."""
    clock = TransitClock()
    clock.transit_ms("busy", 500, 0)
    for n in range(20_000):
        clock.transit_ms(f"flood-{n}", 1_000_000, 0)
        clock.transit_ms("busy", n + 501, n, is_fresh=n % 1000 == 0)
    assert clock.transit_ms("busy", 30_000, 29_500) == 1
    assert len(clock._offsets) <= 4096


@given(st.lists(st.tuples(st.integers(-HOUR_MS, HOUR_MS), st.integers(0, HOUR_MS), st.booleans()), max_size=50))
def test_transit_is_never_negative(requests: list[tuple[int, int, bool]]) -> None:
    clock = TransitClock()
    assert all(clock.transit_ms("a", sent, now, is_fresh=is_fresh) >= 0 for sent, now, is_fresh in requests)
