"""One record as the bytes of its lines in the file. Pure but for the time zone.

A message cannot forge a line: the lines of a record after its first begin with four spaces, and other control
    characters stand as
escapes. A program that reads the file line by line takes a line that begins with a space for more of the record above.
"""

from __future__ import annotations

import re
import time

from servicebus.errors import ConfigurationError
from servicebus.wire.logrecord import Record
from servicebus.wire.printable import printable

__all__ = ["DEFAULT_FORMAT", "LineFormat"]

DEFAULT_FORMAT = "[%(asctime)s PID:%(process)d]%(levelname)s:%(message)s"
"""That of py-servicebus 2.x."""
INDENT = "    "

# Everything that a terminal obeys or that some reader takes for the end of a line, except tab and newline.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff]")
_ESCAPES = {code: repr(chr(code))[1:-1] for code in (*range(0xE000), 0xFEFF) if _CONTROLS.match(chr(code))}
"""For str.translate: a mebibyte of control characters takes 40 ms, where re.sub with a function takes 600."""


class LineFormat:
    """Turns records into bytes by a format as logging.Formatter takes it, with the fields ``asctime``, ``created``,
    ``process``, ``processName``, ``threadName``, ``name``, ``levelno``, ``levelname`` and ``message``.

    Raises:
        ConfigurationError: the format has another field, or is none.
    """

    def __init__(self, template: str = DEFAULT_FORMAT):
        self._template = template + "\n"
        self._second = -1
        self._second_text = ""
        try:
            self.line(Record(0.0, 20, "INFO", "root", "MainThread", ""), 1, "name")
        except (KeyError, ValueError, TypeError) as error:
            reason = f"it has no field {error}" if isinstance(error, KeyError) else str(error)
            raise ConfigurationError(f"{template!r} is no format for log lines: {reason}", key="format") from None
        if "%(message)" not in template:
            raise ConfigurationError(
                f"{template!r} is no format for log lines: it leaves out the message", key="format"
            )

    def line(self, record: Record, pid: int, process_name: str) -> bytes:
        """The line, or lines, of a record of that process."""
        created, level, level_name, logger, thread, message = record
        fields = {
            "asctime": self._asctime(created),
            "created": created,
            "process": pid,
            "processName": printable(process_name),
            "threadName": printable(thread),
            "name": printable(logger),
            "levelno": level,
            "levelname": printable(level_name),
            "message": message if message.isprintable() else _indented(message),
        }
        return (self._template % fields).encode()

    def _asctime(self, created: float) -> str:
        second = int(created)
        if second != self._second:
            self._second_text = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))
            self._second = second
        return f"{self._second_text},{int((created - second) * 1000):03d}"


def _indented(text: str) -> str:
    text = text.replace("\r\n", "\n").rstrip("\n")
    if _CONTROLS.search(text):
        text = text.translate(_ESCAPES)
    return text.replace("\n", "\n" + INDENT)
