"""How processes of an agent end: workers in order, and the children that services fork, which are never workers.

A forked child has a copy of everything that its worker has, the service's thread among it. When the service's code is
left in a child, however that happens (it returns, it raises, ``sys.exit()``), the child ends there: it must not go on
to the worker's sockets, journal and locks. ``Home`` tells worker and child apart by the process's number alone, so that
it does not matter how the child was made. Where Python was told of the fork, the child also lets go of the worker's
sockets and pipes at once; a child that lives on for long must not keep a dead worker's connections open.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress

from servicebus.transport import forks

__all__ = ["Home", "end_process", "let_go_in_children"]

_CHILDREN_END_S = 0.5


class Home:
    """The process that this object was made in."""

    __slots__ = ("_forks", "pid")

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._forks = forks.count

    def end_child(self, what: str, error: BaseException | None = None) -> None:
        """End the process if it is a child of that one. *what* of a user's was left, with *error* or by returning."""
        if os.getpid() == self.pid:
            return
        code = 1
        try:
            code, text = _last_words(what, error)
            if text:
                os.write(2, text.encode("utf-8", "backslashreplace"))
            if forks.count != self._forks:  # else locks may be held by threads that are not here
                _flush()
        finally:
            os._exit(code)


def end_process(code: int) -> None:
    """End this worker, without what the parent has registered at exit: its children, its logs, then the process."""
    try:
        _end_children()
        _flush()
    finally:
        os._exit(code)


def let_go_in_children(numbers: Callable[[], Iterable[int]]) -> None:
    """Have a child that this process forks let go of these open files, which *numbers* returns at that time."""
    _inherited.append(numbers)


def _last_words(what: str, error: BaseException | None) -> tuple[int, str]:
    """The exit code of a child, and what it says; as the interpreter has it when a program ends."""
    if error is None:
        return 0, f"servicebus: process {os.getpid()} was forked by {what} and returned from it; it ends here\n"
    if not isinstance(error, SystemExit):
        return 1, "".join(traceback.format_exception(error))
    if error.code is None or isinstance(error.code, int):
        return (error.code or 0) & 0xFF, ""
    return 1, f"{error.code}\n"


def _end_children() -> None:
    """End the processes that services made by multiprocessing: the worker leaves without its exit functions."""
    global _is_ending
    _is_ending = True
    children = [child for child in multiprocessing.active_children() if child not in _of_parent]
    for child in children:
        child.terminate()
    for child in children:
        child.join(_CHILDREN_END_S / len(children))
        if child.is_alive():
            child.kill()


def _flush() -> None:
    with suppress(Exception):  # a user's handler
        logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(
            AttributeError, OSError, ValueError
        ):  # none, closed or broken: there is nothing left to report to
            stream.flush()


_is_ending = False
"""A pool that replaces its processes goes on with that until the end: what is forked now ends at once."""
_inherited: list[Callable[[], Iterable[int]]] = []
_of_parent: set[multiprocessing.process.BaseProcess] = set()
"""multiprocessing still has them on its list after a fork."""


def _let_go() -> None:
    if _is_ending:
        os._exit(0)
    _of_parent.update(multiprocessing.active_children())
    forks.let_go_of([number for numbers in _inherited for number in numbers()])
    _inherited.clear()


os.register_at_fork(after_in_child=_let_go)
