"""LogTap: takes the log records of this process while it is attached, and is nowhere otherwise."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any

from servicebus.log_fields import request_fields
from servicebus.protocol.tail import TailedRecord
from servicebus.services import current_request
from servicebus.transport.logrecords import RecordHandler
from servicebus.wire.logrecord import cut_message

__all__ = ["LogTap"]

_MESSAGE_BYTES = 16 * 1024


class LogTap(RecordHandler):
    """A handler of the root logger from ``attach()`` to ``detach()``: without a tail a record costs nothing more.

    What a forked child logs is not taken: it is another process. Never raises, and holds no lock of logging.

    Args:
        take: called with each record, in the thread that logs.
        process: the name of this process in its records.
    """

    def __init__(self, take: Callable[[TailedRecord], None], process: str):
        super().__init__()
        self.lost = 0
        """Records of which none could be made, or that *take* has raised for."""
        self._take = take
        self._process = process
        self._pid = os.getpid()

    def __repr__(self) -> str:
        return f"<LogTap of {self._process} {'attached' if self.is_attached else 'detached'}>"

    @property
    def is_attached(self) -> bool:
        return self in logging.getLogger().handlers

    def attach(self, level: int) -> None:
        """Take records at *level* and above from now on. What the loggers themselves let through is not changed."""
        self._pid = os.getpid()
        self.setLevel(level)
        logging.getLogger().addHandler(self)

    def detach(self) -> None:
        logging.getLogger().removeHandler(self)

    def handle(self, record: logging.LogRecord) -> bool:
        """Take *record*, without the lock of the handler: nothing here needs it."""
        if os.getpid() == self._pid:
            try:
                self._take(self._made_of(record))
            except Exception:  # logging ends nothing of the program's
                self.lost += 1
        return True

    def _made_of(self, record: logging.LogRecord) -> TailedRecord:
        made, request = self._prepared(record), current_request()
        fields: dict[str, Any] = {**request_fields()}
        made = made._replace(message=cut_message(made.message, _MESSAGE_BYTES))
        service = ""
        if request is not None:
            event = request.get_event()
            service = f"{event.category}.{event.service}"
        return TailedRecord(*made, self._process, self._pid, service, **fields)
