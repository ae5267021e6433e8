"""PlainClient: has what is published in the form of other programs taken by one broker after the other, in time.

A host that is not reached is tried again until the deadline. One that refuses (no such exchange, no queue is bound, a
nack) is asked once: if each has refused, that is the end.
"""

from __future__ import annotations

import time

from servicebus._plain import PlainMessage
from servicebus.client.plain_link import PlainJob, PlainLink
from servicebus.configuration import Configuration
from servicebus.errors import (
    CallInterrupted,
    CallTimeout,
    NoBrokerAvailable,
    RemoteError,
    SendRefused,
    SendUnconfirmed,
)
from servicebus.transport.interface import Connect
from servicebus.transport.loop import EventLoop
from servicebus.wire.printable import printable

__all__ = ["PlainClient"]

_LOOK_S = 0.1
_NEXT_ROUND_S = 0.3
_SHOWN = 2000


class PlainClient:
    """Belongs to the loop's thread, but for ``submit()``, ``unfinished`` and ``close()``."""

    def __init__(self, loop: EventLoop, config: Configuration, connect: Connect):
        self._loop = loop
        self._links = {
            host.name: PlainLink(loop, host, config, self, connect) for host in (*config.hosts, *config.connections)
        }
        self._jobs: dict[PlainJob, PlainLink | None] = {}
        self._is_looking = self._is_closed = False
        self._submitted = 0

    def __repr__(self) -> str:
        return f"<PlainClient {len(self._jobs)} jobs {list(self._links.values())}>"

    @property
    def unfinished(self) -> int:
        return self._submitted + len(self._jobs)

    def submit(self, job: PlainJob) -> None:
        """Begin *job*; for any thread. Its future ends it."""
        self._submitted += 1
        self._loop.post(lambda: self._take(job))

    def close(self) -> None:
        """Fail what is unfinished and close the connections; for any thread."""
        self._loop.post(self._close)

    def retire(self) -> None:
        """Nothing more is submitted: close when all has ended. For any thread; takes no lock."""
        self._loop.post(self._retire)

    def _retire(self) -> None:
        if self.unfinished:
            self._loop.call_later(1.0, self._retire)
        else:
            self._close()

    def _take(self, job: PlainJob) -> None:
        self._submitted -= 1
        self._jobs[job] = None
        if self._is_closed:
            self._fail(job, NoBrokerAvailable(job.target, [("this Sender", "was closed")]))
            return
        self._begin_round(job)
        if not self._is_looking:
            self._is_looking = True
            self._loop.call_later(_LOOK_S, self._look)

    def _begin_round(self, job: PlainJob) -> None:
        # The order is the configuration's, but a broker that must be dialled first has to wait for those that are up.
        job.left = sorted(job.hosts, key=lambda name: not self._links[name].is_up)
        job.is_refused = False
        self._try_next(job)

    def _try_next(self, job: PlainJob) -> None:
        if job.future.done():  # cancelled, or overdue
            self._jobs.pop(job, None)
        elif job.left:
            link = self._jobs[job] = self._links[job.left.pop(0)]
            link.take(job)
        elif job.is_refused:
            self._fail(job, _unsure(job) or SendRefused(job.target, job.tried))
        else:
            self._jobs[job] = None
            self._loop.call_later(_NEXT_ROUND_S, lambda: self._begin_round(job) if job in self._jobs else None)

    def _look(self) -> None:
        """End what is overdue."""
        now = time.monotonic()
        for job in [job for job in self._jobs if now >= job.deadline or job.future.done()]:
            link = self._jobs[job]
            if link is not None:
                link.drop(job)
            self._fail(job, _overdue(job, now))
        for link in self._links.values():
            link.look(now)
        self._is_looking = bool(self._jobs)
        if self._is_looking:
            self._loop.call_later(_LOOK_S, self._look)

    def _fail(self, job: PlainJob, error: Exception) -> None:
        self._jobs.pop(job, None)
        if not job.future.done():
            job.future.set_exception(error)

    def _close(self) -> None:
        self._is_closed = True
        for job in list(self._jobs):
            self._fail(job, _closed(job))
        for link in self._links.values():
            link.close()

    # -- what the links report -----------------------------------------------------------------------------------------

    def confirmed(self, job: PlainJob, host: str) -> None:
        if self._jobs.pop(job, self) is not self and not job.future.done():
            job.future.set_result(host)

    def answered(self, job: PlainJob, message: PlainMessage) -> None:
        if self._jobs.pop(job, self) is self or job.future.done():
            return
        if message.properties.type == "error":
            job.future.set_exception(_remote_error(job, message))
        else:
            job.future.set_result(message)

    def refused(self, job: PlainJob, host: str, why: str) -> None:
        if job in self._jobs:
            job.is_refused = True
            _tried(job, host, why)
            self._try_next(job)

    def lost(self, job: PlainJob, host: str, why: str) -> None:
        if job not in self._jobs:
            return
        if self._is_closed:
            self._fail(job, _closed(job))
        elif job.is_request and job.was_published and not job.resend:
            self._fail(job, CallInterrupted(job.target, f"{host} {why}"))
        else:
            job.is_unsure = job.is_unsure or job.was_published
            _tried(job, host, why)
            self._try_next(job)


def _unsure(job: PlainJob) -> Exception | None:
    """The error if a broker may have it that has not said so."""
    if not (job.was_published or job.is_unsure):
        return None
    if job.is_request:
        return CallInterrupted(job.target, ", ".join(f"{host} {why}" for host, why in job.tried))
    return SendUnconfirmed(job.target, job.tried)


_NOT_DONE = "no broker has it"


def _tried(job: PlainJob, host: str, why: str) -> None:
    if (host, why) not in job.tried:
        job.tried = [*job.tried[-9:], (host, printable(why))]


def _overdue(job: PlainJob, now: float) -> Exception:
    if job.is_request:
        return CallTimeout(job.target, now - job.started_at, job.tried)
    return _unsure(job) or NoBrokerAvailable(job.target, job.tried, _NOT_DONE)


def _closed(job: PlainJob) -> Exception:
    job.tried = [*job.tried, ("this Sender", "was closed")]
    return _unsure(job) or NoBrokerAvailable(job.target, job.tried, _NOT_DONE)


def _remote_error(job: PlainJob, message: PlainMessage) -> RemoteError:
    """What a service of ours says that was called in the form of other programs; or one that does as ours do."""
    try:
        error = message.json()["error"]
        return RemoteError(job.target, printable(str(error["type"])), str(error["message"])[:_SHOWN])
    except (ValueError, KeyError, TypeError):
        return RemoteError(job.target, "error", message.body[:_SHOWN].decode(errors="replace"))
