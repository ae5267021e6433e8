from __future__ import annotations

import pytest
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


@pytest.mark.parametrize("first_sent", [0, 20_000, 60_000], ids=["behind", "right", "ahead until now"])
def test_a_sender_that_is_told_the_time_and_dates_by_it_is_on_time(first_sent: int) -> None:
    """Also one whose clock was ahead, which the node has learnt, and has been set right since."""
    clock = TransitClock()
    clock.transit_ms("a", first_sent, 20_000)
    told = clock.time_for("a", 21_000)
    assert clock.transit_ms("a", told, 21_050) == 50


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
        clock.transit_ms("busy", n + 500, n)
    assert clock.transit_ms("busy", 30_000, 29_501) == 1
    assert len(clock._offsets) <= 4096


@given(st.lists(st.tuples(st.integers(-HOUR_MS, HOUR_MS), st.integers(0, HOUR_MS)), max_size=50))
def test_transit_is_never_negative(requests: list[tuple[int, int]]) -> None:
    clock = TransitClock()
    assert all(clock.transit_ms("a", sent, now) >= 0 for sent, now in requests)
