"""SenderSession: what belongs to one process's use of a Sender, between its first call and ``close()``.

Beside it the owner of such sessions, and the options of a message, checked.
"""

from __future__ import annotations

import itertools
import math
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from servicebus._durations import to_seconds
from servicebus.client.engine import Engine
from servicebus.client.plain_client import PlainClient
from servicebus.client.request import MessageOptions, PendingRequest
from servicebus.configuration import Configuration
from servicebus.errors import EnvelopeError, OutboxUnavailable
from servicebus.transport import forks
from servicebus.transport.interface import Connect
from servicebus.transport.loggers import get_logger, log_once
from servicebus.transport.sharedloop import SharedLoop
from servicebus.wire.signing import Keyring

LOG = get_logger(__name__)


def message_options(delay_s: float, expires_s: float | None, max_age_s: float, now: float) -> MessageOptions:
    """When a message that is sent now is due, and when it expires; *now* is Unix time.

    Raises:
        DurationError: *delay_s* or *expires_s* is no time.
        EnvelopeError: no node would accept the message then.
    """
    delay_s = to_seconds("delay", delay_s)
    if delay_s == 0 and expires_s is None:
        return MessageOptions(expires_ms=int((now + max_age_s) * 1000))
    if delay_s >= max_age_s:
        limit = f"a message is accepted for {max_age_s:g} s after it was sent (token_max_age)"
        raise EnvelopeError("stale", f"a delay of {delay_s:g} s is too long: {limit}")
    if expires_s is not None:
        expires_s = to_seconds("expires", expires_s, zero=False)
    lives_s = max_age_s if expires_s is None else min(expires_s, max_age_s)
    now_ms = int(now * 1000)
    return MessageOptions(
        due_ms=now_ms + math.ceil(delay_s * 1000) if delay_s else None, expires_ms=now_ms + int(lives_s * 1000)
    )


_CLOSE_S = 2.0
_STORE_S = 10.0


class SenderSession:
    """For any thread of the process that made it; another one leaves it alone."""

    def __init__(
        self,
        config: Configuration,
        keyring: Keyring,
        outbox_path: str | os.PathLike[str] | None,
        connect: Connect,
        loop: SharedLoop,
    ):
        log_once(LOG, config.warnings + config.secret_warnings)
        self.mark = forks.mark()
        """Of the process in which it began."""
        self.incarnation = os.urandom(8).hex()
        self.count = itertools.count(1)
        self.flush_later = loop.flush_later
        """In the loop's thread: flush something at the end of this iteration."""
        self.engine = Engine(loop, config, keyring, connect)
        self._make_plain = partial(PlainClient, loop, config, connect)
        self._plain: PlainClient | None = None
        self.give_up = self.engine.give_up
        self.await_end = self.engine.await_end
        self._config = config
        self._outbox_path = outbox_path
        self.lacks_outbox = outbox_path is not None
        """There is to be one, and it is not open."""
        self._outbox_problem = ""
        self._opening = threading.RLock()
        try:
            self.need_outbox()
        except OutboxUnavailable as error:  # what does not need it goes on; send() asks again, and raises it
            LOG.error("%s", error)

    @property
    def plain(self) -> PlainClient:
        """What publishes in the form of other programs; made when it is needed first."""
        if self._plain is None:
            with self._opening:
                self._plain = self._plain or self._make_plain()
        return self._plain

    @property
    def has_plain_unfinished(self) -> bool:
        return self._plain is not None and self._plain.unfinished > 0

    @property
    def is_ours(self) -> bool:
        """Whether it began in this process."""
        return bool(self.mark[0])

    def need_outbox(self) -> None:
        """See to it that the outbox is open, if there is to be one. Raises OutboxUnavailable."""
        if not self.lacks_outbox:
            return
        with self._opening:
            if self.lacks_outbox and self._outbox_path is not None:
                from servicebus.client.outbox_file import OutboxFile

                limits = self._config.outbox_max_messages, self._config.outbox_max_bytes
                try:
                    self.engine.use_outbox(OutboxFile(self._outbox_path, *limits))
                except OutboxUnavailable as error:
                    self._outbox_problem = error.reason
                    raise
                self.lacks_outbox = False

    def status(self) -> dict[str, Any]:
        status = {"sender": self.incarnation, **self.engine.status()}
        if self.lacks_outbox:
            status["outbox"] = {"path": os.fspath(self._outbox_path or ""), "problem": self._outbox_problem}
        return status

    def retire(self) -> None:
        """Its Sender is gone without ``close()``: end it once what was asked of it has ended. Waits for nothing."""
        if self.is_ours and not sys.is_finalizing():
            self.engine.retire()
            if self._plain is not None:
                self._plain.retire()

    def end(self, on_ended: Callable[[], None]) -> None:
        """Fail what is unfinished and close the connections; *on_ended* follows in the loop's thread."""
        if self._plain is not None:
            self._plain.close()
        self.engine.close(on_ended)

    def close(self) -> None:
        """Ends everything; waits for that, but not for long."""
        closed = threading.Event()
        self.end(closed.set)
        if not self.engine.can_wait_here() or sys.is_finalizing():  # nothing would end the waiting
            return
        closed.wait(self.close_limit_s)

    @property
    def close_limit_s(self) -> float:
        """How long the end is waited for; for the disk a little longer."""
        return _CLOSE_S if self._outbox_path is None else _STORE_S


