from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicebus.policy.backoff import UNREACHABLE_CAP_S, Backoff, cap_for


class Highest(random.Random):
    """Draws the top of every range, so that a test sees the ceilings."""

    def uniform(self, a: float, b: float) -> float:
        return b


def test_the_ceiling_doubles_from_the_first_delay_to_the_cap_and_stays_there() -> None:
    backoff = Backoff(0.2, 15.0, Highest())
    assert [backoff.next_s() for _ in range(9)] == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 15.0, 15.0])


def test_a_reset_starts_from_the_first_delay_again() -> None:
    backoff = Backoff(0.2, 15.0, Highest())
    for _ in range(5):
        backoff.next_s()
    assert backoff.attempts == 5
    backoff.reset()
    assert (backoff.attempts, backoff.next_s()) == (0, 0.2)


def test_a_lower_cap_holds_for_one_attempt_only() -> None:
    backoff = Backoff(0.2, 15.0, Highest())
    for _ in range(6):
        backoff.next_s()
    assert backoff.next_s(1.0) == 1.0
    assert backoff.next_s() == 15.0


def test_a_higher_cap_for_one_attempt_does_not_raise_the_cap() -> None:
    backoff = Backoff(0.2, 1.0, Highest())
    for _ in range(6):
        backoff.next_s()
    assert backoff.next_s(60.0) == 1.0


@given(st.integers(0, 2**32), st.integers(0, 2000), st.floats(0.01, 10), st.floats(0.01, 100))
def test_every_delay_lies_between_zero_and_the_cap_after_any_number_of_attempts(
    seed: int, attempts: int, first_s: float, cap_s: float
) -> None:
    """2.0 ** attempts would overflow after 1024 failures: an agent may be without its broker for weeks."""
    backoff = Backoff(first_s, cap_s, random.Random(seed))
    for _ in range(attempts):
        backoff.next_s()
    assert 0.0 <= backoff.next_s() <= cap_s


def test_agents_that_lost_a_broker_together_do_not_come_back_together() -> None:
    """Full jitter: of a hundred agents in their fifth attempt, no tenth of the time sees more than a third."""
    delays = []
    for seed in range(100):
        backoff = Backoff(rng=random.Random(seed))
        for _ in range(4):
            backoff.next_s()
        delays.append(backoff.next_s())
    ceiling = 0.2 * 2**4
    buckets = [sum(1 for delay in delays if n / 10 <= delay / ceiling < (n + 1) / 10) for n in range(10)]
    assert max(buckets) < 33


@pytest.mark.parametrize("kind", ["refused", "unreachable", "silent", "closed"])
def test_attempts_that_cost_the_broker_nothing_are_repeated_within_a_second(kind: str) -> None:
    assert cap_for(kind) == UNREACHABLE_CAP_S


@pytest.mark.parametrize("kind", ["credentials", "topology", "tls"])
def test_attempts_that_only_an_operator_can_heal_back_off_to_the_full_cap(kind: str) -> None:
    assert cap_for(kind) is None
