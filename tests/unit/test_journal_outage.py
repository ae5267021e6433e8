"""While the journal can be neither asked nor told: what waits to be told, and which calls wait for how long."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import pytest
from virtual_time import VirtualTime, virtual_time

from servicebus.errors import JournalUnavailable
from servicebus.runtime.job import Job, Outcome
from servicebus.runtime.journal import Release
from servicebus.runtime.journal_outage import JournalNotes, JournalOutage
from servicebus.transport.failurelog import FailureLog
from servicebus.wire.envelope import CALL, MESSAGE, Kind

LOCKED = JournalUnavailable("here", "locked")


class TestNotes:
    def test_they_are_told_by_their_reasons(self) -> None:
        journal = Mock()
        notes = JournalNotes(journal)
        for id, why in (("a", Release.NOT_RUN), ("b", None), ("c", Release.FAILED), ("d", Release.NOT_RUN)):
            notes.add(id, why)
        notes.tell()
        ((ends, _now), _) = journal.finish_many.call_args
        assert ends == [("b", None)]
        released = {why: ids for (ids, why), _ in journal.release_many.call_args_list}
        assert released == {Release.NOT_RUN: ["a", "d"], Release.FAILED: ["c"]}
        assert notes.untold == []

    def test_what_cannot_be_told_stays_and_nothing_is_told_twice(self) -> None:
        journal = Mock()
        journal.release_many.side_effect = LOCKED
        notes = JournalNotes(journal)
        notes.add("a", Release.FAILED)
        notes.add("b", None)
        notes.tell()
        assert notes.untold == [("a", Release.FAILED)]
        journal.release_many.side_effect = None
        notes.tell()
        assert notes.untold == [] and journal.finish_many.call_count == 1

    def test_without_any_the_journal_is_not_asked(self) -> None:
        journal = Mock()
        JournalNotes(journal).tell()
        assert journal.mock_calls == []


class Rig:
    def __init__(self) -> None:
        self.running: dict[str, Job] = {}
        self.counters: Counter[str] = Counter()
        self.failures = FailureLog("test")
        self.outage = JournalOutage(self.running, self.counters, self.failures)
        self.held: list[Job] = []

    def job(self, id: str, kind: Kind = CALL, *, again: bool = False) -> Any:
        incoming: Any = Mock(id=id, kind=kind)
        return Job(Mock(redelivered=again), 1, "", incoming, Mock(), Mock())


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualTime]:
    with virtual_time(monkeypatch) as time:
        yield time


@pytest.fixture
def rig(time: VirtualTime) -> Rig:
    return Rig()


def test_it_may_be_over_when_nothing_has_failed_for_a_while(rig: Rig, time: VirtualTime) -> None:
    assert not rig.outage.may_be_over
    rig.outage.failed(LOCKED)
    time.advance(4)
    rig.outage.failed(LOCKED)
    time.advance(4)
    assert not rig.outage.may_be_over
    time.advance(1)
    assert rig.outage.may_be_over
    rig.outage.over()
    assert not rig.outage.may_be_over and rig.outage.reason == ""


def test_calls_wait_for_a_second_and_are_then_told_why_and_messages_wait_on(rig: Rig, time: VirtualTime) -> None:
    call_, message = rig.job("a"), rig.job("b", MESSAGE)
    rig.outage.failed(LOCKED)
    time.advance(0.9)
    assert rig.outage.hold([], [call_, message], rig.held) == []
    assert rig.held == [call_, message]
    rig.held.clear()
    time.advance(0.1)
    rig.outage.failed(LOCKED)
    (declined,) = rig.outage.hold([], [call_, message], rig.held)
    assert declined.pending == [call_] and rig.held == [message]
    fault = call_.protocol.encode_fault.call_args.args[1]
    assert (fault.type, "locked" in fault.text, fault.retry_after_ms) == ("busy", True, 500)
    assert rig.counters == {"busy": 1}


def test_another_attempt_of_what_runs_here_waits_for_it(rig: Rig, time: VirtualTime) -> None:
    rig.running["a"] = rig.job("a")
    rig.outage.failed(LOCKED)
    time.advance(10)
    copy = rig.job("a")
    assert rig.outage.hold([], [copy], rig.held) == [] and rig.held == [copy]


def test_a_call_that_a_lost_worker_may_have_run_waits_until_the_journal_tells(rig: Rig, time: VirtualTime) -> None:
    rig.outage.failed(LOCKED)
    time.advance(10)
    again = rig.job("a", again=True)
    assert rig.outage.hold([], [again], rig.held) == [] and rig.held == [again]


def test_a_call_that_has_run_is_answered_at_once_and_so_are_its_copies(rig: Rig) -> None:
    job, joined, copy = rig.job("a"), rig.job("a"), rig.job("a")
    job.join(joined)
    rig.outage.failed(LOCKED)
    answered = rig.outage.hold([Outcome(job, b"reply")], [copy], rig.held)
    assert [(each.pending, each.reply) for each in answered] == [([each], b"reply") for each in (job, joined, copy)]
    assert job.is_answered and job.joined is None
    assert rig.held == [] and rig.counters == {"joined": 1}


def test_a_message_that_has_run_is_not_acked_before_its_end_is_noted(rig: Rig) -> None:
    rig.outage.failed(LOCKED)
    assert rig.outage.hold([Outcome(rig.job("a", MESSAGE))], [], rig.held) == []


def test_a_reply_that_cannot_be_made_is_reported(rig: Rig, time: VirtualTime) -> None:
    job = rig.job("a")
    job.protocol.encode_fault.side_effect = OverflowError
    rig.outage.failed(LOCKED)
    time.advance(10)
    assert rig.outage.hold([], [job], rig.held) == []
    assert rig.failures.count == 1
