"""Tells an exception of the program's signal handlers from one of our own: only ours may be caught and logged."""

from __future__ import annotations

import signal
import threading
from types import CodeType


def came_from_a_signal(error: BaseException) -> bool:
    """Whether a signal handler raised *error*. Python runs these in the main thread, between any two steps of it."""
    if threading.current_thread() is not threading.main_thread():
        return False
    handlers = {code for number in signal.valid_signals() if (code := _code_of(signal.getsignal(number))) is not None}
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code in handlers:
            return True
        trace = trace.tb_next
    return False


def _code_of(handler: object) -> CodeType | None:
    """Of a function, a bound method, or an object that can be called; a built-in one raises nothing that we catch."""
    function = getattr(handler, "__func__", handler)
    if not hasattr(function, "__code__"):
        function = vars(type(handler)).get("__call__")
    code = getattr(function, "__code__", None)
    return code if isinstance(code, CodeType) else None
