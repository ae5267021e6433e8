"""The log pump: runs the log link in a thread, or, in a process that must stay without threads, in its callers.

Theory of operation. A caller puts its record into the backlog and pokes the pump. When the thread sleeps for want of
records, the poke wakes it by one byte on a pipe; it then lets records gather for two milliseconds and sends them as
few datagrams. While records wait anyway (a window that is full, a server that is down) no poke costs more than
reading a flag. A caller that finds a whole datagram's worth waiting sends it itself if no other thread does: a busy
interpreter switches to a thread after 5 ms only, and each system call ends its time slice, so that the thread alone
would fall behind a caller that logs in a loop.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections.abc import Callable

from servicebus.policy.logchannel import FlushLimit
from servicebus.transport.loglink import LogLink

__all__ = ["LINGER_S", "Pump"]

LINGER_S = 0.002
ASSIST_BYTES = 8_000
"""About a datagram on loopback."""


class Pump:
    """Runs one link in one process. ``poke`` needs the handler's lock; the rest may be called by any thread."""

    def __init__(self, link: LogLink, *, threaded: bool):
        self._link = link
        self._backlog = link.backlog
        self._threaded = threaded
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._sleeps = False
        self._stopping = False
        self._assisted_at = 0
        self._assists = 0
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)

    def poke(self) -> None:
        """A record was put. Returns in microseconds; the first call of a process starts the thread."""
        if self._threaded and self._thread is None:
            self._start()
        if self._thread is None:
            self._try_step()
        elif self._sleeps:
            self._wake()
        elif self._backlog.bytes_in - self._assisted_at >= ASSIST_BYTES:
            self._assisted_at = self._backlog.bytes_in
            if self._backlog.is_heavy and not self._backlog.starts_long:
                self._assists += 1
                self._try_step()

    def step(self) -> None:
        """Send and hear what can be sent and heard now."""
        with self._lock:
            self._link.pump(time.monotonic())

    def flush(self, timeout_s: float, *, final: bool = False) -> bool:
        """Wait until the server has everything; False when time is up or no server listens. *final* says goodbye too.

        The time is counted from the last acknowledgement, but all in all it is no longer than ten times as much.
        """
        return self._until(lambda: self._link.is_drained, timeout_s) and (not final or self._bye(timeout_s))

    def set_threaded(self, threaded: bool) -> None:
        """With False, when it returns there is no thread. With True the next record starts one."""
        self._threaded = threaded
        if not threaded:
            self._join()

    def stop(self) -> None:
        """End the thread and close everything. What is queued is lost: flush before."""
        self._threaded = False
        self._join()
        with self._lock:
            self._link.close()
            self._close_pipe()

    def abandon(self) -> None:
        """In a forked child: close this process's copies. The thread and the records are the parent's."""
        self._link.abandon()
        self._close_pipe()

    def _close_pipe(self) -> None:
        ends = (self._wake_read, self._wake_write)
        self._wake_read = self._wake_write = -1  # never twice: the numbers may be reused by then
        for end in ends:
            with contextlib.suppress(OSError):
                os.close(end)

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="servicebus-log", daemon=True)
        self._stopping = False
        try:
            thread.start()
        except RuntimeError:
            self._threaded = False  # the interpreter is ending, or the limit of threads is reached: callers send
        else:
            self._thread = thread

    def _join(self) -> None:
        thread = self._thread
        if thread is None:
            return
        self._stopping = True
        self._wake()
        thread.join()
        self._thread = None

    def _wake(self) -> None:
        self._sleeps = False
        with contextlib.suppress(OSError):  # a full pipe wakes just as well
            os.write(self._wake_write, b"!")

    def _try_step(self) -> None:
        if self._lock.acquire(blocking=False):
            try:
                # Two for each datagram's worth that is logged: a backlog from before the server answered gets shorter.
                self._link.pump(time.monotonic(), max_batches=2)
            finally:
                self._lock.release()

    def _run(self) -> None:
        poller = select.poll()
        poller.register(self._link.socket, select.POLLIN)
        poller.register(self._wake_read, select.POLLIN)
        assists = 0
        while not self._stopping:
            if assists != self._assists:
                # Callers send. This thread would hold the lock while it waits for the GIL after each system call.
                assists = self._assists
                time.sleep(LINGER_S)
                continue
            self.step()
            # First the flag, then the look: a record that was put in between has seen the flag and pokes.
            self._sleeps = True
            if self._backlog.has_news:
                self._sleeps = False
                if self._link.can_pack:
                    continue
            poller.poll(_milliseconds(self._link.next_due()))
            self._sleeps = False
            self._gather()

    def _gather(self) -> None:
        with contextlib.suppress(OSError):
            if os.read(self._wake_read, 64) and not (self._stopping or self._backlog.is_heavy):
                time.sleep(LINGER_S)

    def _bye(self, timeout_s: float) -> bool:
        with self._lock:
            self._link.say_bye()
        return self._until(lambda: self._link.is_drained, timeout_s)

    def _until(self, is_done: Callable[[], bool], timeout_s: float) -> bool:
        limit = FlushLimit(timeout_s, time.monotonic())
        poller = select.poll()
        poller.register(self._link.socket, select.POLLIN)
        with self._lock:
            self._link.hurry(time.monotonic())
        while True:
            with self._lock:
                now = time.monotonic()
                self._link.pump(now)
                if is_done():
                    return True
                due = self._link.next_due()
                progress = self._link.channel.packets_acknowledged
            if limit.is_over(progress, now) or self._link.has_given_up:
                return False
            # The thread may take the answer that this one waits for: look again soon.
            poller.poll(_milliseconds(min(limit.deadline, due or limit.deadline, now + 0.02)))


def _milliseconds(at: float | None) -> int | None:
    if at is None:
        return None
    return max(0, int((at - time.monotonic()) * 1000) + 1)
