"""Whether this is still the process that something was made in, also after a fork that Python was not told of.

uWSGI and programs that fork in C run no hooks of ``os.register_at_fork``. So the hooks of a Sender are kept here, and
``notice()``, which every call of a user's passes, runs them where the process's id says that they were missed.
"""

from __future__ import annotations

import os
from collections.abc import Callable

count = 0
"""How many forks lie between the first process and this one, as far as they were noticed."""

_pid = os.getpid()
_hooks: list[Callable[[], None]] = []


def after_in_child(hook: Callable[[], None]) -> None:
    """Call *hook* in every child, at the latest when it first calls ``notice()``."""
    _hooks.append(hook)


def notice() -> int:
    """Run the hooks, if this is a child where that was not done; returns ``count``."""
    if os.getpid() != _pid:
        _in_child()
    return count


def _in_child() -> None:
    global count, _pid
    _pid = os.getpid()
    count += 1
    for hook in _hooks:
        hook()


os.register_at_fork(after_in_child=_in_child)
