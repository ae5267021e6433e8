"""Calls that are not run, and what their Senders are told so that they ask again."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest

from servicebus.runtime.journal import IdStatus, Lookup
from servicebus.runtime.not_run import full, not_now
from servicebus.wire.envelope import CALL, MESSAGE, Kind

NEW, DIED = Lookup(IdStatus.NEW, None, 2, 0), Lookup(IdStatus.NEW, None, 2, 1)


def job(kind: Kind = CALL, *, is_patient: bool = False) -> Any:
    return Mock(incoming=Mock(kind=kind, is_patient=is_patient))


@pytest.mark.parametrize(
    ("asked", "known", "is_stopping", "fault"),
    [
        (job(), NEW, False, "busy"),
        (job(), NEW, True, "stopping"),
        (job(), DIED, False, None),
        (job(), DIED, True, "stopping"),
        (job(is_patient=True), NEW, False, None),
        (job(MESSAGE), NEW, True, None),
    ],
)
def test_a_call_that_is_delivered_again_is_asked_for_again(
    asked: Any, known: Lookup, is_stopping: bool, fault: str | None
) -> None:
    found = not_now(asked, known, is_stopping)
    assert (None if found is None else found.type) == fault
    assert fault != "busy" or (found is not None and found.retry_after_ms == 50)


@pytest.mark.parametrize(
    ("inbox", "text"),
    [
        (None, "the inbox of test.echo is full"),
        (Mock(problem="", elsewhere=""), "the inbox of test.echo is full"),
        (Mock(problem="setup() failed", elsewhere=""), "setup() failed"),
    ],
)
def test_a_service_that_takes_no_call_says_why(inbox: Any, text: str) -> None:
    call = Mock(incoming=Mock(kind=CALL, is_patient=False, key="test.echo"), service=inbox)
    assert full(call, 0).copy is None
    found = call.protocol.encode_fault.call_args.args[1]
    assert (found.type, found.text) == ("busy", text)
    assert found.retry_after_ms is not None and (found.retry_after_ms > 50) is (text == "setup() failed")


@pytest.mark.parametrize("kind", [CALL, MESSAGE])
def test_what_another_worker_runs_is_passed_on_to_it(kind: Kind) -> None:
    passed = Mock(incoming=Mock(kind=kind), service=Mock(elsewhere="N.rpc.for.test.echo"))
    found = full(passed, 2)
    assert found.pending == [passed] and found.reply is None and found.copy is not None
    assert (found.copy.queue, found.copy.attempts) == ("N.rpc.for.test.echo", 2)
