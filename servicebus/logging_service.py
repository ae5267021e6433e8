"""LoggingService: one log file for all processes. docs/logging.rst describes its use and its guarantees.

::

    LoggingService.start_logging_server("/var/log/agent.log", 5500)      # a process of its own
    LoggingService.init_logging(5500)                                    # here, and in each process that logs
"""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from servicebus._durations import to_seconds
from servicebus.configuration import LoggingSettings, Secret
from servicebus.errors import ConfigurationError
from servicebus.log_fields import FieldsFormatter, RequestFields
from servicebus.transport.logquery import ask_statistics
from servicebus.transport.udp import DatagramHandler
from servicebus.wire.signing import Keyring

if TYPE_CHECKING:
    from multiprocessing.context import ForkProcess

__all__ = ["LoggingService", "connect_root_logger", "pump", "set_threaded", "start_server"]

Secrets = str | Sequence[str] | None
"""One secret, several of which the first signs and all verify, or none."""


class LoggingService:
    """The calls of py-servicebus 2.x, on the class or on an instance."""

    @staticmethod
    def start_logging_server(
        filename: str | os.PathLike[str],
        port: int,
        after_fork_hook: Callable[[], object] | None = None,
        *,
        secret: Secrets = None,
        host: str = "127.0.0.1",
        at_midnight: bool = True,
        max_bytes: int | None = None,
        keep: int = 15,
        keep_files: bool = True,
        **options: Any,
    ) -> ForkProcess:
        """Start a log server as a child of this process; it ends with it, or by ``terminate()``.

        When this returns the port is bound: nothing that is logged from now on is lost. Call it before this process
        has threads.

        Args:
            filename: the file; *at_midnight*, *max_bytes* and *keep* say when it is rotated and how many rotated ones
                stay.
            after_fork_hook: called in the new process before it serves.
            keep_files: False lets go of the files and sockets that the new process inherited. A master wants that: its
                workers notice its death by pipes that no other process may hold.
            options: ``format``, the line as logging.Formatter takes it.

        Returns:
            The process, with ``pid``, ``terminate()``, ``join()`` and ``is_alive()``. Exit code 0: asked to stop.

        Raises:
            ConfigurationError: the port is taken or the file cannot be opened.
        """
        # The import contract: no module of servicebus imports the package of the server program, which is started here.
        module = importlib.import_module("logging_service.server")
        inherited = {} if keep_files else _open_files()
        chosen = module.Options(
            file=os.fspath(filename),
            port=port,
            host=host,
            secrets=tuple(map(Secret, _listed(secret))),
            at_midnight=at_midnight,
            max_bytes=max_bytes,
            keep=keep,
            parent=os.getpid(),
            **options,
        )
        server = module.LogServer(chosen)
        process = multiprocessing.get_context("fork").Process(
            target=_serve, args=(server, after_fork_hook, inherited), name="servicebus-logd", daemon=True
        )
        # The server takes these signals when it is ready: a terminate() right away must not kill it before.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP, signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        # Else this process would hold the port of a server that died, and swallow what is sent to it.
        server.close()
        return process

    @staticmethod
    def init_logging(
        port: int,
        level: int | str = logging.INFO,
        *,
        secret: Secrets = None,
        host: str = "127.0.0.1",
        threaded: bool = True,
        process_name: str | None = None,
    ) -> DatagramHandler:
        """Connect the root logger to the log server, which may be up or not. Called again it only sets the level.

        Children that are forked afterwards are connected as well.

        Args:
            threaded: see servicebus.transport.udp.DatagramHandler.
            process_name: for the server's lines about this process.

        Raises:
            ConfigurationError: the host cannot be resolved.
        """
        handler = _connected(host, port, _listed(secret), threaded, process_name)
        logging.getLogger().setLevel(level)
        return handler

    @staticmethod
    def statistics(
        port: int, secret: Secrets = None, *, host: str = "127.0.0.1", timeout_s: float = 2.0
    ) -> dict[str, Any]:
        """What the log server has counted: ``written`` and ``lost`` records, ``refused`` datagrams (``refusals`` by
        reason), ``repeated`` ones, ``processes``, ``rotations``, its ``pid`` and ``file``.

        Raises:
            ConnectFailed: no server listens there, or one that has another secret.
        """
        timeout_s = to_seconds("timeout_s", timeout_s, zero=False)
        secrets = _listed(secret)
        return ask_statistics(host, port, Keyring(secrets) if secrets else None, timeout_s)


