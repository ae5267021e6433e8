"""What waits for a confirm, against a plain list of what was published."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from servicebus.transport.confirms import Unconfirmed


@given(st.integers(0, 30), st.lists(st.tuples(st.integers(0, 35), st.booleans()), max_size=20))
def test_every_item_is_settled_once_by_the_first_confirm_that_speaks_of_it(
    count: int, confirms: list[tuple[int, bool]]
) -> None:
    unconfirmed: Unconfirmed[str] = Unconfirmed()
    for number in range(1, count + 1):
        unconfirmed.add(number, f"item {number}")
    waiting = list(range(1, count + 1))
    for number, multiple in confirms:
        spoken_of = [each for each in waiting if (each <= number if multiple else each == number)]
        assert unconfirmed.settled(number, multiple) == [f"item {each}" for each in spoken_of]
        waiting = [each for each in waiting if each not in spoken_of]
        assert list(unconfirmed) == [f"item {each}" for each in waiting]
    assert unconfirmed.clear() == [f"item {each}" for each in waiting]
    assert len(unconfirmed) == 0
