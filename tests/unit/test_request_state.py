"""The life of a request: what may follow what, and what it keeps of its way."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicebus.client.request import PendingRequest
from servicebus.client.request_state import TRANSITIONS, RequestEvent, RequestState
from servicebus.errors import EnvelopeError, LifecycleError
from servicebus.policy.transitions import after
from servicebus.wire.address import Address
from servicebus.wire.envelope import Kind

LEGAL = [(state, event, target) for state, row in TRANSITIONS.items() for event, target in row.items()]
ILLEGAL = [(state, event) for state in RequestState for event in RequestEvent if event not in TRANSITIONS[state]]


def request(kind: Kind = Kind.CALL) -> Any:
    """Any: its links are strings here."""
    return PendingRequest(1, "x-1", Address("N", "test", "it"), kind, b"", timeout_s=9.0)


def path(name: str, shift_ms: int = 0) -> Any:
    return SimpleNamespace(link=name, protocol=f"of {name}", shift_ms=shift_ms)


# -- the table -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("state", "event", "target"), LEGAL)
def test_an_event_of_the_table_leads_where_the_table_says(
    state: RequestState, event: RequestEvent, target: RequestState
) -> None:
    assert after(TRANSITIONS, state, event) is target


@pytest.mark.parametrize(("state", "event"), ILLEGAL)
def test_an_event_without_an_entry_raises_and_names_both(state: RequestState, event: RequestEvent) -> None:
    with pytest.raises(LifecycleError) as caught:
        after(TRANSITIONS, state, event)
    assert (caught.value.state, caught.value.event) == (state.value, event.value)


def test_every_request_ends_once_wherever_it_is() -> None:
    for state in RequestState:
        assert TRANSITIONS[state].get(RequestEvent.ENDED) is (None if state is RequestState.DONE else RequestState.DONE)
    assert TRANSITIONS[RequestState.DONE] == {}


@given(st.lists(st.sampled_from(RequestEvent)))
def test_every_state_is_reached_from_new_by_events_of_the_table(events: list[RequestEvent]) -> None:
    state = RequestState.NEW
    for event in events:
        state = TRANSITIONS[state].get(event, state)
    assert state in TRANSITIONS


# -- the request ---------------------------------------------------------------------------------------------------


def test_a_call_is_in_flight_on_its_path_and_new_when_that_is_lost() -> None:
    call = request()
    assert call.state.value == "new" and not call.maybe_ran
    call.travels(path("a", shift_ms=7), 5.0)
    assert call.state is RequestState.IN_FLIGHT and call.maybe_ran
    assert (call.link, call.protocol, call.attempt, call.sent_as, call.shift_ms) == ("a", "of a", 1, 1, 7)
    assert call.published_at == 5.0
    call.lost(call.link)
    assert (call.state, call.link, call.path) == (RequestState.NEW, None, None)
    assert call.maybe_ran, "whether the node has it is not known"
    call.travels(path("b"), 6.0)
    assert (call.attempt, call.sent_as) == (2, 2)


def test_a_message_counts_as_published_only_when_its_channel_has_room() -> None:
    message = request(Kind.MESSAGE)
    message.travels(path("a"), 5.0)
    assert (message.link, message.path, message.attempt, message.maybe_ran) == ("a", None, 0, False)
    message.published_late(8.0)
    message.published()
    assert message.maybe_ran and message.published_at == 8.0
    message.came_back()
    assert message.returned
    message.lost(message.link)
    message.travels(path("b"), 9.0)
    assert not message.returned, "that was the other broker"


@pytest.mark.parametrize("lost", ["a", "b"])
def test_of_two_attempts_the_one_that_is_left_goes_on(lost: Any) -> None:
    call = request()
    call.travels(path("a"), 5.0)
    call.travels_twice(path("b"))
    assert (call.state, call.attempt, call.sent_as, call.hedged_as) == (RequestState.HEDGED, 2, 1, 2)
    assert (call.attempt_on(call.link), call.path_on("b")) == (1, call.hedge)
    with pytest.raises(LifecycleError):
        call.travels_twice(path("c"))
    call.lost(lost)
    assert call.state is RequestState.IN_FLIGHT and call.hedge is None
    assert (call.link, call.sent_as) == (("b", 2) if lost == "a" else ("a", 1))
    assert call.path is not None and call.path.link == call.link


def test_what_is_not_possible_changes_nothing() -> None:
    call = request()
    call.waits(1.0, 2.0)
    with pytest.raises(LifecycleError, match="published is not possible while waiting"):
        call.travels(path("a"), 2.0)
    assert (call.state, call.link, call.attempt, call.maybe_ran) == (RequestState.WAITING, None, 0, False)


def test_a_wait_goes_on_where_it_was_interrupted_by_a_short_journey() -> None:
    call = request()
    assert call.waits(1.0, 2.0)
    call.resumed()
    assert not call.waits(1.5, 2.0), "it was nowhere else"
    call.resumed()
    call.travels(path("a"), 3.0)
    call.lost("a")
    call.travels(path("b"), 3.25)
    call.lost("b")
    assert call.waits(3.5, 2.0)
    assert call.waiting_since == 1.5, "two seconds were waited"
    call.resumed()
    call.travels(path("a"), 10.0)
    call.lost("a")
    assert call.waits(12.5, 2.0)
    assert call.waiting_since == 12.5, "after a long one it begins again"


def test_a_busy_service_is_remembered_in_its_own_words() -> None:
    call = request()
    for why in ("full", "full\x1b"):
        call.travels(path("a"), 1.0)
        call.paused(why)
        assert (call.state, call.link, call.path) == (RequestState.PAUSED, None, None)
        call.resumed()
    assert (call.refusals, call.refused_with) == (2, "full\\x1b")


def test_a_call_that_is_held_back_knows_since_when() -> None:
    call = request()
    call.travels(path("a"), 1.0)
    call.lost("a")
    assert [call.failed_over(), call.failed_over()] == [1, 2]
    call.held(4.0)
    assert (call.state, call.held_since) == (RequestState.HELD, 4.0)
    call.resumed()
    assert (call.state, call.held_since) == (RequestState.NEW, None)


@pytest.mark.parametrize("end", ["complete", "fail", "dropped"])
def test_each_end_is_the_last_state(end: str) -> None:
    call = request()
    call.travels(path("a"), 1.0)
    {"complete": lambda: call.complete(1), "fail": lambda: call.fail(ValueError()), "dropped": call.dropped}[end]()
    assert call.state is RequestState.DONE and call.is_done
    call.complete(2)
    assert call.state is RequestState.DONE


def test_what_the_outbox_has_is_not_done_yet() -> None:
    message = request(Kind.MESSAGE)
    message.stored()
    assert message.state is RequestState.STORING and not message.is_done
    message.complete(1)
    assert message.is_done


def test_a_call_is_said_not_run_once_that_is_said_of_each_attempt() -> None:
    call = request()
    for attempt, host in enumerate("ab", 1):
        call.travels(path(host), 5.0)
        assert not call.is_said_not_run
        call.refused_unsigned(attempt, EnvelopeError("signature"))
        assert call.is_said_not_run
        call.lost(host)
