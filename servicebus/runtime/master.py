"""Master: forks one worker per host, keeps them alive, and stops them together.

It has one thread and no broker connection, so that forking again at any time is safe. Everything it does happens in
one loop, between two waits for signals, heartbeats and questions on the status socket and by HTTP.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from typing import Any

from servicebus.configuration import BrokerHost, Configuration
from servicebus.errors import ConfigurationError
from servicebus.observability.health import document_of
from servicebus.observability.reports import Reports
from servicebus.runtime.child import SILENT_AFTER_S, Child, announce_end
from servicebus.runtime.inherited import Orphans, pids_of_multiprocessing, readable
from servicebus.runtime.leaving import end_process
from servicebus.runtime.listeners import Listeners
from servicebus.runtime.log_relay import LogRelay
from servicebus.runtime.reloading import Reloading
from servicebus.runtime.signals import EXIT_ASKED, EXIT_BOOT, EXIT_FAILED, SignalPipe, masked
from servicebus.transport.loggers import get_logger
from servicebus.wire.printable import counted

LOG = get_logger(__name__)

_WAIT_S = 1.0
_DYING_S = 0.02
_ABORT_WAIT_S = 2.0
_STOP_MARGIN_S = 3.0
_STOP_STEP_S = 0.05
_REPEAT_S = 1.0
"""The same signal again within so long means the same: ``timeout`` sends it to its child and then to the group, systemd
to all processes of a unit."""
_NO_FORK = "could not be started (look at the limits of processes, open files and memory)"
_UNKNOWN_STATUS = EXIT_FAILED << 8

RunWorker = Callable[[BrokerHost, int, int], int]
"""``(host, heartbeat_fd, parent_death_fd) -> exit code``, called in the forked child with signals masked; it ends the
masking when it has handlers of its own, so that a TERM that comes early is not the death of it."""


class Master(Reloading):
    """Keeps one worker per host and ``workers_per_host`` alive until told to stop.

    Args:
        run_worker: what a forked child does; it gets the host, the pipe for its heartbeats, and the pipe whose end of
            file says that the master is gone.
        on_tick: called about once a second, and more often while stopping; must be quick and start no thread.
        read_again: returns the configuration after HUP; it may name other hosts.
        take: called with the one that workers are to have from now on. What it raises refuses it.
        parent_pid: stop when this is not our parent any more; for a master that a program started beside itself.
    """

    def __init__(
        self,
        config: Configuration,
        run_worker: RunWorker,
        on_tick: Callable[[], None],
        *,
        read_again: Callable[[], Configuration] | None = None,
        take: Callable[[Configuration], None] | None = None,
        parent_pid: int | None = None,
    ):
        super().__init__(config, Listeners(config, self.snapshot, self.reports), read_again, take)
        self._run_worker = run_worker
        self._on_tick = on_tick
        self._parent_pid = parent_pid
        self._signals: SignalPipe | None = None
        self._stop_signal: int | None = None
        self._is_stopping = False
        self._stopped_by: int | None = None
        self._stopped_at = 0.0
        self._orphans = Orphans()
        self._relay = LogRelay()
        self._looked_at = time.monotonic()
        """When the workers were last looked at for silence."""

    def __repr__(self) -> str:
        return f"<Master of node {self._config.node_name} children={self._children}>"

    def run(self) -> int:
        """Keep one worker per host alive until told to stop; give the exit code."""
        self._signals = SignalPipe()
        self._listeners.open()
        workers = counted(len(self._children), "worker")
        LOG.info("agent of node %s started, pid %d, %s", self._config.node_name, os.getpid(), workers)
        try:
            while self._stop_signal is None:
                self._reap()
                self._retire_silent()
                self._roll()
                self._take_signals()  # one to the whole process group may have ended the workers that are missing
                if not self.is_stopping:
                    self._spawn_missing()
                if all(child.is_retired for child in self._children):
                    LOG.error("no worker could start; giving up")
                    return EXIT_BOOT
                self._wait(0.0 if self.is_stopping else self._next_event_s())
            return self._stop(self._stop_signal)
        finally:
            self._listeners.close()
            self._signals.close()

    @property
    def is_stopping(self) -> bool:
        """It was told to stop: nothing is started again."""
        return self._is_stopping or self._stop_signal is not None

    def snapshot(self) -> dict[str, Any]:
        """The document of the status socket."""
        now = time.monotonic()
        workers = [child.snapshot(now) for child in self._children]
        document = document_of(self._config.node_name, workers, is_stopping=self.is_stopping)
        return {**document, "reload": {**self.report.to_json(), "running": self.is_reloading}}

    def reports(self) -> list[tuple[str, Reports]]:
        """What was counted for each host, by its name."""
        return [(child.host.name, child.reports) for child in self._children]

    # -- waiting -------------------------------------------------------------------------------------------------------

    def _wait(self, timeout_s: float) -> None:
        assert self._signals is not None
        senders = [child for child in self._children + self._leaving if child.has_heartbeat_fd]
        watched: list[Any] = [self._signals, *senders, *self._listeners.watched()]
        by_file = {source.fileno(): source for source in watched}
        ready = readable(by_file, timeout_s)
        now = time.monotonic()
        for file in ready:
            source = by_file[file]
            if isinstance(source, Child):
                source.read_heartbeats(now)
                self._relay.take(source, now)
            elif source is not self._signals:
                self._listeners.serve(source)
        self._take_signals()
        self._on_tick()
        self._relay.tick(self._alive(), now)
        if self._parent_pid is not None and os.getppid() != self._parent_pid:
            self._parent_pid = None  # told once: again it would be the second signal, which kills
            self._stop_signal = self._stop_signal or signal.SIGTERM

    def _take_signals(self) -> None:
        for signum in self._signals.take() if self._signals is not None else ():
            self._handle(signum)

    def _next_event_s(self) -> float:
        if any(not child.has_heartbeat_fd for child in self._alive()):
            return _DYING_S  # its pipe has ended, so it is on its way out; but it can be reaped only when it is gone
        now = time.monotonic()
        pauses = [child.due_in(now) for child in self._children if child.pid is None and not child.is_retired]
        return min([_WAIT_S, *(max(0.01, pause) for pause in pauses)])

    def _handle(self, signum: int) -> None:
        if signum in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            now = time.monotonic()
            is_repeat = signum == self._stopped_by and now - self._stopped_at < _REPEAT_S
            if not is_repeat:
                self._stop_signal = self._stopped_by = signum
                self._stopped_at = now
        elif signum == signal.SIGHUP and self._stopped_by is None:
            self._reload()

    # -- children ------------------------------------------------------------------------------------------------------

    def _spawn_missing(self) -> None:
        now = time.monotonic()
        for child in self._children:
            if not child.is_due(now):
                continue
            try:
                self._spawn(child, now)
            except OSError as error:  # of the master: what a service's process raises ends there
                LOG.error("%s: %s: %s; next try in %.2f s", child.label, _NO_FORK, error, child.postpone(now))

    def _spawn(self, child: Child, now: float) -> None:
        fds: list[int] = []
        try:
            for _ in range(2):
                fds += os.pipe()
            heartbeat_read, heartbeat_write, parent_death_read, parent_death_write = fds
            with masked():
                pid = os.fork()
                if pid == 0:
                    self._become_worker(child, (heartbeat_read, parent_death_write), heartbeat_write, parent_death_read)
                child.started(pid, heartbeat_read, parent_death_write, now)
            fds = [heartbeat_write, parent_death_read]
        finally:
            for fd in fds:
                os.close(fd)
        LOG.debug("%s: started, pid %d", child.label, pid)

    def _become_worker(
        self, child: Child, masters_fds: tuple[int, int], heartbeat_fd: int, parent_death_fd: int
    ) -> None:
        """The child's whole life; never returns."""
        code = EXIT_FAILED
        try:
            for fd in masters_fds:
                os.close(fd)
            # A sibling's parent-death pipe held open here would keep that sibling from noticing the master's death.
            for sibling in self._children + self._leaving:
                sibling.close_fds()
            self._listeners.forget()
            self._relay.forget()
            random.seed()
            os.set_blocking(heartbeat_fd, False)
            code = self._run_worker(child.host, heartbeat_fd, parent_death_fd)
        except ConfigurationError as error:
            LOG.error("%s: %s", child.label, error)
            code = EXIT_BOOT  # the next one would fail in the same way
        except BaseException:  # this is the end of the process: whatever it was is reported, then the code says it
            LOG.exception("%s failed", child.label)
        finally:
            announce_end(heartbeat_fd, code)
            end_process(code)  # the parent's atexit handlers and buffers are the parent's

    def _reap(self) -> list[int]:
        """Learn which children ended; returns the exit codes."""
        codes = []
        for child in self._alive():
            assert child.pid is not None
            # Only our own pids: other children of this process are the program's.
            try:
                pid, status = os.waitpid(child.pid, os.WNOHANG)
            except ChildProcessError:  # the program has a handler of SIGCHLD that waits for all
                pid, status = child.pid, _UNKNOWN_STATUS
            if pid:
                codes.append(child.exit_code(status))
                self._ended(child, codes[-1])
        self._leaving = [child for child in self._leaving if child.is_alive]
        self._orphans.reap({child.pid for child in self._alive() if child.pid} | pids_of_multiprocessing())
        return codes

    def _ended(self, child: Child, code: int) -> None:
        now = time.monotonic()
        pid, lived_s = child.pid, now - child.started_at
        pause_s = child.ended(now, as_asked=code == EXIT_ASKED)
        what = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        if code == EXIT_BOOT:
            child.is_retired = True
            LOG.error("%s (pid %s) could not start; not trying again", child.label, pid)
        elif code == EXIT_ASKED:
            LOG.debug("%s (pid %s) stopped", child.label, pid)
        else:
            LOG.warning("%s (pid %s) %s after %.1f s; next one in %.2f s", child.label, pid, what, lived_s, pause_s)

    def _retire_silent(self) -> None:
        """A worker whose I/O thread stands still: first its stacks, then its end."""
        now = time.monotonic()
        looked_at, self._looked_at = self._looked_at, now
        if now - looked_at > max(2 * _WAIT_S, SILENT_AFTER_S / 2):
            # We stood still ourselves, and perhaps all of us together: a paused machine, a frozen cgroup.
            for child in self._children + self._leaving:
                child.heartbeat_at = max(child.heartbeat_at, now)
        for child in self._children + self._leaving:
            if not child.is_silent(now):
                continue
            if child.aborted_at is None:
                silent_s = now - child.heartbeat_at
                LOG.error("%s (pid %d) is silent for %.0f s; aborting it", child.label, child.pid, silent_s)
                child.aborted_at = now
                child.kill(signal.SIGABRT)
            elif now - child.aborted_at > _ABORT_WAIT_S:
                child.kill(signal.SIGKILL)

    # -- the end -------------------------------------------------------------------------------------------------------

    def _stop(self, signum: int) -> int:
        """TERM lets the workers drain; INT and QUIT do not wait for their work. A second one kills, but for repeats."""
        is_graceful = signum == signal.SIGTERM
        drain_s = self._config.drain_timeout if is_graceful else 0.0
        LOG.info("stopping%s", f", draining for at most {drain_s:g} s" if is_graceful else "")
        self._tell_all(signal.SIGTERM if is_graceful else signal.SIGINT)
        self._stop_signal, self._is_stopping = None, True
        codes: list[int] = []
        deadline = time.monotonic() + drain_s + _STOP_MARGIN_S
        while self._alive():
            self._wait(_STOP_STEP_S)
            codes += self._reap()
            if self._stop_signal is not None or time.monotonic() >= deadline:
                LOG.warning("killing %s", ", ".join(child.label for child in self._alive()) or "no worker")
                self._tell_all(signal.SIGKILL)
                self._stop_signal = None
                deadline = time.monotonic() + _STOP_MARGIN_S
        LOG.info("agent of node %s stopped", self._config.node_name)
        return EXIT_FAILED if is_graceful and any(codes) else EXIT_ASKED

    def _alive(self) -> list[Child]:
        return [child for child in self._children + self._leaving if child.is_alive]

    def _tell_all(self, signum: int) -> None:
        for child in self._alive():
            child.kill(signum)
