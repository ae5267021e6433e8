"""The one I/O thread of a client process, shared by all its Senders, made when first needed and again after a fork."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable

from servicebus.errors import LifecycleError
from servicebus.transport import forks
from servicebus.transport.sharedloop import SharedLoop

_lock = threading.RLock()
"""Reentrant: a signal handler may interrupt its holder."""
_current: SharedLoop | None = None
_inherited: list[SharedLoop] = []
refusal: Callable[[bool], str] | None = None
"""Why the calling thread may not use the loop, which runs already or not; "" if it may. Set by a bus in memory."""
_files_of_parent: list[int] = []
"""What the parent's loop had open when this process was forked."""


def client_loop() -> SharedLoop:
    """This process's running client loop; callable from any thread.

    Raises:
        LifecycleError: the interpreter is ending, and starts no thread any more; or a bus in memory is open.
    """
    global _current
    if refusal is not None and (why := refusal(_current is not None)):
        raise LifecycleError(why, "the use of a Sender on real brokers")
    forks.notice()
    with _lock:
        if _current is None:
            if sys.is_finalizing():
                raise LifecycleError("the interpreter is ending", "the first use of a Sender")
            loop = SharedLoop("servicebus-client")
            try:
                threading.Thread(target=_run, args=(loop,), name=loop.name, daemon=True).start()
            except RuntimeError as error:
                raise LifecycleError(f"no thread can be started ({error})", "the first use of a Sender") from error
            _current = loop
        return _current


def _run(loop: SharedLoop) -> None:
    """Run *loop* to its end. An exception that leaves it costs the connections, and ends no other Sender's requests."""
    while True:
        try:
            loop.run()
            return
        except BaseException as error:
            loop.tear()
            loop.failures.report("the I/O thread", error)


def _forget_in_child() -> None:
    """The parent's loop stays the parent's: never closed here, since its sockets are shared with the parent."""
    global _lock, _current, _files_of_parent
    _lock = threading.RLock()  # another thread may have held it at the moment of the fork
    _files_of_parent = []
    if _current is not None:
        _inherited.append(_current)
        _files_of_parent = _current.files
        _current.forsake()
        _current = None


forks.after_in_child(_forget_in_child)
# Only where Python is told of the fork: later these numbers may be those of other files.
os.register_at_fork(after_in_child=lambda: forks.let_go_of(_files_of_parent))
