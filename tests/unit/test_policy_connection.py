from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicebus.errors import LifecycleError
from servicebus.policy.connection import TRANSITIONS, ConnectionEvent, ConnectionState
from servicebus.policy.transitions import after

LEGAL = [(state, event, target) for state, row in TRANSITIONS.items() for event, target in row.items()]
ILLEGAL = [(state, event) for state in ConnectionState for event in ConnectionEvent if event not in TRANSITIONS[state]]


def test_the_table_has_a_row_for_every_state() -> None:
    assert set(TRANSITIONS) == set(ConnectionState)


@pytest.mark.parametrize(("state", "event", "target"), LEGAL)
def test_an_event_of_the_table_leads_where_the_table_says(
    state: ConnectionState, event: ConnectionEvent, target: ConnectionState
) -> None:
    assert after(TRANSITIONS, state, event) is target


@pytest.mark.parametrize(("state", "event"), ILLEGAL)
def test_an_event_without_an_entry_raises_and_names_both(state: ConnectionState, event: ConnectionEvent) -> None:
    with pytest.raises(LifecycleError) as caught:
        after(TRANSITIONS, state, event)
    assert (caught.value.state, caught.value.event) == (state.value, event.value)
    assert str(caught.value) == f"{event.value} is not possible while {state.value}"


def test_the_usual_states_of_a_connection() -> None:
    state = ConnectionState.IDLE
    for event in (
        ConnectionEvent.START,
        ConnectionEvent.LOST,
        ConnectionEvent.RETRY,
        ConnectionEvent.OPENED,
        ConnectionEvent.LOST,
        ConnectionEvent.RETRY,
        ConnectionEvent.OPENED,
    ):
        state = after(TRANSITIONS, state, event)
    assert state is ConnectionState.UP
    state = after(TRANSITIONS, state, ConnectionEvent.STOP)
    assert after(TRANSITIONS, state, ConnectionEvent.DRAINED) is ConnectionState.CLOSED


@given(st.lists(st.sampled_from(ConnectionEvent)))
def test_whatever_happens_a_stop_leads_to_the_end_and_nothing_leads_back(events: list[ConnectionEvent]) -> None:
    """From every state that can be reached, STOP (and then the end of the drain) closes; CLOSED is final."""
    state = ConnectionState.IDLE
    for event in events:
        state = TRANSITIONS[state].get(event, state)
    if state not in (ConnectionState.CLOSED, ConnectionState.DRAINING):
        state = after(TRANSITIONS, state, ConnectionEvent.STOP)
    if state is ConnectionState.DRAINING:
        state = after(TRANSITIONS, state, ConnectionEvent.LOST)
    assert state is ConnectionState.CLOSED
    assert TRANSITIONS[state] == {}
