"""Child: one forked worker as the master sees it: pid, pipes, last heartbeat, and when to start the next one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from servicebus.configuration import BrokerHost, Configuration
from servicebus.observability.reports import Reports
from servicebus.runtime.signals import EXIT_ASKED, EXIT_BOOT, EXIT_FAILED

SILENT_AFTER_S = 10.0
"""A worker whose I/O thread has not turned for so long is asked for its stacks (ABRT), then killed."""
START_LIMIT_S = 60.0
"""For a worker that has sent no heartbeat yet. It opens the journal, after the workers that do so before it: on a busy
machine that took over ten seconds, and workers that were aborted for it only began to wait again."""
_REPLACED_AFTER_S = 5.0
"""The master replaces a silent worker; if one is silent for so much longer, that does not work."""
_STALE_AFTER_S = 3.0
"""Three heartbeats missed: it is not called healthy any more, and not yet called dead."""
_LIVED_WELL_S = 10.0
_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 30.0


class Child:
    """One place of the master: the worker for one host, and the ones that will follow it. Not for several threads."""

    def __init__(self, host: BrokerHost, number: int):
        self.host = host
        self.number = number
        self.pid: int | None = None
        self.started_at = 0.0
        self.heartbeat_at = 0.0
        self.has_sent_heartbeat = False
        """Since it was started."""
        self.restarts = 0
        self.is_retired = False
        """Could not boot, and will not be started again."""
        self.aborted_at: float | None = None
        self.state: dict[str, Any] = {}
        self.reports = Reports()
        """What it has counted, and those before it."""
        self.relayed: list[dict[str, Any]] = []
        """What it has said for LogRelay, not taken yet."""
        self._lost_s = 0.0
        """Until the last heartbeat."""
        self._announced: int | None = None
        """The exit code that the worker itself said it would have."""
        self._heartbeat_fd: int | None = None
        self._parent_death_fd: int | None = None
        self._unread = b""
        self._pause_s = 0.0
        self._spawn_at = 0.0

    def __repr__(self) -> str:
        return f"<Child {self.host.name}#{self.number} pid={self.pid} restarts={self.restarts}>"

    @property
    def label(self) -> str:
        return f"worker {self.host.name}#{self.number}"

    @property
    def is_alive(self) -> bool:
        return self.pid is not None

    def is_due(self, now: float) -> bool:
        return self.pid is None and not self.is_retired and now >= self._spawn_at

    def due_in(self, now: float) -> float:
        return max(0.0, self._spawn_at - now)

    def started(self, pid: int, heartbeat_fd: int, parent_death_fd: int, now: float) -> None:
        self.pid = pid
        if self.heartbeat_at:
            self._lost_s += now - self.heartbeat_at
        self._heartbeat_fd, self._parent_death_fd = heartbeat_fd, parent_death_fd
        for fd in (heartbeat_fd, parent_death_fd):
            os.set_blocking(fd, False)
        self.started_at = self.heartbeat_at = now
        self.aborted_at = self._announced = None
        self.has_sent_heartbeat = False
        self.state = {"host": self.host.name, "state": "starting"}

    def exit_code(self, status: int) -> int:
        """Of a worker that has ended with *status*. Codes that mean something are its own only if it announced them.

        Otherwise a service has called ``os._exit()``: that is a crash, whatever the code.
        """
        if self.has_heartbeat_fd:
            self.read_heartbeats(self.heartbeat_at)
        code = os.waitstatus_to_exitcode(status)
        return EXIT_FAILED if code in (EXIT_ASKED, EXIT_BOOT) and code != self._announced else code

    def ended(self, now: float, *, as_asked: bool = False) -> float:
        """The worker is gone; returns the seconds until the next one may start. A quick death doubles them."""
        lived_s = now - self.started_at
        self.pid = None
        self.close_fds()
        self.reports.ended()
        self.restarts += 1
        if lived_s >= _LIVED_WELL_S or as_asked:
            self._pause_s = 0.0
        self._spawn_at = now + self._pause_s
        waited_s = self._pause_s
        if not as_asked:
            self._lengthen_pause()
        self.state = {"host": self.host.name, "state": "dead"}
        return waited_s

    def postpone(self, now: float) -> float:
        """It could not be forked; gives the seconds until it may be tried again."""
        self._lengthen_pause()
        self._spawn_at = now + self._pause_s
        return self._pause_s

    def _lengthen_pause(self) -> None:
        self._pause_s = min(max(2 * self._pause_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)

    def fileno(self) -> int:
        assert self._heartbeat_fd is not None
        return self._heartbeat_fd

    def read_heartbeats(self, now: float) -> None:
        """Take what the worker wrote; each line is a heartbeat with its state."""
        try:
            data = os.read(self.fileno(), 65536)
        except BlockingIOError:
            return
        if not data:
            self._close_heartbeat()
            return
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            self._lost_s = self.lost_s(now)
            self.heartbeat_at, self.has_sent_heartbeat = now, True
            try:
                told = json.loads(line)
            except (ValueError, RecursionError):
                continue  # a worker that was killed in the middle of a line
            if not isinstance(told, dict):
                continue  # a service has written to a number that it took for a file of its own
            if "report" in told:
                self.reports.take(told["report"])
                continue
            if "tails" in told or "log" in told:
                self.relayed.append(told)
                continue
            self._announced = told.get("exit_code")
            if self._announced is None and isinstance(told.get("state"), str):
                self.state = told

    def tell(self, told: dict[str, Any]) -> None:
        """Write a line to the worker, unless its pipe is full."""
        if self._parent_death_fd is not None:
            with suppress(OSError):  # it is slow to read, or gone
                os.write(self._parent_death_fd, json.dumps(told).encode() + b"\n")

    def lost_s(self, now: float) -> float:
        """For how many seconds its broker was not served from here, in all."""
        if not self.heartbeat_at:
            return 0.0
        age_s = now - self.heartbeat_at
        return self._lost_s + (0.0 if self.state.get("healthy") and age_s < _STALE_AFTER_S else age_s)

    @property
    def has_heartbeat_fd(self) -> bool:
        return self._heartbeat_fd is not None

    def is_silent(self, now: float, longer_s: float = 0.0) -> bool:
        """Whether the I/O thread of the worker has stood still for too long, and for *longer_s* more."""
        limit_s = SILENT_AFTER_S if self.has_sent_heartbeat else START_LIMIT_S
        return self.pid is not None and now - self.heartbeat_at >= limit_s + longer_s

    def kill(self, signum: int) -> None:
        if self.pid is not None:
            with suppress(ProcessLookupError):  # ended by itself; the next reap finds out
                os.kill(self.pid, signum)

    def close_fds(self) -> None:
        self._close_heartbeat()
        if self._parent_death_fd is not None:
            os.close(self._parent_death_fd)
            self._parent_death_fd = None

    def _close_heartbeat(self) -> None:
        if self._heartbeat_fd is not None:
            os.close(self._heartbeat_fd)
            self._heartbeat_fd = None
        self._unread = b""

    def snapshot(self, now: float) -> dict[str, Any]:
        age_s = now - self.heartbeat_at
        # What a worker said before it froze is no news of its health.
        is_healthy = bool(self.state.get("healthy")) and age_s < _STALE_AFTER_S
        proved_for_s = self.state.get("proved_for_s", 0.0) if self.state.get("state") == "consuming" else 0.0
        return {
            **self.state,
            "host": self.host.name,  # also of one that HUP has added, which has told nothing yet
            "healthy": is_healthy,
            "ready": is_healthy and age_s < proved_for_s,
            "silent": self.is_silent(now, _REPLACED_AFTER_S),
            "pid": self.pid,
            "restarts": self.restarts,
            "lost_s": round(self.lost_s(now), 1),
            "heartbeat_age_s": round(age_s, 2) if self.pid is not None else None,
            "beat_age_s": round(age_s, 2) if self.pid is not None else None,
            "uptime_s": round(now - self.started_at, 1) if self.pid is not None else None,
            "next_start_in_s": round(self.due_in(now), 1) if self.pid is None and not self.is_retired else None,
        }


def slots(config: Configuration) -> Iterator[tuple[BrokerHost, int]]:
    """The host and the number of every worker that *config* asks for."""
    for host in config.hosts:
        for number in range(1, config.workers_per_host + 1):
            yield host, number


def announce_end(heartbeat_fd: int, code: int) -> None:
    """In the worker: tell the master that it is the worker that ends, with *code*, and no service that calls exit."""
    with suppress(OSError):  # there is no master any more, or it does not read
        os.write(heartbeat_fd, json.dumps({"exit_code": code}).encode() + b"\n")
