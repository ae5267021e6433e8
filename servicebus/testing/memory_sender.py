"""The Senders of a bus in memory, which record what they ask."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from servicebus._context import decode_context
from servicebus._nested_sender import NestedSender
from servicebus.client.request import PendingRequest
from servicebus.client.session import SenderSession
from servicebus.middleware import MiddlewareSender
from servicebus.sender import Sender
from servicebus.testing.clock import VirtualTime
from servicebus.testing.history import What
from servicebus.transport.interface import Connect
from servicebus.transport.sharedloop import SharedLoop
from servicebus.wire.envelope import CALL, CONTROL

__all__ = ["RecordingNestedSender", "RecordingSender"]


class _Recording(Sender):
    """A Sender on brokers in memory."""

    _record: Callable[..., None]
    _must_be_open: Callable[[], None]
    _calling: set[int]
    settle: Callable[[], None]
    is_main = False
    """Whether its event ids are in the history."""

    def attach(
        self,
        record: Callable[..., None],
        must_be_open: Callable[[], None],
        connect: Connect,
        loop: SharedLoop,
        settle: Callable[[], None],
        calling: set[int],
    ) -> None:
        """*record* as ``MemoryBus.record()``; *must_be_open* raises if the bus is not open; *settle* lets it rest;
        *calling* are the threads in ``call()``."""
        self._record, self._must_be_open, self.settle, self._calling = record, must_be_open, settle, calling
        self._connect, self._loop_of_process = connect, lambda: loop

    def call(self, *what: Any, **how: Any) -> Any:
        me = threading.get_ident()
        is_outermost = me not in self._calling  # a middleware may call, too
        self._calling.add(me)
        try:
            return super().call(*what, **how)
        finally:
            if is_outermost:
                self._calling.discard(me)

    def is_asked(self) -> bool:
        """Whether a request is under way."""
        if self._session is None:
            return False
        engine = self._session.engine
        status = engine.status()
        has_plain = self._session.has_plain_unfinished
        return bool(status["travelling"] or status["waiting"] or len(engine.discoveries) or has_plain)

    def broker_of(self, id: str) -> str | None:
        """Over which a request travels, in the thread that turns the loops."""
        request = None if self._session is None else self._session.engine._pending.find(id)
        return None if request is None or request.link is None else request.link.host.name

    def end(self, clock: VirtualTime) -> None:
        """Close it, in the thread that turns the loops."""
        session, self._session = self._session, None
        if session is not None:
            closed = threading.Event()
            session.end(closed.set)
            clock.until(closed.is_set)

    def _current(self) -> SenderSession:
        self._must_be_open()
        return super()._current()

    def _make(self, *what: Any, **how: Any) -> tuple[SenderSession, PendingRequest]:
        session, request = super()._make(*what, **how)
        if request.kind is not CONTROL:
            target = request.address.service
            event_id = request.event_id if self.is_main else 0
            what_happened: What = "called" if request.kind is CALL else "sent"
            context = decode_context(request.context) if request.context else {}
            self._record(what_happened, request.id, target, event_id=event_id, context=context)
        return session, request


class RecordingNestedSender(_Recording, NestedSender):
    """What the services of the bus call by."""


class RecordingSender(_Recording, MiddlewareSender):
    """A Sender of the test."""

    def call_async(self, *what: Any, **how: Any) -> Future[Any]:
        future = super().call_async(*what, **how)
        self.settle()
        return future

    def send(self, *what: Any, **how: Any) -> Any:
        receipt = super().send(*what, **how)
        self.settle()
        return receipt

    def send_async(self, *what: Any, **how: Any) -> Future[Any]:
        future = super().send_async(*what, **how)
        self.settle()
        return future

    def publish(self, *what: Any, **how: Any) -> Any:
        receipt = super().publish(*what, **how)
        self.settle()
        return receipt

    def publish_async(self, *what: Any, **how: Any) -> Future[Any]:
        future = super().publish_async(*what, **how)
        self.settle()
        return future
