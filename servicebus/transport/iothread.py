"""The one I/O thread of a client process, shared by all its Senders, made when first needed and again after a fork."""

from __future__ import annotations

import os
import threading

from servicebus.transport.sharedloop import SharedLoop

_lock = threading.Lock()
_current: tuple[int, SharedLoop] | None = None
_inherited: list[object] = []


def client_loop() -> SharedLoop:
    """This process's running client loop; callable from any thread."""
    global _current
    with _lock:
        if _current is None or _current[0] != os.getpid():
            loop = SharedLoop("servicebus-client")
            threading.Thread(target=loop.run, name=loop.name, daemon=True).start()
            _current = (os.getpid(), loop)
        return _current[1]


def _forget_in_child() -> None:
    """The parent's loop stays the parent's: never closed here, since its sockets are shared with the parent."""
    global _lock, _current
    _lock = threading.Lock()  # another thread may have held it at the moment of the fork
    if _current is not None:
        _inherited.append(_current)
        _current = None


os.register_at_fork(after_in_child=_forget_in_child)
