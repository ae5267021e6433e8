"""Deadlines: who has run out of time, whatever the limits are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicebus.client.pending import Deadlines
from servicebus.client.request import PendingRequest
from servicebus.wire.address import Address
from servicebus.wire.envelope import Kind

ADDRESS = Address.parse("N.test.it")


def request(number: int, deadline: float) -> PendingRequest:
    made = PendingRequest(number, f"x-{number}", ADDRESS, Kind.CALL, b"", timeout_s=1.0)
    made.deadline = deadline
    return made


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans())), st.lists(st.integers(0, 10)))
def test_whoever_is_late_is_found_once(given: list[tuple[int, bool]], looks: list[int]) -> None:
    deadlines = Deadlines()
    requests = [request(number, float(deadline)) for number, (deadline, _) in enumerate(given)]
    for each, (_, is_answered) in zip(requests, given, strict=True):
        deadlines.add(each, each.deadline)
        if is_answered:
            each.complete(None)
    waiting = [each for each in requests if not each.is_done]
    for now in looks:
        late = [each for each in waiting if each.deadline <= now]
        assert sorted(each.event_id for each in deadlines.expired(now)) == [each.event_id for each in late]
        waiting = [each for each in waiting if each not in late]


@given(st.lists(st.integers(0, 9), max_size=50))
def test_what_is_done_is_not_kept(given: list[int]) -> None:
    deadlines = Deadlines()
    requests = [request(number, float(deadline)) for number, deadline in enumerate(given)]
    for each in requests:
        deadlines.add(each, each.deadline)
    for each in requests[1:]:
        each.complete(None)
    list(deadlines.expired(-1.0))
    deadlines.forget_done(min(1, len(given)))
    assert len(deadlines) <= len(given)
    for each in requests:
        each.complete(None)
    deadlines.forget_done(0)
    assert len(deadlines) == 0


@pytest.mark.parametrize("name", ["set_result", "set_exception"])
def test_whoever_is_interrupted_as_he_ends_one_leaves_it_to_its_deadline(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that waits for an answer of its own turns the loop, and Ctrl-C may come at any point."""
    deadlines, waiting = Deadlines(), request(1, 5.0)
    deadlines.add(waiting, waiting.deadline)
    future = waiting.future()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(future, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            waiting.complete(1) if name == "set_result" else waiting.fail(ValueError())
    (late,) = deadlines.expired(6.0)
    late.fail(TimeoutError("late"))
    with pytest.raises(TimeoutError, match="late"):
        future.result(timeout=0)


def test_requests_of_one_limit_leave_as_they_are_answered() -> None:
    """However many a program has made, what is answered does not stay until its limit."""
    deadlines = Deadlines()
    for number in range(5000):
        made = request(number, 100.0 + number)
        deadlines.add(made, made.deadline)
        made.complete(None)
        list(deadlines.expired(0.0))
    assert len(deadlines) == 0
