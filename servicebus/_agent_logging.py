"""AgentLogging: where the log records of an agent's processes go: to the log server, if the configuration names one.

The master may have no second thread while it forks, so its own records are sent from its loop; each worker gets the
sending thread back. A log server that the agent started is started again when it dies.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import Any

from servicebus.configuration import LoggingSettings
from servicebus.errors import ConfigurationError
from servicebus.logging_service import (
    connect_root_logger,
    disconnect_root_logger,
    pump,
    set_threaded,
    start_server,
)
from servicebus.transport.loggers import get_logger

LOG = get_logger(__name__)

_RESTART_PAUSE_S = 2.0
_NOTICE_S = 0.2
_FAREWELL_S = 2.0


class AgentLogging:
    """Belongs to the master's thread, but for ``in_worker()``, which is called in a forked worker."""

    def __init__(self, settings: LoggingSettings):
        self._settings = settings
        self._server: Any = None
        self._missed: Any = None
        """The server that was found dead."""
        self._restart_at = 0.0

    def start(self) -> None:
        """Start the server if it is ours, and connect this process.

        Raises:
            ConfigurationError: the server's port is taken, or its file cannot be written.
        """
        if self._settings.start_server:
            self._server = start_server(self._settings)
        connect_root_logger(self._settings, threaded=False, process_name="master")
        set_threaded(False)

    def tick(self, *, may_restart: bool = True) -> None:
        """Once a second or so: send what is waiting, and look after the server, unless *may_restart* is False."""
        pump()
        if self._server is None or not may_restart or self._server.is_alive():
            return
        now = time.monotonic()
        if self._missed is not self._server:
            # A signal to the whole process group ends it, too: ours is heard first, and then nothing is started again.
            self._missed, self._restart_at = self._server, max(self._restart_at, now + _NOTICE_S)
        if now < self._restart_at:
            return
        self._restart_at = now + _RESTART_PAUSE_S
        ended = self._server
        try:
            self._server = start_server(self._settings)
        except ConfigurationError as error:  # such as: another process has taken the port meanwhile
            LOG.error("the log server is gone, and cannot be started again now: %s", error)
        else:
            LOG.error("the log server (pid %s) ended with code %s; started it again", ended.pid, ended.exitcode)

    def reload(self, settings: LoggingSettings) -> None:
        """Log as *settings* say from now on; a log server of ours is replaced where that is needed.

        Raises:
            ConfigurationError: the new server cannot start, or its host cannot be resolved. All is as it was then.
        """
        former, self._settings = self._settings, settings
        if settings == former:
            return
        try:
            self._change(former, settings)
        except ConfigurationError:
            self._settings = former
            self._change(settings, former)
            raise

    def _change(self, former: LoggingSettings, present: LoggingSettings) -> None:
        if _connection(former) != _connection(present):
            disconnect_root_logger(former)
        if _server(former) != _server(present) or (self._server is None) == present.start_server:
            self._stop_server()
            if present.start_server:
                self._server = start_server(present)
        connect_root_logger(present, threaded=False, process_name="master")
        set_threaded(False)
        if former.level != present.level:  # else that of -v holds, or what the program has set
            logging.getLogger().setLevel(present.level_number)

    def in_worker(self, name: str) -> None:
        connect_root_logger(self._settings, process_name=name)
        set_threaded(True)

    def stop(self) -> None:
        """Send the last records, then end the server if it is ours; it writes what its socket holds first."""
        deadline = time.monotonic() + _FAREWELL_S
        for handler in logging.getLogger().handlers:
            handler.flush()
        pump()
        self._stop_server(max(0.1, deadline - time.monotonic()))

    def _stop_server(self, wait_s: float = _FAREWELL_S) -> None:
        if self._server is not None:
            self._server.terminate()
            self._server.join(wait_s)
            self._server = None


def _connection(settings: LoggingSettings) -> tuple[object, ...]:
    """What the connection to a log server is made of."""
    return settings.configured, settings.host, settings.port, settings.secrets


def _server(settings: LoggingSettings) -> LoggingSettings | None:
    """What a server of ours is made of; None without one."""
    return replace(settings, level="INFO") if settings.start_server else None
