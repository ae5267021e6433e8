from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicebus.policy.retry_budget import RetryBudget, busy_pause_s


def taken(budget: RetryBudget, now: float, total: int, most: int = 1000) -> int:
    count = 0
    while count < most and budget.take(now, total):
        count += 1
    return count


def test_a_quiet_program_may_send_again_up_to_the_floor() -> None:
    assert taken(RetryBudget(0.1, floor=3), 100.0, total=0) == 3


def test_a_tenth_of_the_calls_may_be_sent_again_on_top_of_it() -> None:
    budget = RetryBudget(0.1, floor=3)
    budget.observe(100.0, 50)
    assert taken(budget, 101.0, total=50 + 200) == 3 + 20


def test_only_the_calls_of_the_window_count() -> None:
    budget = RetryBudget(0.1, floor=0, window_s=10)
    for second in range(100, 131):
        budget.observe(float(second), (second - 100) * 100)
    assert taken(budget, 130.0, total=3000) == 100


def test_what_was_sent_again_is_forgotten_after_the_window() -> None:
    budget = RetryBudget(0.0, floor=2, window_s=10)
    assert taken(budget, 100.0, 0) == 2
    assert taken(budget, 109.9, 0) == 0
    assert taken(budget, 110.0, 0) == 2


def test_a_budget_keeps_no_more_than_a_window_of_marks() -> None:
    budget = RetryBudget(0.1, floor=2)
    for tick in range(10_000):
        budget.observe(tick / 20, tick)
    assert len(budget._marks) <= 12


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 50), st.integers(0, 5)), max_size=200))
def test_never_more_than_floor_and_ratio_in_any_window(steps: list[tuple[float, int, int]]) -> None:
    budget = RetryBudget(0.1, floor=5, window_s=10)
    now, total, sent, calls = 0.0, 0, [], []
    for pause_s, made, wanted in steps:
        now += pause_s
        total += made
        calls.append((now, made))
        budget.observe(now, total)
        sent += [now for _ in range(wanted) if budget.take(now, total)]
        in_window = sum(1 for at in sent if at > now - 10)
        # The calls are looked at once a second, or at the next step after that: the window is that much longer at most.
        assert in_window <= 5 + 0.1 * sum(count for at, count in calls if at > now - 12)


def test_a_busy_service_is_asked_ever_less_often_up_to_every_two_seconds() -> None:
    pauses = [busy_pause_s(0.05, refusals, jitter=1.0) for refusals in range(1, 9)]
    assert pauses == pytest.approx([0.075, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0])


@given(st.floats(0.001, 60), st.integers(1, 10**6), st.floats(0, 1))
def test_nobody_comes_back_sooner_than_the_node_says_nor_much_later(
    hint_s: float, refusals: int, jitter: float
) -> None:
    assert hint_s <= busy_pause_s(hint_s, refusals, jitter) <= max(2.0, 1.5 * hint_s)
