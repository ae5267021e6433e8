from __future__ import annotations

import itertools
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from servicebus.errors import EnvelopeError
from servicebus.policy import clocks
from servicebus.policy.clocks import FASTER, SLOWER, SteadyClock, check_fresh, remaining_s

TOLERANCE_MS = 100
NOW_MS = 1_700_000_000_000


class Machine:
    """Its clocks; only *wall_s* can be set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall_s, self.steady_s, self.slept_s = 1_000_000.0, 50.0, 0.0
        self.between_s = 0.0
        """How long it takes from one look at a clock to the next."""
        clock = SimpleNamespace(
            time=lambda: self.wall_s,
            monotonic=self._monotonic,
            clock_gettime=lambda _clock: self.steady_s + self.slept_s,
            CLOCK_BOOTTIME=7,
        )
        monkeypatch.setattr(clocks, "time", clock)

    def _monotonic(self) -> float:
        self.wait(self.between_s)
        return self.steady_s

    def wait(self, seconds: float) -> None:
        self.wall_s += seconds
        self.steady_s += seconds

    def suspend(self, seconds: float) -> None:
        self.wall_s += seconds
        self.slept_s += seconds

    def ask(self, clock: SteadyClock) -> int:
        return clock.now_ms(int(self.wall_s * 1000))

    def agree(self, clock: SteadyClock, looks: int, every_s: float = 1.0) -> None:
        for _ in range(looks):
            self.wait(every_s)
            clock.follow()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


@pytest.mark.parametrize("step_s", [0.0, -5.0, 5.0])
def test_a_step_of_our_clock_does_not_move_the_steady_one(machine: Machine, step_s: float) -> None:
    clock = SteadyClock(60.0)
    machine.wait(3.0)
    machine.wall_s += step_s
    assert clock.now_ms(int(machine.wall_s * 1000)) == 1_000_003_000


@pytest.mark.parametrize("step_s", [-3600.0, -61.0, 61.0, 1.7e9])
def test_a_clock_that_was_wrong_at_the_start_and_is_set_right_is_believed(machine: Machine, step_s: float) -> None:
    clock = SteadyClock(60.0)
    machine.wall_s += step_s
    right_ms = int(machine.wall_s * 1000)
    assert clock.now_ms(right_ms) == right_ms
    machine.wait(3.0)
    machine.wall_s -= 5.0
    assert abs(clock.now_ms(int(machine.wall_s * 1000)) - right_ms - 3_000) <= 1


LONGEST_S = 60.0
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["wait", "wait", "look", "look", "step"]),
        st.floats(0.01, 20.0),
        st.floats(-LONGEST_S, LONGEST_S),
    ),
    max_size=60,
)


def play(machine: Machine, clock: SteadyClock, steps: list[tuple[str, float, float]]) -> Iterator[None]:
    """Whatever happens to a machine's clock, as long as it is never further off than is allowed."""
    right_s = machine.wall_s - machine.steady_s
    for what, wait_s, off_s in steps:
        if what == "wait":
            machine.wait(wait_s)
        elif what == "look":
            machine.wait(wait_s / 10)
            clock.follow()
        else:
            steady_s = machine.ask(clock) / 1000 - machine.steady_s
            wanted_s = right_s + off_s
            machine.wall_s = machine.steady_s + min(max(wanted_s, steady_s - LONGEST_S + 1), steady_s + LONGEST_S - 1)
        yield


SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@SHARED
@given(STEPS)
def test_the_clock_goes_at_most_so_much_faster_or_slower_than_time(
    machine: Machine, steps: list[tuple[str, float, float]]
) -> None:
    clock = SteadyClock(LONGEST_S)
    seen = [(machine.steady_s, machine.ask(clock))]
    for _ in play(machine, clock, steps):
        seen.append((machine.steady_s, machine.ask(clock)))
    for (began_s, began_ms), (ended_s, ended_ms) in itertools.pairwise(seen):
        passed_ms = (ended_s - began_s) * 1000
        # A look counts what has passed since the one before it, of which we may not have asked for the time.
        assert passed_ms - SLOWER * 5_000 - 1.1 <= ended_ms - began_ms <= passed_ms + FASTER * 5_000 + 1.1
    passed_ms = (seen[-1][0] - seen[0][0]) * 1000
    assert -SLOWER * passed_ms - 1.1 <= seen[-1][1] - seen[0][1] - passed_ms <= FASTER * passed_ms + 1.1


@SHARED
@given(STEPS)
def test_time_never_runs_backwards(machine: Machine, steps: list[tuple[str, float, float]]) -> None:
    clock = SteadyClock(LONGEST_S)
    before = machine.ask(clock)
    for _ in play(machine, clock, steps):
        machine.agree(clock, 1)
        now = machine.ask(clock)
        assert now > before
        before = now


@SHARED
@given(STEPS)
def test_the_clock_agrees_with_the_machines_after_a_while(
    machine: Machine, steps: list[tuple[str, float, float]]
) -> None:
    clock = SteadyClock(LONGEST_S)
    for _ in play(machine, clock, steps):
        pass
    machine.agree(clock, int(LONGEST_S / SLOWER / 5) + 2, every_s=5.0)
    assert abs(machine.ask(clock) - machine.wall_s * 1000) <= 21