def connect_root_logger(
    settings: LoggingSettings, *, threaded: bool = True, process_name: str | None = None
) -> DatagramHandler | None:
    """Connect the root logger as the ``logging:`` section says; nothing without one. May be called again anywhere.

    Args:
        threaded: False where the process must have one thread, as a master that forks: call ``pump`` there about once
            a second.

    Raises:
        ConfigurationError: the host cannot be resolved.
    """
    if not settings.configured:
        return None
    secrets = tuple(secret.reveal() for secret in settings.secrets)
    handler = _connected(settings.host, settings.port, secrets, threaded, process_name)
    logging.getLogger().setLevel(settings.level_number)
    if settings.request_ids and handler.formatter is None:
        handler.addFilter(RequestFields())
        handler.setFormatter(FieldsFormatter())
    return handler


def disconnect_root_logger(settings: LoggingSettings) -> None:
    """End what ``connect_root_logger`` has made of these *settings*."""
    secrets = tuple(secret.reveal() for secret in settings.secrets)
    for handler in _connections():
        if settings.configured and handler.sends_to(settings.host, settings.port, secrets):
            logging.getLogger().removeHandler(handler)
            handler.close()


def start_server(settings: LoggingSettings, after_fork_hook: Callable[[], object] | None = None) -> ForkProcess:
    """Start the log server that the ``logging:`` section describes; as ``LoggingService.start_logging_server``."""
    if settings.file is None:
        raise ConfigurationError("logging.file must say which file to write", key="logging.file")
    return LoggingService.start_logging_server(
        settings.file,
        settings.port,
        after_fork_hook,
        host=settings.host,
        secret=[secret.reveal() for secret in settings.secrets],
        at_midnight=settings.rotate_when is not None,
        max_bytes=settings.rotate_max_bytes,
        keep=settings.keep,
        keep_files=False,
    )


def pump() -> None:
    """Send and hear what can be sent and heard now: for a process without threads, about once a second."""
    for handler in _connections():
        handler.pump()


def set_threaded(threaded: bool) -> None:
    """With False, when it returns the logging has no thread in this process: it may fork. With True they come back."""
    for handler in _connections():
        handler.set_threaded(threaded)


def _connections() -> list[DatagramHandler]:
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, DatagramHandler)]


def _connected(
    host: str, port: int, secrets: Sequence[str], threaded: bool, process_name: str | None
) -> DatagramHandler:
    """The root logger's handler for that server: the one it has, if it would do the same."""
    for handler in _connections():
        if handler.sends_to(host, port, secrets):
            handler.set_threaded(threaded)
            handler.process_name = process_name or handler.process_name
            return handler
        if (handler.host, handler.port) == (host, port):
            logging.getLogger().removeHandler(handler)
            handler.close()
    handler = DatagramHandler(host, port, secrets, threaded=threaded, process_name=process_name)
    logging.getLogger().addHandler(handler)
    return handler


def _listed(secret: Secrets) -> tuple[str, ...]:
    if not secret:
        return ()
    return (secret,) if isinstance(secret, str) else tuple(secret)


_Files = dict[int, tuple[int, int]]
"""Which file stands behind a descriptor: its device and inode."""


def _open_files() -> _Files:
    files = {}
    for entry in Path("/proc/self/fd").iterdir():
        number = int(entry.name)
        if number > 2:
            with suppress(OSError):  # the one that listed the folder
                files[number] = _identity(number)
    return files


def _identity(number: int) -> tuple[int, int]:
    status = os.fstat(number)
    return status.st_dev, status.st_ino


def _let_go(files: _Files) -> None:
    """Point the descriptors elsewhere. Not closed: a finalizer that closes one later must not hit a newer file.

    Those that were closed since *files* were listed are left out: the number may be another file's.
    """
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number, identity in files.items():
        with suppress(OSError):  # closed
            if _identity(number) == identity:
                os.dup2(nowhere, number, inheritable=False)


def _serve(server: Any, after_fork_hook: Callable[[], object] | None, inherited: _Files) -> None:
    """The server's process. What it inherited must not reach into it: signal handlers, a logger that feeds itself."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    _let_go(inherited)
    for handler in _connections():
        logging.getLogger().removeHandler(handler)
        handler.close()
    if after_fork_hook is not None:
        after_fork_hook()
    sys.exit(server.run())
