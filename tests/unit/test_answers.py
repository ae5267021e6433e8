"""Answers: what a caller is told of a call that was not run."""

from __future__ import annotations

from typing import Any

import pytest

from servicebus.client.answers import Answers
from servicebus.client.request import Request
from servicebus.client.roster import Roster
from servicebus.errors import CallTimeout, ServiceBusError, ServiceBusy
from servicebus.wire.address import Address
from servicebus.wire.envelope import Kind
from servicebus.wire.fault import EXPIRED, Fault


@pytest.mark.parametrize(
    ("is_lost", "refusals", "told"),
    [(False, 0, CallTimeout), (False, 3, ServiceBusy), (True, 3, CallTimeout)],
    ids=["on its way for too long", "refused until its deadline", "refused after it may have run"],
)
def test_a_last_attempt_that_comes_too_late(is_lost: bool, refusals: int, told: type[ServiceBusError]) -> None:
    """A service that was busy to the end is what the caller has to know, if the call has certainly not run."""
    nobody: Any = None
    request = Request(1, "x-1", Address.parse("N.test.it"), Kind.CALL, b"", "", timeout_s=0.0)
    if is_lost:
        request.published()  # and its path died
    for _ in range(refusals):
        request.published()
        request.not_run()
    request.refusals, request.refused_with = refusals, "the database is away"
    request.published()
    Answers(Roster(), nobody, nobody, nobody)._faulted(request, Fault(EXPIRED, "the deadline passed"), nobody)
    with pytest.raises(told) as caught:
        request.wait()
    assert ("the database is away" in str(caught.value)) is (told is ServiceBusy)
