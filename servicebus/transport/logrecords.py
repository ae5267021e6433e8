"""RecordHandler: makes of a record of Python's logging the one that travels."""

from __future__ import annotations

import logging
import time

from servicebus.wire.logrecord import LATEST_CREATED, Record, cut_message

__all__ = ["NAME_LENGTH", "RecordHandler"]

NAME_LENGTH = 200
"""Names of loggers, threads and levels are cut there."""

_traceback = logging.Formatter()


class RecordHandler(logging.Handler):
    """Base of handlers that send records somewhere."""

    def _prepared(self, record: logging.LogRecord) -> Record:
        # Made sure of here, in the caller's thread: what JSON or the server refused later would be lost with its batch.
        created = float(record.created)
        return Record(
            created if 0 <= created < LATEST_CREATED else time.time(),
            int(record.levelno),
            str(record.levelname)[:NAME_LENGTH],
            str(record.name)[:NAME_LENGTH],
            str(record.threadName or "")[:NAME_LENGTH],
            cut_message(str(self._text(record))),
        )

    def _text(self, record: logging.LogRecord) -> str:
        """The message with the traceback behind it; in the caller's thread, because arguments may change afterwards."""
        if self.formatter is not None:
            return self.formatter.format(record)
        try:
            text = record.getMessage()
        except Exception as error:
            text = f"{record.msg!r} (its arguments do not fit: {type(error).__name__}: {error})"
        if record.exc_info and not record.exc_text:
            # Kept in the record, as Formatter.format does: made once for all handlers.
            record.exc_text = _traceback.formatException(record.exc_info)
        if record.exc_text:
            text = f"{text}\n{record.exc_text}"
        if record.stack_info:
            text = f"{text}\n{record.stack_info}"
        return text
