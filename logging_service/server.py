"""LogServer: one UDP loop that verifies, writes and acknowledges.

A round: read what is in the socket (bounded), write all of it with one system call, then acknowledge each process
once. So an acknowledged record is in the file, and what a server had read when it was killed is sent again to the next.
While the file cannot be written (disk full) the server reads nothing: the records wait with their processes, which
count what they drop.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

from logging_service.intake import Intake, listed
from logging_service.lines import DEFAULT_FORMAT, LineFormat
from logging_service.listening import listen
from logging_service.writer import OWN_STREAMS, LogFile, LogStream
from servicebus.configuration import Secret
from servicebus.observability.notify_socket import NotifySocket, reloading
from servicebus.wire.logrecord import Datagram, Record, encode_object
from servicebus.wire.signing import Keyring

__all__ = ["EXIT_BAD_CONFIGURATION", "EXIT_STOPPED", "LogServer", "Options"]

EXIT_STOPPED = 0
EXIT_BAD_CONFIGURATION = 3

DATAGRAMS_PER_ROUND = 64
ROUND_BYTES = 256 * 1024
TICK_S = 0.5
DRAIN_S = 0.8
WRITE_AGAIN_S = 0.2
ORPHAN_WAIT_S = 1.0


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a server. ``parent`` is the process without which it ends, 0 for none."""

    file: str
    port: int
    host: str = "127.0.0.1"
    secrets: tuple[Secret, ...] = ()
    at_midnight: bool = True
    max_bytes: int | None = None
    keep: int = 15
    format: str = DEFAULT_FORMAT
    parent: int = 0

    def __repr__(self) -> str:
        return f"<Options {self.host}:{self.port} to {self.file}, {'signed' if self.secrets else 'not signed'}>"


def _open_file(options: Options) -> LogFile | LogStream:
    if options.file in OWN_STREAMS:
        return LogStream(options.file)
    return LogFile(options.file, at_midnight=options.at_midnight, max_bytes=options.max_bytes, keep=options.keep)