@SHARED
@given(STEPS, st.integers(0, 59), st.floats(0.1, 300.0))
def test_no_call_runs_late_however_the_clock_of_its_node_is_set_while_it_is_on_its_way(
    machine: Machine, steps: list[tuple[str, float, float]], sent_at: int, ttl_s: float
) -> None:
    clock = SteadyClock(LONGEST_S)
    sent_ms, sent_s = machine.ask(clock), machine.steady_s
    for number, _ in enumerate(play(machine, clock, steps)):
        if number == sent_at:
            sent_ms, sent_s = machine.ask(clock), machine.steady_s
        machine.agree(clock, 30)
        good_s = remaining_s(sent_ms, int(ttl_s * 1000), machine.ask(clock), clock.stretch)
        on_its_way_s = machine.steady_s - sent_s
        # What a single look moves the clock by may be of the time before the call was sent.
        assert good_s <= max(0.0, ttl_s - on_its_way_s) + SLOWER * 5.0 + 0.002


@pytest.mark.parametrize("off_s", [-30.0, 30.0])
def test_a_step_is_followed_from_when_it_is_seen_and_not_faster_after_a_silence(machine: Machine, off_s: float) -> None:
    clock = SteadyClock(LONGEST_S)
    machine.wait(3600.0)
    machine.wall_s += off_s
    before = machine.ask(clock)
    clock.follow()
    assert machine.ask(clock) == before
    machine.agree(clock, 100)
    assert abs(machine.ask(clock) - before - 100_000 - (FASTER if off_s > 0 else -SLOWER) * 100_000) <= 2
    assert (clock.stretch > 1) is (off_s < 0)
    machine.agree(clock, 510 if off_s > 0 else 2910)
    assert abs(machine.ask(clock) - machine.wall_s * 1000) <= 2
    machine.agree(clock, 3601)
    assert clock.stretch == 1.0


def test_a_call_that_waits_while_the_clock_goes_slower_is_as_old_as_it_is(machine: Machine) -> None:
    clock = SteadyClock(LONGEST_S)
    machine.wall_s -= 30.0
    machine.agree(clock, 100)
    sent_ms = machine.ask(clock)
    machine.agree(clock, 200)
    assert abs(remaining_s(sent_ms, 300_000, machine.ask(clock), clock.stretch) - 100.0) < 0.01


def test_what_a_machine_was_suspended_for_has_passed(machine: Machine) -> None:
    """A call that waited meanwhile is as old as it is, and Senders with a right clock are not from the future."""
    clock = SteadyClock(LONGEST_S)
    sent_ms = machine.ask(clock)
    machine.suspend(30.0)
    clock.follow()
    assert abs(machine.ask(clock) - sent_ms - 30_000) <= 1
    assert clock.stretch == 1.0


def test_clocks_that_were_not_read_at_one_moment_say_nothing(machine: Machine) -> None:
    clock = SteadyClock(LONGEST_S)
    machine.wall_s += 30.0
    machine.agree(clock, 1)
    before = machine.ask(clock)
    machine.between_s = 0.5
    clock.follow()
    machine.between_s = 0.0
    assert machine.ask(clock) == before + 1000  # twice half a second


def test_a_call_that_stood_in_a_dead_network_is_as_old_as_it_says() -> None:
    assert remaining_s(1_000, 10_000, 9_000) == 2.0
    assert remaining_s(1_000, 8_000, 9_000) == 0.0


@pytest.mark.parametrize("ahead_ms", [1, TOLERANCE_MS])
def test_clocks_that_are_hardly_apart_are_taken_to_agree(ahead_ms: int) -> None:
    assert remaining_s(NOW_MS + ahead_ms, 5_000, NOW_MS) == 5.0


@pytest.mark.parametrize("way_ms", [0, 50, 1_000])
@pytest.mark.parametrize("ahead_ms", [-4_000, 0, 1_500, 4_000])
def test_no_call_runs_late_however_the_clock_of_its_sender_was_set(ahead_ms: int, way_ms: int) -> None:
    """One that is told the node's time dates its next attempt by it, also where its clock has been set since."""
    told_ms = NOW_MS  # is as old as its way when it comes to the Sender
    for shift_ms in (0, -ahead_ms - way_ms):
        for set_to_ms in (ahead_ms, 0):
            now_ms = told_ms + way_ms
            good_s = remaining_s(now_ms + set_to_ms + shift_ms, 5_000, now_ms + way_ms)
            assert good_s <= 0 or way_ms + good_s * 1000 <= 5_000 + TOLERANCE_MS


@given(st.integers(-3_600_000, 3_600_000), st.integers(1, 3_600_000))
def test_no_call_is_good_for_longer_than_it_says(ahead_ms: int, ttl_ms: int) -> None:
    assert remaining_s(NOW_MS + ahead_ms, ttl_ms, NOW_MS) <= ttl_ms / 1000


@pytest.mark.parametrize(
    ("age_ms", "is_fresh"), [(-60_000, True), (-60_001, False), (0, True), (65_000, True), (65_001, False)]
)
def test_what_is_signed_is_fresh_for_as_long_as_it_is_good_and_the_skew(age_ms: int, is_fresh: bool) -> None:
    if is_fresh:
        check_fresh(NOW_MS, 5.0, NOW_MS + age_ms, 60.0)
    else:
        with pytest.raises(EnvelopeError) as refusal:
            check_fresh(NOW_MS, 5.0, NOW_MS + age_ms, 60.0)
        assert refusal.value.reason == "stale"


def test_a_refusal_says_how_far_the_clocks_are_apart() -> None:
    with pytest.raises(EnvelopeError, match=r"the clocks are 90\.000 s apart"):
        check_fresh(NOW_MS, 5.0, NOW_MS - 90_000, 60.0)
    with pytest.raises(EnvelopeError, match=r"25\.000 s too old \(sent 90\.000 s ago, good for 5 s and 60 s"):
        check_fresh(NOW_MS, 5.0, NOW_MS + 90_000, 60.0)
