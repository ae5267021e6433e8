"""Keeper: the thread that waits for the disk, so that the I/O thread does not.

What it is asked for while it waits is done in one transaction afterwards: a hundred messages that are stored at the
same time wait for the disk once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from servicebus.client.outbox_file import OutboxFile
from servicebus.errors import OutboxUnavailable
from servicebus.transport.loggers import get_logger

LOG = get_logger(__name__)

_MOST_AT_ONCE = 256

Answer = Callable[[Any, "OutboxUnavailable | None"], None]


class _Job(NamedTuple):
    do: Callable[[OutboxFile], Any]
    on_done: Answer


class Keeper:
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
        self._file = file
        self._post = post
        self._on_expired = on_expired
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._on_closed: Callable[[], None] | None = None
        self._thread = threading.Thread(target=self._run, name="servicebus-outbox", daemon=True)
        self._thread.start()

    def ask(self, do: Callable[[OutboxFile], Any], on_done: Answer) -> None:
        """Have *do* done, after all before it; ``on_done(result, None)`` follows, or ``on_done(None, error)``."""
        self._jobs.put(_Job(do, on_done))

    def close(self, on_closed: Callable[[], None]) -> None:
        """Let go of the file, after everything that was asked for."""
        self._on_closed = on_closed
        self._jobs.put(None)

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
            LOG.error("%s", error)
            self._answer([(job.on_done, None, error) for job in jobs], {})
            return
        self._answer(
            [(job.on_done, result, None) for job, result in zip(jobs, results, strict=True)], self._file.take_expired()
        )

    def _answer(self, answers: list[tuple[Answer, Any, OutboxUnavailable | None]], expired: dict[str, int]) -> None:
        def tell() -> None:
            if expired:
                self._on_expired(expired)
            for on_done, result, error in answers:
                on_done(result, error)

        self._post(tell)
