"""TERM for commands that have something to put right at their end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def term_as_ctrl_c() -> Iterator[None]:
    """TERM ends what runs inside as Ctrl-C does, by KeyboardInterrupt. Outside of the main thread nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
