"""InterruptedBatch: what belongs where after a decision that was interrupted."""

from __future__ import annotations

from collections import deque
from typing import Any
from unittest.mock import Mock

import pytest

from servicebus.errors import JournalUnavailable
from servicebus.runtime.interrupted_batch import InterruptedBatch
from servicebus.runtime.job import DONE, Disposition, Job, JobResult, Outcome
from servicebus.runtime.journal import Release
from servicebus.wire.envelope import CALL, MESSAGE, Kind


class Rig:
    def __init__(self) -> None:
        self.running: dict[str, Job] = {}
        self.copies, self.notes, self.retries = Mock(), Mock(), Mock()
        self.copies.has.return_value = False
        self.copies.kept.return_value = None
        self.batch = InterruptedBatch(self.running, self.copies, self.notes, self.retries)
        self.decided: deque[Disposition] = deque()
        self.outcomes: list[Outcome] = []
        self.jobs: list[Job] = []

    def job(self, id: str, kind: Kind = CALL, *, is_running: bool = False) -> Any:
        incoming: Any = Mock(id=id, kind=kind)
        job = Job(Mock(), 1, "", incoming, Mock(), Mock())
        if is_running:
            self.running[id] = job
        return job

    def sort(self, outcomes: list[Outcome], jobs: list[Job]) -> None:
        self.batch.sort((outcomes, jobs), self.decided, self.outcomes, self.jobs)


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_an_outcome_is_decided_once(rig: Rig) -> None:
    ended, left = Outcome(rig.job("a"), b"reply"), Outcome(rig.job("b", is_running=True), b"reply")
    in_hand = [ended, left]
    rig.sort(in_hand, [])
    assert in_hand == [] and rig.outcomes == [left]
    (disposition,) = rig.decided
    assert (disposition.pending, disposition.reply, disposition.job) == ([ended.job], b"reply", ended.job)


def test_what_is_in_hand_stays_there_until_it_is_somewhere_else(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be interrupted, too, and is called again."""
    in_hand = [Outcome(rig.job("a"), b"reply")]
    with monkeypatch.context() as patch:
        patch.setattr(rig.batch, "end_of", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            rig.sort(in_hand, [])
    assert len(in_hand) == 1
    rig.sort(in_hand, [])
    assert len(rig.decided) == 1


def test_what_is_decided_again_keeps_its_order_before_what_has_come_since(rig: Rig) -> None:
    *came, later = [rig.job(id) for id in ("a", "b", "c", "d")]
    *ended, since = [Outcome(rig.job(id, is_running=True), b"reply") for id in ("e", "f", "g")]
    rig.jobs, rig.outcomes = [later], [since]
    rig.sort([*ended], [*came])
    assert rig.jobs == [*came, later]
    assert rig.outcomes == [*ended, since]


@pytest.mark.parametrize(
    ("kind", "result", "is_kept"),
    [(CALL, JobResult.NOT_RUN, False), (MESSAGE, DONE, False), (MESSAGE, JobResult.FAILED, True)],
)
def test_only_a_message_that_was_not_done_is_stored(rig: Rig, kind: Kind, result: JobResult, is_kept: bool) -> None:
    job = rig.job("a", kind)
    end = rig.batch.end_of(Outcome(job, b"reply", result=result))
    assert rig.copies.keep.called is is_kept
    if is_kept:
        assert end is rig.copies.keep.return_value
        schedule = job.service.service.retry_schedule
        rig.retries.disposition.assert_called_once()
        assert rig.retries.disposition.call_args.args[1] is schedule
    else:
        assert end is not None and end.reply == b"reply"


def test_a_copy_that_is_being_stored_is_not_made_again(rig: Rig) -> None:
    rig.copies.kept.return_value = kept = Disposition([])
    assert rig.batch.end_of(Outcome(rig.job("a", MESSAGE), None, result=JobResult.FAILED)) is kept
    assert not rig.copies.keep.called


def test_what_waits_in_its_inbox_has_begun(rig: Rig) -> None:
    job = rig.job("a", is_running=True)
    job.service.put_again.return_value = True
    assert rig.batch.has_begun(job)
    assert rig.running == {"a": job} and not rig.notes.add.called


def test_what_its_inbox_does_not_take_again_is_decided_again(rig: Rig) -> None:
    job = rig.job("a", is_running=True)
    job.service.put_again.return_value = False
    rig.sort([], [job])
    assert rig.jobs == [job] and rig.running == {}
    rig.notes.add.assert_called_once_with("a", Release.NOT_RUN)


def test_an_id_whose_copy_is_being_stored_does_not_come_free(rig: Rig) -> None:
    rig.copies.has.return_value = True
    assert not rig.batch.has_begun(rig.job("a"))
    assert not rig.notes.add.called


@pytest.mark.parametrize("has_joined", [False, True])
def test_another_delivery_has_begun_if_it_has_joined_the_one_that_runs(rig: Rig, has_joined: bool) -> None:
    running, other = rig.job("a", is_running=True), rig.job("a")
    if has_joined:
        running.join(other)
    assert rig.batch.has_begun(other) is has_joined


def test_while_the_journal_cannot_be_told_it_is_decided_again(rig: Rig) -> None:
    rig.notes.tell.side_effect = JournalUnavailable("here", "locked")
    job = rig.job("a")
    rig.sort([], [job])
    assert rig.jobs == [job]
