"""DatagramHandler hands records to the log server; it never blocks its caller and never raises into it."""

from __future__ import annotations

import logging
import os
import sys
import weakref
from collections.abc import Sequence
from pathlib import Path

from servicebus.transport.logbacklog import Backlog
from servicebus.transport.loglink import LogLink, resolve
from servicebus.transport.logpump import Pump
from servicebus.transport.logrecords import NAME_LENGTH, RecordHandler
from servicebus.wire.signing import Keyring

__all__ = ["DatagramHandler"]

_handlers: weakref.WeakSet[DatagramHandler] = weakref.WeakSet()


class DatagramHandler(RecordHandler):
    """Sends records to a log server by UDP, numbered, acknowledged and, with secrets, signed.

    ``emit`` formats the message and appends it to a bounded backlog: some microseconds. A thread of the process,
    started by its first record, does the rest. While the server is down records wait; the backlog holds *max_records*
    or *max_bytes*, and twice as much for records at WARNING and above. Whatever finds it full is dropped and counted,
    here and by the server.

    May be used by any thread. In a forked child it restarts by itself, under its own numbers; records that waited
    at the fork are the parent's. ``flush`` waits until the server has everything; ``logging.shutdown()`` calls it, so
    a process that leaves by ``os._exit`` calls that before.

    Args:
        host, port: of the log server.
        secrets: the first signs, all verify; none: not signed.
        threaded: False for a process that must stay without threads. Then callers send what they log, and the process
            calls ``pump`` about once a second for what was not acknowledged.
        process_name: for the server's lines about this process; without one, multiprocessing's or the program's name.
        close_timeout_s: how long ``flush`` and ``close`` wait for a server that answers nothing; ten times that in all.

    Raises:
        ConfigurationError: the host cannot be resolved.
    """

    def __init__(
        self,
        host: str,
        port: int,
        secrets: Sequence[str] = (),
        *,
        level: int = logging.NOTSET,
        threaded: bool = True,
        process_name: str | None = None,
        max_records: int = 50_000,
        max_bytes: int = 16 * 1024 * 1024,
        datagram_bytes: int | None = None,
        close_timeout_s: float = 1.0,
    ):
        super().__init__(level)
        self.host = host
        self.port = port
        self.threaded = threaded
        self.process_name = process_name
        self.close_timeout_s = close_timeout_s
        self._address = resolve(host, port)
        self._keyring = Keyring(secrets) if secrets else None
        self._limits = (max_records, max_bytes)
        self._datagram_bytes = datagram_bytes
        self._closed = False
        self._start()
        _handlers.add(self)

    def __repr__(self) -> str:
        return f"<DatagramHandler {self.host}:{self.port} {self._link.channel!r}, {len(self._backlog)} records queued>"

    def _start(self) -> None:
        self._backlog = Backlog(*self._limits)
        self._link = LogLink(self._address, self._backlog, self._keyring, self._describe, self._datagram_bytes)
        self._pump = Pump(self._link, threaded=self.threaded)
        self._used = False
        self._pid = os.getpid()  # last: if this fails in a forked child, its next record tries again

    def sends_to(self, host: str, port: int, secrets: Sequence[str]) -> bool:
        """Whether another handler with these arguments would do the same as this one."""
        keyring = repr(Keyring(secrets)) if secrets else repr(None)
        return not self._closed and (self.host, self.port, repr(self._keyring)) == (host, port, keyring)

    @property
    def counters(self) -> dict[str, int]:
        """What became of this process's records: ``accepted`` = ``queued`` + ``sent``, and ``dropped`` beside them.

        ``acknowledged`` is the number up to which the server has every record, or knows that it was dropped.
        ``resent`` counts datagrams; ``answers_refused`` those of a server with another secret.
        """
        backlog, channel = self._backlog, self._link.channel
        return {
            "accepted": backlog.accepted,
            "dropped": backlog.dropped,
            "queued": len(backlog),
            "sent": backlog.taken,
            "acknowledged": channel.records_acknowledged,
            "resent": channel.resent,
            "answers_refused": self._link.answers_refused,
        }

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record; called by ``handle`` under the handler's lock. Never raises, whatever the record holds."""
        try:
            if os.getpid() != self._pid:
                self.start_in_child()  # a fork without Python's hooks
            if self._closed:
                self._backlog.count_dropped()
            elif self._backlog.put(self._prepared(record)):
                if not self._used:
                    self._first_use()
                self._pump.poke()
        except Exception:  # logging ends nothing of the program's; the record is counted as lost
            # Not handleError: it prints a traceback for each, and what cannot be logged may be a secret.
            self._backlog.count_dropped()

    def pump(self) -> None:
        """Send and hear what can be sent and heard now. For processes without threads; harmless in others."""
        if not self._closed and self._used:
            self._pump.step()

    def set_threaded(self, threaded: bool) -> None:
        """With False, when it returns this handler has no thread: the process may fork. With True it gets one again."""
        self.threaded = threaded
        if not self._closed:
            self._pump.set_threaded(threaded)

    def flush(self, timeout_s: float | None = None) -> bool:  # type: ignore[override]
        """Wait until the server has every record; False when it answered nothing for so long, or is not running."""
        if self._closed or not self._used or os.getpid() != self._pid:
            return True
        return self._pump.flush(self.close_timeout_s if timeout_s is None else timeout_s)

    def close(self) -> None:
        """Flush, say goodbye to the server and end the thread. What could not be delivered is said on stderr."""
        if not self._closed:
            if self._used and os.getpid() == self._pid and not self._pump.flush(self.close_timeout_s, final=True):
                self._complain()
            self._closed = True
            self._pump.stop()
        super().close()

    def start_in_child(self) -> None:
        """Start again in a forked process."""
        if not self._closed:
            self._pump.abandon()
            self._start()

    def _describe(self) -> tuple[int, str]:
        name = self.process_name
        if name is None:
            child = _multiprocessing_child()
            name = child or (Path(sys.argv[0]).name if sys.argv and sys.argv[0] else "python")
        return os.getpid(), name[:NAME_LENGTH]

    def _first_use(self) -> None:
        self._used = True
        if _multiprocessing_child() is not None:
            # Such a child leaves by os._exit and runs only these finalizers.
            from multiprocessing.util import Finalize

            Finalize(None, _flush, args=(weakref.ref(self),), exitpriority=0)

    def _complain(self) -> None:
        undelivered = self._backlog.accepted - self._link.channel.records_acknowledged + self._backlog.dropped
        if undelivered > 0 and sys.stderr is not None:
            text = f"servicebus: {undelivered} log records were not delivered to {self.host}:{self.port}: no answer\n"
            sys.stderr.write(text)


def _multiprocessing_child() -> str | None:
    """The name of this process if multiprocessing made it. Does not import what the program does not use."""
    process = sys.modules.get("multiprocessing.process")
    if process is None or process.parent_process() is None:
        return None
    return str(process.current_process().name)


def _flush(reference: weakref.ref[DatagramHandler]) -> None:
    handler = reference()
    if handler is not None:
        handler.flush()


def _start_in_child() -> None:
    for handler in list(_handlers):
        handler.start_in_child()


os.register_at_fork(after_in_child=_start_in_child)
