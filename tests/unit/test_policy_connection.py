from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicebus.errors import LifecycleError
from servicebus.policy.connection import TRANSITIONS, Event, State, after

LEGAL = [(state, event, target) for state, row in TRANSITIONS.items() for event, target in row.items()]
ILLEGAL = [(state, event) for state in State for event in Event if event not in TRANSITIONS[state]]


def test_the_table_has_a_row_for_every_state() -> None:
    assert set(TRANSITIONS) == set(State)


@pytest.mark.parametrize(("state", "event", "target"), LEGAL)
def test_an_event_of_the_table_leads_where_the_table_says(state: State, event: Event, target: State) -> None:
    assert after(state, event) is target


@pytest.mark.parametrize(("state", "event"), ILLEGAL)
def test_an_event_without_an_entry_raises_and_names_both(state: State, event: Event) -> None:
    with pytest.raises(LifecycleError) as caught:
        after(state, event)
    assert (caught.value.state, caught.value.event) == (state.value, event.value)
    assert str(caught.value) == f"{event.value} is not possible while {state.value}"


def test_the_usual_life_of_a_connection() -> None:
    state = State.IDLE
    for event in (Event.START, Event.LOST, Event.RETRY, Event.OPENED, Event.LOST, Event.RETRY, Event.OPENED):
        state = after(state, event)
    assert state is State.UP
    assert after(after(state, Event.STOP), Event.DRAINED) is State.CLOSED


@given(st.lists(st.sampled_from(Event)))
def test_whatever_happens_a_stop_leads_to_the_end_and_nothing_leads_back(events: list[Event]) -> None:
    """From every state that can be reached, STOP (and then the end of the drain) closes; CLOSED is final."""
    state = State.IDLE
    for event in events:
        state = TRANSITIONS[state].get(event, state)
    if state not in (State.CLOSED, State.DRAINING):
        state = after(state, Event.STOP)
    if state is State.DRAINING:
        state = after(state, Event.LOST)
    assert state is State.CLOSED
    assert TRANSITIONS[state] == {}
