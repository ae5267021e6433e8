"""Where another thread is, for those who look after one."""

from __future__ import annotations

import gc
import sys
import threading
from types import FrameType

__all__ = ["frame_of"]

_looking = threading.Lock()


def frame_of(thread: int | None) -> FrameType | None:
    """Where *thread* is; None if it has ended, or not begun.

    The collector rests meanwhile: where it runs in the middle of this, CPython up to 3.12 can stop for ever
    (https://github.com/python/cpython/issues/106883).
    """
    with _looking:
        is_collecting = gc.isenabled()
        gc.disable()
        try:
            return sys._current_frames().get(thread or 0)
        finally:
            if is_collecting:
                gc.enable()
