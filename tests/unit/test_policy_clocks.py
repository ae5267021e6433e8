from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicebus.policy import clocks
from servicebus.policy.clocks import SteadyClock, remaining_s

TOLERANCE_MS = 100
NOW_MS = 1_700_000_000_000


class Machine:
    """Its two clocks; only *wall_s* can be set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall_s, self.steady_s = 1_000_000.0, 50.0
        monkeypatch.setattr(clocks, "time", SimpleNamespace(time=lambda: self.wall_s, monotonic=lambda: self.steady_s))

    def wait(self, seconds: float) -> None:
        self.wall_s += seconds
        self.steady_s += seconds


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
