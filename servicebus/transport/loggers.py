"""The loggers of this package: a filter, handler or factory of the program's that raises ends none of our threads."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from servicebus.transport.interrupts import came_from_a_signal

__all__ = ["get_logger", "log_once"]

_FORMATTER = logging.Formatter()
_reported: set[str] = set()
_logged: set[str] = set()


def get_logger(name: str) -> logging.Logger:
    """The logger *name*, as ``logging.getLogger()`` returns it, but one that never raises."""
    logger = logging.getLogger(name)
    if not isinstance(logger, _Guarded):
        # By its class, because the program may have made it before us, to set its level.
        base = type(logger)
        logger.__class__ = type(f"Guarded{base.__name__}", (_Guarded, base), {})
    return logger


def log_once(logger: logging.Logger, warnings: Iterable[str]) -> None:
    """Log each warning at WARNING, unless this process, or the one that it was forked from, has done so."""
    for text in warnings:
        if text not in _logged:
            _logged.add(text)
            logger.warning("%s", text)


class _Guarded(logging.Logger):
    """The rest of a record's handlers get it, whatever the one before did. What was raised is said once on stderr."""

    def makeRecord(self, name: str, level: int, fn: str, *rest: Any, **more: Any) -> logging.LogRecord:  # noqa: N802
        try:
            record = super().makeRecord(name, level, fn, *rest, **more)
        except BaseException as error:
            _swallow(error)
            lno, msg, args, exc_info = rest[:4]
            record = logging.LogRecord(name, level, fn, lno, msg, args, exc_info)
        if record.exc_info and not record.exc_text:
            record.exc_text = _traceback_of(record.exc_info)
        return record

    def handle(self, record: logging.LogRecord) -> None:
        _guard(super().handle, record)

    def callHandlers(self, record: logging.LogRecord) -> None:  # noqa: N802
        if not self.hasHandlers():
            super().callHandlers(record)  # the handler of last resort
        logger: logging.Logger | None = self
        while logger is not None:
            for handler in logger.handlers:
                if record.levelno >= handler.level:
                    _guard(handler.handle, record)
            logger = logger.parent if logger.propagate else None


def _traceback_of(exc_info: Any) -> str:
    """Made here, and not while a handler's lock is held: formatting an error may take long, or never end."""
    try:
        return _FORMATTER.formatException(exc_info)
    except BaseException as error:
        _swallow(error)
        return f"({_name(exc_info[1])}, of which no traceback can be made)"


def _name(error: BaseException) -> Any:
    return type.__dict__["__name__"].__get__(type(error))


def _guard(handle: Callable[[logging.LogRecord], Any], record: logging.LogRecord) -> None:
    try:
        handle(record)
    except BaseException as error:
        _swallow(error)


def _swallow(error: BaseException) -> None:
    """Not what a signal brought, such as Ctrl-C, to a program that logs through us."""
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and (isinstance(error, KeyboardInterrupt) or came_from_a_signal(error)):
        raise error
    kind = _name(error)
    if kind not in _reported:
        _reported.add(kind)
        with suppress(OSError):
            os.write(2, f"servicebus: logging failed with {kind}; records are lost, this is not said again\n".encode())
