"""Delay tiers: any delay is reached in hops, and never overshot."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicebus.policy.retry_schedule import DELAY_TIERS_S, hold_s, next_delay, tier_for


@given(st.floats(min_value=0.001, max_value=86_400))
def test_hops_add_up_to_the_delay(delay_s: float) -> None:
    remaining, hops = delay_s, 0
    while remaining > 1e-9:
        remaining -= hold_s(tier_for(remaining), remaining)
        hops += 1
    assert remaining == pytest.approx(0, abs=1e-6)
    assert hops <= delay_s / DELAY_TIERS_S[-1] + 4 + 4 + 3 + 6


def test_a_message_that_arrives_late_is_due_at_once() -> None:
    assert hold_s(30, -5) == 0


def test_the_schedule_ends() -> None:
    assert [next_delay((1, 5), attempts) for attempts in (1, 2, 3)] == [1, 5, None]
    assert next_delay((), 1) is None
