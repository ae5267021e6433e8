"""AsyncExecution: one job through an ``async def`` function, in a task of its own."""

from __future__ import annotations

import asyncio
import time

from servicebus.runtime.job import DONE, Job, JobResult, Outcome
from servicebus.runtime.keyed_lock_queue import Task
from servicebus.runtime.stream_execution import StreamRuns
from servicebus.runtime.text_execution import TextExecution, TextRequest
from servicebus.services import _serving
from servicebus.wire.fault import Fault

__all__ = ["AsyncExecution", "AsyncStreamExecution"]

_CANCELLED = "CancelledError"


class AsyncExecution(TextExecution):
    """As a TextExecution, in the task of each job."""

    def refused(self, job: Job) -> Outcome | None:
        """The end of a job that is not to begin any more."""
        if job.is_cancelled or (job.deadline is not None and time.monotonic() > job.deadline):
            return self._given_up(job)
        return self._given_back(job, "its turn did not come in time") if self.begins_no_more else None

    def refused_task(self, task: Task) -> Outcome | None:
        """The same of one that has come out of the line of its lock."""
        if task.outcome is not None:
            return task.outcome
        if task.is_given_back and not task.is_over(time.monotonic()):
            return self._given_back(task.job, "it waited for its lock")
        return self.refused(task.job)

    async def run_bound(self, job: Job, why: list[str]) -> Outcome:
        """Run *job*; *why* says who has cancelled the task, if it was us. Never raises."""
        try:
            bound = self._read(job.incoming.raw_params)
        except BaseException as error:
            return self._unreadable(job, error)
        request = TextRequest(job, self._make_sender)
        _serving.set(request)
        try:
            job.started()
            outcome = self._outcome(job, await self._call(bound, request))
            request._is_over = True
            if request._published:
                for stored in self._make_sender().commit(request._published):
                    await asyncio.wrap_future(stored)
            return outcome
        except asyncio.CancelledError as error:
            if not why:
                return self._raised(job, error)
            # No reply: its caller waits no more, or is about to raise CallTimeout, and is not to get this instead.
            return Outcome(job, None, Fault(_CANCELLED, f"{why[0]} while it ran, which cancelled it"), JobResult.FAILED)
        except BaseException as error:
            return self._raised(job, error)


class AsyncStreamExecution(StreamRuns, AsyncExecution):
    """The same of an asynchronous generator, whose items are a stream."""

    def refused(self, job: Job) -> Outcome | None:
        return super().refused(job) or self.not_begun(job)

    async def run_bound(self, job: Job, why: list[str]) -> Outcome:
        """Run *job*. Never raises."""
        self.opened(job)
        outcome = await super().run_bound(job, why)
        return self.ended(self.done(job) if outcome.result is DONE else outcome)