class LogServer:
    """Binds its port and opens its file when it is made, so that its starter learns of trouble at once.

    Args:
        options: of this server; port 0 takes a free one, see ``port``.

    Raises:
        ConfigurationError: the port is taken, the host is not of this machine, the file or format cannot be used.
    """

    def __init__(self, options: Options):
        self._options = options
        self._format = LineFormat(options.format)
        self._file = _open_file(options)
        try:
            self._socket = listen(options.host, options.port)
        except Exception:  # raised again: only the file is not left open
            self._file.close()
            raise
        self.port: int = self._socket.getsockname()[1]
        self._buffer_bytes = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        keyring = Keyring([secret.reveal() for secret in options.secrets]) if options.secrets else None
        self._intake = Intake(os.urandom(8).hex().encode(), self._format, keyring, self._buffer_bytes)
        self._own_lines: list[bytes] = []
        self._written = 0
        self._written_bytes = 0
        self._started_at = time.time()
        self._stopping = False
        self._reopening = False
        self._orphan_at: float | None = None
        self._trouble = ""
        # One with a parent is no unit's main process.
        self._manager = NotifySocket({} if options.parent else os.environ)
        self._wake_read, self._wake_write = socket.socketpair()

    def __repr__(self) -> str:
        return f"<LogServer {self._options.host}:{self.port}, {self._written} records written>"

    def close(self) -> None:
        """Give back socket and file; also for a process that made the server and lets its child run it."""
        for each in (self._socket, self._wake_read, self._wake_write, self._file):
            each.close()

    def warn(self, text: str) -> None:
        """Have *text* in the file."""
        self._say(text, "WARNING", 30)

    def run(self) -> int:
        """Serve until TERM or INT; HUP reopens the file. Returns the exit code.

        One with a parent serves until the parent sends TERM, or is gone. Only in the main thread, since it takes the
        signals.
        """
        self._catch_signals()
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            selector.register(self._wake_read, selectors.EVENT_READ)
            self._say(f"log server starts on {self._options.host}:{self.port}, {self._signing()}")
            self._manager.send("READY=1", f"STATUS=writing {self._file.path}")
            next_tick = 0.0
            while not self._stopping:
                now = time.monotonic()
                if now >= next_tick or self._reopening:
                    self._tick(now)
                    next_tick = now + TICK_S
                self._round(now)
                selector.select(max(0.0, next_tick - time.monotonic()))
                self._clear_wake()
        self._finish()
        return EXIT_STOPPED

    def statistics(self) -> dict[str, Any]:
        """Everything counted, as ``LoggingService.statistics`` returns it."""
        return {
            "written": self._written,
            "written_bytes": self._written_bytes,
            **self._intake.counts(),
            "rotations": self._file.rotations,
            "receive_buffer": self._buffer_bytes,
            "pid": os.getpid(),
            "file": str(self._file.path),
            "started_at": self._started_at,
        }

    def _round(self, now: float) -> int:
        """Read, write, acknowledge; returns how many datagrams there were."""
        count = self._receive(now)
        if self._write():
            for answer, address in self._intake.acknowledgements():
                self._send(answer, address)
        else:
            self._intake.forget_heard()
        return count

    def _receive(self, now: float) -> int:
        size = 0
        unix_ms = time.time() * 1000
        for count in range(DATAGRAMS_PER_ROUND):
            try:
                raw, address = self._socket.recvfrom(65536)
            except OSError:  # BlockingIOError: the socket is empty
                return count
            answer = self._intake.take(raw, address, now, unix_ms)
            if answer is not None:
                self._send(self._with_counts(answer), address)
            size += len(raw)
            if size >= ROUND_BYTES:
                return count + 1
        return DATAGRAMS_PER_ROUND

    def _with_counts(self, answer: Datagram) -> Datagram:
        return answer._replace(body=encode_object(self.statistics())) if answer.kind == "counts" else answer

    def _send(self, answer: Datagram, address: Any) -> None:
        # If the process is gone, or its buffer full: what it needs to know, it will ask for again.
        with contextlib.suppress(OSError):
            self._socket.sendto(self._intake.encode(answer), address)

    def _write(self) -> bool:
        """Write all lines, for as long as it takes; False if the server has to stop before that."""
        lines = self._intake.take_lines()
        own, self._own_lines = self._own_lines, []
        if not lines and not own:
            return True
        give_up_at = time.monotonic() + DRAIN_S
        records = own + lines
        while True:
            try:
                self._file.write(records, time.time())
                break
            except OSError as error:
                self._complain(f"cannot write {self._file.path}: {error.strerror}; records wait")
            if self._stopping and time.monotonic() >= give_up_at:
                return False
            records = []  # the file keeps what it could not write
            self._manager.send(*self._manager.watchdog())  # a restart makes no room on a disk
            time.sleep(WRITE_AGAIN_S)
            self._reopen_if_told()
            self._watch_parent(time.monotonic())
        self._trouble = ""
        self._written += len(lines)
        self._written_bytes += sum(map(len, lines))
        return True

    def _tick(self, now: float) -> None:
        self._manager.send(*self._manager.watchdog())
        self._intake.share_window(now)
        self._say_counts(now)
        self._reopen_if_told()
        try:
            self._file.tick(time.time())
        except OSError as error:
            self._complain(f"cannot reopen {self._file.path}: {error.strerror}; the old file is written on")
        if self._file.rotation_error:
            self._complain(f"cannot rotate {self._file.rotation_error}; the file is written on")
        self._watch_parent(now)

    def _reopen_if_told(self) -> None:
        if not self._reopening:
            return
        self._reopening = False
        self._manager.send(*reloading())
        try:
            self._file.reopen()
        except OSError as error:
            self._complain(f"cannot reopen {self._file.path}: {error.strerror}; the old file is written on")
        self._manager.send("READY=1")

    def _watch_parent(self, now: float) -> None:
        if not self._options.parent or os.getppid() == self._options.parent:
            return
        # A moment for the last words of its other children.
        if self._orphan_at is None:
            self._orphan_at = now + ORPHAN_WAIT_S
        elif now >= self._orphan_at and not self._stopping:
            self._say(f"the parent {self._options.parent} is gone")
            self._stopping = True

    def _say_counts(self, now: float) -> None:
        for text in (*self._intake.take_losses(), *self._intake.refusals.due_lines(now)):
            self._say(text, "WARNING", 30)

    def _say(self, text: str, level_name: str = "INFO", level: int = 20) -> None:
        record = Record(time.time(), level, level_name, "servicebus.logd", "MainThread", f"servicebus-logd: {text}")
        self._own_lines.append(self._format.line(record, os.getpid(), "servicebus-logd"))

    def _complain(self, text: str) -> None:
        # On stderr, since it is the file that is in trouble; once for each trouble.
        if text != self._trouble and sys.stderr is not None:
            with contextlib.suppress(OSError, ValueError):  # closed, or a pipe that no one reads
                sys.stderr.write(f"servicebus-logd: {text}\n")
        self._trouble = text

    def _signing(self) -> str:
        return "records are signed" if self._options.secrets else "records are not signed: any local process may write"

    def _finish(self) -> None:
        """Take what is in the socket, say the totals, close."""
        self._manager.send("STOPPING=1")
        deadline = time.monotonic() + DRAIN_S
        while self._round(time.monotonic()) and time.monotonic() < deadline:
            pass
        self._say_counts(float("inf"))
        found = self._intake.counts()
        reasons = f" ({listed(found['refusals'])})" if found["refused"] else ""
        self._say(
            f"log server stops: written={self._written} lost={found['lost']} repeated={found['repeated']}"
            f" refused={found['refused']}{reasons}"
        )
        self._write()
        # The same signal again must not end us on our last steps: the interpreter restores the defaults at its end.
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(signum, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)
        self.close()

    def _catch_signals(self) -> None:
        ours = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
        signal.signal(signal.SIGTERM, signal.SIG_DFL if self._options.parent else self._on_stop)
        # A terminal's Ctrl-C reaches the parent too, which ends this server when the others have had their last words.
        signal.signal(signal.SIGINT, signal.SIG_IGN if self._options.parent else self._on_stop)
        signal.signal(signal.SIGHUP, self._on_reopen)
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)
        if self._options.parent:
            # So does a TERM to all of a process group or service (systemd). A handler is not told who has sent it.
            ours.remove(signal.SIGTERM)
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            threading.Thread(target=self._wait_for_parents_term, name="signals", daemon=True).start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ours)

    def _wait_for_parents_term(self) -> None:
        parent = self._options.parent
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent == os.getppid():
            pass
        self._stopping = True
        with contextlib.suppress(OSError):  # it has ended meanwhile
            self._wake_write.send(b"\0")

    def _on_stop(self, signum: int, frame: object) -> None:
        self._stopping = True

    def _on_reopen(self, signum: int, frame: object) -> None:
        self._reopening = True

    def _clear_wake(self) -> None:
        with contextlib.suppress(OSError):
            while self._wake_read.recv(64):
                pass
