"""AsyncExecution: one job through an ``async def`` function, in a task of its own."""

from __future__ import annotations

import asyncio
import inspect
import time

from servicebus.errors import EnvelopeError
from servicebus.runtime.execution import refuse_lazy
from servicebus.runtime.job import DONE, Job, JobResult, Outcome
from servicebus.runtime.keyed_lock_queue import Task
from servicebus.runtime.stream_execution import StreamRuns
from servicebus.runtime.text_execution import TextExecution
from servicebus.runtime.text_request import TextRequest
from servicebus.services import Authorize, _serving
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
        if task.outcome is not None and self._authorize is None:  # else who may not ask is told that first
            return task.outcome
        if task.is_given_back and not task.is_over(time.monotonic()):
            return self._given_back(task.job, "it waited for its lock")
        return self.refused(task.job)

    async def run_bound(self, job: Job, why: list[str], over: Outcome | None = None) -> Outcome:
        """Run *job*, unless it is *over* by its params; *why* says who has cancelled the task, if it was us. Never
        raises."""
        if self._authorize is not None and (refused := await self._refused_by_task(self._authorize, job, why)):
            return refused
        return await self._run_read(job, why) if over is None else over

    async def _run_read(self, job: Job, why: list[str]) -> Outcome:
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
        except BaseException as error:
            return self._raised_in_task(job, error, why)

    async def _refused_by_task(self, authorize: Authorize, job: Job, why: list[str]) -> Outcome | None:
        """As ``_refused_by()``; *authorize* may be ``async def``."""
        request = self._asking(job)
        try:
            answer = authorize(request, request.context)
            if inspect.isawaitable(answer):
                answer = await answer
            refuse_lazy(answer)
            return None if answer is True else self._denied(job, "")
        except EnvelopeError as error:  # it has read the params
            return self._unreadable(job, error)
        except BaseException as error:
            return self._raised_in_task(job, error, why)

    def _raised_in_task(self, job: Job, error: BaseException, why: list[str]) -> Outcome:
        if not isinstance(error, asyncio.CancelledError) or not why:
            return self._raised(job, error)
        # No reply: its caller waits no more, or is about to raise CallTimeout, and is not to get this instead.
        return Outcome(job, None, Fault(_CANCELLED, f"{why[0]} while it ran, which cancelled it"), JobResult.FAILED)


class AsyncStreamExecution(StreamRuns, AsyncExecution):
    """The same of an asynchronous generator, whose items are a stream."""

    def refused(self, job: Job) -> Outcome | None:
        return super().refused(job) or self.not_begun(job)

    async def _run_read(self, job: Job, why: list[str]) -> Outcome:
        self.opened(job)
        outcome = await super()._run_read(job, why)
        return self.ended(self.done(job) if outcome.result is DONE else outcome)