_session_lock = threading.RLock()
"""Guards the beginning and the end of every Sender's session in this process. One for all, so that a fork can renew it;
reentrant, since a signal handler or a ``__del__`` may interrupt its holder."""


class SessionOwner:
    """What a Sender is made of: its configuration, and the session of this process. For any thread."""

    def __init__(
        self,
        config: Configuration,
        keyring: Keyring,
        outbox_path: str | os.PathLike[str] | None,
        connect: Connect,
        loop_of_process: Callable[[], SharedLoop],
    ):
        self._config = config
        self._keyring = keyring
        self._outbox_path = outbox_path
        self._connect = connect
        self._loop_of_process = loop_of_process
        self._session: SenderSession | None = None
        self._form: Callable[..., PendingRequest] = PendingRequest
        """What its requests are made of."""
        self._inherited: list[SenderSession] = []

    def __del__(self) -> None:
        session = getattr(self, "_session", None)  # there is none if __init__() raised
        if session is not None:
            session.retire()

    def _current(self) -> SenderSession:
        session = self._session
        if session is not None and session.mark[0]:
            return session
        return self._begin()

    def _begin(self) -> SenderSession:
        forks.notice()
        with _session_lock:
            if self._session is not None and not self._session.is_ours:
                # The parent's connections: forgotten, never closed, since their sockets are shared with the parent.
                self._inherited.append(self._session)
                self._session = None
            if self._session is None:
                session = SenderSession(
                    self._config, self._keyring, self._outbox_path, self._connect, self._loop_of_process()
                )
                if self._session is None:
                    self._session = session
                else:  # a signal handler interrupted us, and has begun one
                    session.close()
            return self._session

    def _end(self) -> SenderSession | None:
        """This process's session, which is to be closed, if there is one. The next call begins another."""
        with _session_lock:
            session, self._session = self._session, None
        return session if session is not None and session.is_ours else None


def _renew_lock_in_child() -> None:
    global _session_lock
    _session_lock = threading.RLock()  # another thread may have held it at the moment of the fork


forks.after_in_child(_renew_lock_in_child)


def submit(session: SenderSession, request: PendingRequest) -> Future[Any]:
    """Submit *request*; its future, by which it can be awaited and cancelled."""
    future = request.future()
    future.on_cancel, future.on_wait = session.give_up, session.await_end
    session.engine.submit(request)
    return future
