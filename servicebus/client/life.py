"""Life: what belongs to one process's use of a Sender, between its first call and ``close()``."""

from __future__ import annotations

import itertools
import os
import sys
import threading
from typing import Any

from servicebus.client.engine import Engine
from servicebus.configuration import Configuration
from servicebus.errors import OutboxUnavailable
from servicebus.transport import forks
from servicebus.transport.amqp import AmqpConnection
from servicebus.transport.interface import Connect
from servicebus.transport.iothread import client_loop
from servicebus.transport.loggers import get_logger, log_once
from servicebus.wire.signing import Keyring

LOG = get_logger(__name__)

_CLOSE_S = 2.0
_STORE_S = 10.0


class Life:
    """For any thread of the process that made it; another one leaves it alone."""

    def __init__(
        self,
        config: Configuration,
        keyring: Keyring,
        outbox_path: str | os.PathLike[str] | None,
        connect: Connect = AmqpConnection,
    ):
        log_once(LOG, config.warnings + config.secret_warnings)
        self.mark = forks.mark()
        """Of the process in which it began."""
        self.incarnation = os.urandom(8).hex()
        self.count = itertools.count(1)
        self.engine = Engine(client_loop(), config, keyring, connect)
        self.give_up = self.engine.give_up
        self.await_end = self.engine.await_end
        self._config = config
        self._outbox_path = outbox_path
        self._lacks_outbox = outbox_path is not None
        self._opening = threading.RLock()
        try:
            self.need_outbox()
        except OutboxUnavailable as error:  # what does not need it goes on; send() asks again, and raises it
            LOG.error("%s", error)

    @property
    def is_ours(self) -> bool:
        """Whether it began in this process."""
        return bool(self.mark[0])

    def need_outbox(self) -> None:
        """See to it that the outbox is open, if there is to be one. Raises OutboxUnavailable."""
        if not self._lacks_outbox:
            return
        with self._opening:
            if self._lacks_outbox and self._outbox_path is not None:
                from servicebus.client.outbox_file import OutboxFile

                limits = self._config.outbox_max_messages, self._config.outbox_max_bytes
                self.engine.use_outbox(OutboxFile(self._outbox_path, *limits))
                self._lacks_outbox = False

    def status(self) -> dict[str, Any]:
        status = self.engine.status()
        if self._lacks_outbox:
            status["outbox"] = {"path": os.fspath(self._outbox_path or ""), "problem": "it cannot be used, see the log"}
        return status

    def close(self) -> None:
        """Ends everything; waits for that, but not for long. For the disk a little longer."""
        closed = threading.Event()
        self.engine.close(closed.set)
        if not self.engine.can_wait_here() or sys.is_finalizing():  # nothing would end the waiting
            return
        closed.wait(_CLOSE_S if self._outbox_path is None else _STORE_S)
