"""Whether this is still the process that something was made in, also after a fork without Python's hooks.

uWSGI and programs that fork in C run no hooks of ``os.register_at_fork``. So the hooks of a Sender are kept here, and
``notice()``, which a user's call makes when it finds itself in another process, runs those that were missed.

What identifies the process is a *mark*: a page of memory that Linux empties in every child (``MADV_WIPEONFORK``). To
ask the kernel for the process's id takes 200 ns, and it would be asked for every request.
"""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Callable, Collection
from typing import Protocol

_MADV_WIPEONFORK = 18

count = 0
"""How many forks lie between the first process and this one, as far as they were noticed."""


class Mark(Protocol):
    """``mark[0]`` is true in the process that made it, and in no other."""

    def __getitem__(self, index: int, /) -> int: ...


class ProcessId:
    """A Mark by the process's id, for kernels that do not empty pages."""

    def __init__(self) -> None:
        self._pid = os.getpid()

    def __getitem__(self, _index: int, /) -> int:
        return os.getpid() == self._pid


def make_mark() -> Mark:
    """A Mark of this process."""
    if sys.platform != "linux":
        return ProcessId()
    page = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        page.madvise(_MADV_WIPEONFORK)
    except OSError:  # Linux before 4.14
        return ProcessId()
    page[0] = 1
    return page


_mark = make_mark()
_hooks: list[Callable[[], None]] = []


def after_in_child(hook: Callable[[], None]) -> None:
    """Call *hook* in every child, at the latest when it first calls ``notice()``."""
    _hooks.append(hook)


def notice() -> int:
    """Run the hooks, if this is a child where that was not done; returns ``count``."""
    if not _mark[0]:
        _in_child()
    return count


def mark() -> Mark:
    """The Mark of this process."""
    notice()
    return _mark


def let_go_of(numbers: Collection[int]) -> None:
    """In a child that was forked just now: point these descriptors of its parent's elsewhere.

    They are not closed: what closes one later must not hit a newer file.
    """
    if not numbers:
        return
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in numbers:
        os.dup2(nowhere, number, inheritable=False)
    os.close(nowhere)


def _in_child() -> None:
    global count, _mark
    _mark = make_mark()
    count += 1
    for hook in _hooks:
        hook()


os.register_at_fork(after_in_child=_in_child)
