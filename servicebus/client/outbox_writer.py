"""OutboxWriter: the thread that waits for the disk, so that the I/O thread does not.

What it is asked for while it waits is done in one transaction afterwards: a hundred messages that are stored at the
same time wait for the disk once. If the transaction fails, say because the disk is full, those that have another way
take it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from servicebus.client.outbox_file import OutboxFile
from servicebus.errors import OutboxUnavailable
from servicebus.transport.loggers import get_logger

LOG = get_logger(__name__)

_MOST_AT_ONCE = 256
_COMPLAIN_S = 60.0

Answer = Callable[[Any, "OutboxUnavailable | None"], None]


class _Job(NamedTuple):
    do: Callable[[OutboxFile], Any]
    on_done: Answer
    or_else: Callable[[OutboxFile], Any] | None


class OutboxWriter:
    """``ask()`` and ``close()`` are for the engine's thread, and what they are given is called there (by *post*).

    Args:
        on_expired: told how many messages have expired, by node.
    """

    def __init__(
        self,
        file: OutboxFile,
        post: Callable[[Callable[[], None]], None],
        on_expired: Callable[[dict[str, int]], None],
    ):
        self.problem = ""
        """Why the last transaction failed; empty if it did not. For any thread."""
        self._complained_at = -_COMPLAIN_S
        self._file = file
        self._post = post
        self._on_expired = on_expired
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._together: list[_Job] | None = None
        self._on_closed: Callable[[], None] | None = None
        self._begin()

    def ask(
        self, do: Callable[[OutboxFile], Any], on_done: Answer, or_else: Callable[[OutboxFile], Any] | None = None
    ) -> None:
        """Have *do* done, after all before it; ``on_done(result, None)`` follows, or ``on_done(None, error)``.

        Args:
            or_else: done instead, outside of a transaction, where none succeeds.
        """
        job = _Job(do, on_done, or_else)
        if self._together is None:
            self._jobs.put(job)
        else:
            self._together.append(job)

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is asked for meanwhile is done entirely or not at all."""
        jobs = self._together = []
        try:
            yield
        finally:
            self._together = None

        def do(file: OutboxFile) -> list[Any]:
            fits = file.count + len(jobs) <= file.max_messages
            return [job.do(file) if fits else False for job in jobs]

        def done(results: list[Any] | None, error: OutboxUnavailable | None) -> None:
            for job, result in zip(jobs, results or [None] * len(jobs), strict=True):
                job.on_done(result, error)

        self._jobs.put(_Job(do, done, None))

    def close(self, on_closed: Callable[[], None]) -> None:
        """Let go of the file, after everything that was asked for."""
        self._on_closed = on_closed
        self._jobs.put(None)

    def _begin(self) -> None:
        threading.Thread(target=self._run, name="servicebus-outbox", daemon=True).start()

    def _run(self) -> None:
        is_open = True
        while is_open:
            jobs = self._take()
            if jobs[-1] is None:
                is_open = False
            self._do([job for job in jobs if job is not None])
            self._file.tidy()
        self._file.close()
        assert self._on_closed is not None
        self._post(self._on_closed)

    def _take(self) -> list[_Job | None]:
        jobs = [self._jobs.get()]
        with suppress(Empty):
            while jobs[-1] is not None and len(jobs) < _MOST_AT_ONCE:
                jobs.append(self._jobs.get_nowait())
        return jobs

    def _do(self, jobs: list[_Job]) -> None:
        if not jobs:
            return
        try:
            with self._file.transaction():
                results = [job.do(self._file) for job in jobs]
        except OutboxUnavailable as error:
            self._failed(error)
            self._answer([self._do_else(job, error) for job in jobs], {})
            return
        self.problem = ""
        self._answer(
            [(job.on_done, result, None) for job, result in zip(jobs, results, strict=True)], self._file.take_expired()
        )

    def _do_else(self, job: _Job, error: OutboxUnavailable) -> tuple[Answer, Any, OutboxUnavailable | None]:
        if job.or_else is None:
            return job.on_done, None, error
        try:
            return job.on_done, job.or_else(self._file), None
        except OutboxUnavailable as other:
            return job.on_done, None, other

    def _failed(self, error: OutboxUnavailable) -> None:
        self.problem = str(error)
        now = time.monotonic()
        if now - self._complained_at >= _COMPLAIN_S:
            self._complained_at = now
            LOG.error("%s", error)

    def _answer(self, answers: list[tuple[Answer, Any, OutboxUnavailable | None]], expired: dict[str, int]) -> None:
        def tell() -> None:
            if expired:
                self._on_expired(expired)
            for on_done, result, error in answers:
                on_done(result, error)

        self._post(tell)
