"""Which signals, how they reach the main thread, and what exit codes mean."""

from __future__ import annotations

import os
import signal
import threading
import weakref
from collections.abc import Iterable
from contextlib import contextmanager, suppress
from typing import Any

EXIT_ASKED = 0
"""Asked to stop, and stopped."""
EXIT_FAILED = 1
"""Something unexpected; the master starts another worker."""
EXIT_BOOT = 3
"""Could not start, and never will with this configuration: no respawn."""

HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)


class SignalPipe:
    """Signals as readable bytes: the handler only writes one, so it takes no lock and logs nothing.

    They are those of the process that makes it. A child that is forked has the defaults: a TERM ends it, and is no
    business of its parent.
    """

    def __init__(self, signums: Iterable[int] = HANDLED):
        self._pid = os.getpid()
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._previous: dict[int, Any] = {}
        for signum in signums:
            self._previous[signum] = signal.signal(signum, self._on_signal)
        _pipes.add(self)

    def fileno(self) -> int:
        return self._read

    def take(self) -> list[int]:
        """The signals since the last call, in order."""
        try:
            return list(os.read(self._read, 4096))
        except BlockingIOError:
            return []

    def close(self) -> None:
        """Put the previous handlers back."""
        _pipes.discard(self)
        for signum, handler in self._previous.items():
            signal.signal(signum, handler if handler is not None else signal.SIG_DFL)
        self._previous.clear()
        os.close(self._read)
        os.close(self._write)

    def forget(self) -> None:
        """In a forked child: release the parent's pipe and fall back to the defaults."""
        _pipes.discard(self)
        for signum in self._previous:
            if signal.getsignal(signum) == self._on_signal:  # else the user's code has put its own there
                signal.signal(signum, signal.SIG_DFL)
        os.close(self._read)
        os.close(self._write)

    def _on_signal(self, signum: int, _frame: Any) -> None:
        if os.getpid() != self._pid:  # a child that does not know of its fork, or not yet
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
            return
        with suppress(BlockingIOError):  # 64 KiB of signals are waiting: one more changes nothing
            os.write(self._write, bytes([signum]))


_pipes: weakref.WeakSet[SignalPipe] = weakref.WeakSet()
_forking = threading.local()
"""``mask``: of the thread that forks, as it was before."""


def _mask_before_fork() -> None:
    # A child that is signalled before it has the defaults would take it with our handler; then Python forgets it.
    if _pipes:
        _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)


def _unmask_after_fork() -> None:
    mask = _forking.__dict__.pop("mask", None)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _forget_in_child() -> None:
    for pipe in list(_pipes):
        pipe.forget()
    _unmask_after_fork()


os.register_at_fork(before=_mask_before_fork, after_in_parent=_unmask_after_fork, after_in_child=_forget_in_child)


@contextmanager
def masked() -> Any:
    """No signal is handled inside: between fork and the child's own handlers none may be lost or run twice."""
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
    try:
        yield previous
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def unmask() -> None:
    """End what ``masked()`` began in the parent: from here on this process has handlers of its own."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
