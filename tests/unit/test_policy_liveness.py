from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from servicebus.policy.liveness import PingAction, PingClock, RoundTrip


def clock_at(now: float = 100.0) -> PingClock:
    return PingClock(0.5, 1.5, now)


def test_nothing_is_pinged_while_nobody_waits() -> None:
    """An idle bus is silent: a fast call costs no ping, and no call costs none either."""
    assert clock_at().action(10_000.0, None) is PingAction.QUIET


def test_a_ping_is_due_when_something_has_been_waited_for_long_enough() -> None:
    clock = clock_at()
    assert clock.action(100.49, 100.0) is PingAction.QUIET
    assert clock.action(100.5, 100.0) is PingAction.PING


def test_a_request_that_just_began_to_wait_is_given_its_time_on_a_link_that_was_idle_for_long() -> None:
    clock = clock_at()
    assert clock.action(500.0, 499.9) is PingAction.QUIET
    assert clock.action(500.4, 499.9) is PingAction.PING


def test_whatever_is_heard_puts_the_ping_off() -> None:
    clock = clock_at()
    clock.heard(100.4)
    assert clock.action(100.6, 100.0) is PingAction.QUIET
    assert clock.action(100.9, 100.0) is PingAction.PING


def test_only_one_ping_is_under_way() -> None:
    clock = clock_at()
    clock.pinged(100.5)
    assert clock.action(101.0, 100.0) is PingAction.QUIET


def test_an_unanswered_ping_means_death_even_when_nobody_waits_any_more() -> None:
    clock = clock_at()
    clock.pinged(100.5)
    assert clock.action(101.99, 100.0) is PingAction.QUIET
    assert clock.action(102.0, 100.0) is PingAction.DEAD
    assert clock.action(102.0, None) is PingAction.DEAD


def test_an_answer_in_time_is_enough_and_the_next_ping_comes_after_the_usual_silence() -> None:
    clock = clock_at()
    clock.pinged(100.5)
    clock.heard(101.9)
    assert clock.action(102.1, 100.0) is PingAction.QUIET
    assert clock.action(102.4, 100.0) is PingAction.PING


def test_who_always_waits_knows_when_there_is_something_to_do() -> None:
    clock = clock_at()
    assert clock.due_at == 100.5
    clock.pinged(100.6)
    assert clock.due_at == 102.1
    clock.heard(101.0)
    assert clock.due_at == 101.5


@given(st.floats(0.05, 5), st.floats(0.05, 5), st.floats(0, 1e6))
def test_a_side_that_is_silent_is_found_dead_by_two_looks_at_the_due_times(
    ping_after_s: float, ping_timeout_s: float, begun: float
) -> None:
    clock = PingClock(ping_after_s, ping_timeout_s, begun)
    just_after = 1e-6
    pinged_at = clock.due_at + just_after
    assert clock.action(pinged_at, clock.heard_at) is PingAction.PING
    clock.pinged(pinged_at)
    assert clock.action(clock.due_at - just_after, clock.heard_at) is PingAction.QUIET
    assert clock.action(clock.due_at + just_after, clock.heard_at) is PingAction.DEAD


@given(
    st.floats(0.05, 5),
    st.floats(0.05, 5),
    st.lists(st.floats(0, 0.25), min_size=1, max_size=200),
    st.integers(0, 50),
)
def test_a_silent_side_is_found_dead_within_both_limits_and_never_before_a_ping(
    ping_after_s: float, ping_timeout_s: float, steps: list[float], heard_until: int
) -> None:
    """However unevenly the clock is looked at: dead at most two looks after silence + timeout, and only if pinged."""
    now = 0.0
    clock = PingClock(ping_after_s, ping_timeout_s, now)
    last_heard = now
    for turn in range(1000):
        now += steps[turn % len(steps)] + 0.001
        if turn < heard_until:
            clock.heard(now)
            last_heard = now
        action = clock.action(now, 0.0)
        if action is PingAction.PING:
            assert now - last_heard >= ping_after_s - 1e-9
            clock.pinged(now)
        if action is PingAction.DEAD:
            assert turn >= heard_until, "it had been heard a moment ago"
            assert ping_timeout_s - 1e-9 <= now - last_heard <= ping_after_s + ping_timeout_s + 0.6
            return
    assert now - last_heard < ping_after_s + ping_timeout_s + 0.6


def test_an_answer_that_is_late_at_two_looks_makes_it_suspect_before_it_is_dead() -> None:
    clock = clock_at()
    clock.pinged(100.5)
    looks = [clock.action(now, 100.0) for now in (100.69, 100.71, 100.75, 101.9)]
    assert looks == [PingAction.QUIET, PingAction.QUIET, PingAction.SUSPECT, PingAction.SUSPECT]
    clock.heard(101.95)
    assert clock.action(101.96, 100.0) is PingAction.QUIET


def test_a_process_that_was_asleep_does_not_suspect_what_it_has_not_read_yet() -> None:
    clock = clock_at()
    clock.pinged(100.5)
    assert clock.action(101.5, 100.0) is PingAction.QUIET
    clock.heard(101.5)
    clock.pinged(102.1)
    assert clock.action(102.9, 102.0) is PingAction.QUIET, "each ping is looked at by itself"


def test_bytes_that_move_put_the_suspicion_off() -> None:
    clock = clock_at()
    clock.pinged(100.5)
    for now in (100.71, 100.75, 100.8):
        clock.moved(now)
        assert clock.action(now, 100.0) is PingAction.QUIET


def test_an_answer_is_late_after_four_times_the_longest_round_trip_lately() -> None:
    trip = RoundTrip()
    assert trip.late_after_s(100.0) == 0.2
    trip.took(0.5, 100.0)
    trip.took(0.001, 100.1)
    assert 1.9 < trip.late_after_s(100.1) < 2.0
    assert 0.9 < trip.late_after_s(110.0) <= 1.0, "it counts half after ten seconds"
    assert trip.late_after_s(200.0) == 0.2


@given(st.lists(st.floats(0.0, 10.0), min_size=1, max_size=20))
def test_no_round_trip_of_the_last_moments_would_have_been_late(trips: list[float]) -> None:
    trip = RoundTrip()
    for seconds in trips:
        trip.took(seconds, 100.0)
    assert trip.late_after_s(100.0) > max(trips)
