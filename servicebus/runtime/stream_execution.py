"""Executions of generators: as of other services, but that what they yield goes into the output of a stream."""

from __future__ import annotations

from typing import Any

from servicebus.runtime.execution import Execution
from servicebus.runtime.job import Job, JobResult, Outcome
from servicebus.runtime.keyed_lock_queue import Task
from servicebus.runtime.registration import Service
from servicebus.runtime.streams import NodeStreams, StreamOver
from servicebus.runtime.text_execution import TextExecution
from servicebus.services import Retry
from servicebus.transport.loggers import get_logger
from servicebus.wire.fault import INTERRUPTED, NOT_RESUMABLE, REFUSED, Fault
from servicebus.wire.streams import write_end

LOG = get_logger(__name__)

__all__ = ["ClassStreamExecution", "StreamRuns", "TextStreamExecution"]


class StreamRuns(Execution):
    """What all of them have in common; before another Execution in the bases of a class."""

    streams: NodeStreams
    _service: Service

    def run(self, job: Job) -> Outcome:
        return self.not_begun(job) or self.ended(super().run(job))

    def run_task(self, task: Task) -> Outcome:
        return self.not_begun(task.job) or self.ended(super().run_task(task))

    def interrupted(self, job: Job) -> Outcome:
        return self.ended(super().interrupted(job))

    def ended(self, outcome: Outcome) -> Outcome:
        """*outcome*, whose reply is sent behind the items."""
        if outcome.job.output is not None:
            outcome.job.output.end(outcome.reply)
        return outcome

    def opened(self, job: Job) -> None:
        """*job* begins: its items have somewhere to go."""
        if job.incoming.stream is not None and job.incoming.stream.is_open:
            job.deadline = None
        job.output = self.streams.open(job, self._service.resumable)

    def done(self, job: Job) -> Outcome:
        """The end of a generator that has yielded all."""
        output = job.output
        return Outcome(job, job.protocol.encode_text(job.incoming, write_end(output.first + output.count)))

    def _execute(self, job: Job, params: Any) -> Outcome:
        self.opened(job)
        super()._execute(job, params)
        return self.done(job)

    def not_begun(self, job: Job) -> Outcome | None:
        """The end of a stream that is to begin elsewhere, or is to go on where its service can only begin."""
        if not job.is_cancelled and (self.streams.is_ending() or job.epoch != self.streams.epoch):
            return self._given_back(job, "its turn had not come")  # or has lost the way by which it came
        terms = job.incoming.stream
        if self._service.resumable or terms is None or terms.position is None:
            return None
        text = f"{NOT_RESUMABLE}: the service begins its stream at the first item alone (resumable)"
        return self._failed(job, Fault(REFUSED, text), JobResult.NOT_RUN)

    def _raised(self, job: Job, error: BaseException) -> Outcome:
        if isinstance(error, StreamOver):
            self.home.end_child(self.name, error)
            return self._failed(job, Fault(INTERRUPTED, str(error)))
        if isinstance(error, Retry) and job.output is not None and job.output.count:
            LOG.info("service %s: asks for another attempt of %s after items", self._service.key, job.incoming.id)
            return self._failed(job, Fault(type(error).__name__, f"after items: {error}"))  # they cannot be taken back
        return super()._raised(job, error)


class TextStreamExecution(StreamRuns, TextExecution):
    """Of a generator function."""


class ClassStreamExecution(StreamRuns):
    """Of a service whose ``handle()`` or ``on_call()`` is a generator."""
