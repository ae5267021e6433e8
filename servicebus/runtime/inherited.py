"""What a process inherits from the one that started it, and an agent cannot work with: put right when it starts."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import select
import signal
from collections.abc import Iterable
from pathlib import Path

from servicebus.runtime.signals import HANDLED

__all__ = [
    "Orphans",
    "dump_stacks_on_abort",
    "open_standard_streams",
    "pids_of_multiprocessing",
    "put_right",
    "readable",
]

_OWNER_BITS = 0o700


def open_standard_streams() -> None:
    """Those that are closed go to ``/dev/null``: the next file or socket got their numbers, and what is printed."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest free number


def put_right() -> None:
    """For the main thread of a process that becomes an agent, before it opens or forks anything.

    * Standard streams that are closed are opened.
    * Ended children stay until they are waited for, also where SIGCHLD was ignored.
    * The signals that an agent obeys are let in.
    * The umask takes nothing from the owner, who has to open again what he has made.
    """
    open_standard_streams()
    if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
    os.umask(os.umask(_OWNER_BITS) & ~_OWNER_BITS)


def dump_stacks_on_abort() -> None:
    """Stacks go to where errors go, even if ``sys.stderr`` is closed or no file."""
    try:
        faulthandler.enable()
    except (AttributeError, OSError, RuntimeError, ValueError):
        faulthandler.enable(2)


def readable(files: Iterable[int], timeout_s: float) -> set[int]:
    """Those of *files* that can be read, or have ended, within that time. Not ``select()``, which ends at 1,024."""
    poll = select.poll()
    for number in files:
        poll.register(number, select.POLLIN)
    return {number for number, _ in poll.poll(max(0.0, timeout_s) * 1000)}


class Orphans:
    """Ended processes that the kernel gave to us as process 1, as in a container, and that nothing else waits for.

    What this process had for children before is the program's, and so is left alone.
    """

    def __init__(self) -> None:
        self._is_init = os.getpid() == 1
        self._of_program = set(_children()) if self._is_init else set()

    def reap(self, own: Iterable[int]) -> None:
        """Let those go that have ended, but for *own*, which are waited for elsewhere."""
        if not self._is_init:
            return
        for pid in set(_children()) - self._of_program - set(own):
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                continue  # it was waited for after all


def _children() -> list[int]:
    try:
        texts = [(task / "children").read_text() for task in Path("/proc/self/task").iterdir()]
    except OSError:
        return []  # no /proc, or a thread that has just ended
    return [int(pid) for text in texts for pid in text.split()]


def pids_of_multiprocessing() -> set[int]:
    """Children such as the log server: the code that started them waits for them."""
    return {child.pid for child in multiprocessing.active_children() if child.pid is not None}
