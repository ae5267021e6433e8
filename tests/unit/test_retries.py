"""Retries: what becomes of a message that was not done, by the schedule of its service."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest

from servicebus.runtime.job import Job, JobResult, Outcome
from servicebus.runtime.journal import Release
from servicebus.runtime.retries import Retries
from servicebus.wire.fault import REFUSED, Fault

SCHEDULE = (1.0, 30.0)


def outcome(result: JobResult, attempts: int, **how: Any) -> Outcome:
    incoming: Any = Mock(id="a")
    job = Job(Mock(), 1, "", incoming, Mock(), Mock(), attempts=attempts)
    return Outcome(job, None, result=result, **how)


@pytest.mark.parametrize(("attempts", "delay_s"), [(1, 1.0), (2, 30.0)])
def test_what_failed_comes_again_by_the_schedule(attempts: int, delay_s: float) -> None:
    found = Retries(()).disposition(outcome(JobResult.FAILED, attempts), SCHEDULE)
    assert found.copy is not None and found.release is Release.FAILED
    assert (found.copy.reason, found.copy.delay_s, found.copy.attempts) == ("", delay_s, attempts)


def test_behind_the_end_of_the_schedule_it_is_a_dead_letter() -> None:
    fault = Fault("ValueError", "it is odd")
    found = Retries(SCHEDULE).disposition(outcome(JobResult.FAILED, 3, fault=fault), None)
    assert found.copy is not None
    assert (found.copy.reason, found.copy.detail, found.copy.attempts) == ("ValueError", "it is odd", 3)


def test_a_service_may_ask_for_another_pause_but_for_no_more_attempts() -> None:
    retries = Retries(SCHEDULE)
    assert retries.delay_s(outcome(JobResult.RETRY, 2, retry_after_s=7.0), None) == 7.0
    assert retries.delay_s(outcome(JobResult.RETRY, 3, retry_after_s=7.0), None) is None


def test_what_is_requeued_does_not_count_as_an_attempt() -> None:
    found = Retries(()).disposition(outcome(JobResult.REQUEUE, 5), ())
    assert found.copy is not None and found.release is Release.NOT_RUN
    assert (found.copy.delay_s, found.copy.attempts) == (1.0, 4)


def test_what_was_not_run_is_a_dead_letter_with_the_reason_and_without_the_attempt() -> None:
    fault = Fault(REFUSED, "params: not a list")
    found = Retries(SCHEDULE).disposition(outcome(JobResult.NOT_RUN, 1, fault=fault), None)
    assert found.copy is not None
    assert (found.copy.reason, found.copy.detail, found.copy.attempts) == ("params", "not a list", 0)


@pytest.mark.parametrize(("failed", "is_over"), [(0, False), (2, False), (3, True)])
def test_after_as_many_failures_as_pauses_there_is_one_attempt_more(failed: int, is_over: bool) -> None:
    assert Retries(()).is_over(failed, SCHEDULE) is is_over
    assert Retries(SCHEDULE).is_over(failed, None) is is_over
