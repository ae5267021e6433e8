"""NestedSender: the Sender that services get from their agent."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from servicebus.client.event_outbox import has_left, open_event_outbox
from servicebus.client.future import Receipt
from servicebus.client.request import PendingRequest
from servicebus.client.session import SenderSession, submit
from servicebus.configuration import Configuration
from servicebus.errors import CallError, CallTimeout, JournalUnavailable, OutboxUnavailable
from servicebus.middleware import Middleware, MiddlewareSender
from servicebus.runtime.state_folder import MEMORY, beside_journal
from servicebus.services import current_request
from servicebus.transport.loggers import get_logger
from servicebus.wire.address import Address
from servicebus.wire.events import EventName, published_id

LOG = get_logger(__name__)

__all__ = ["NestedSender", "outbox_beside_journal"]


class NestedSender(MiddlewareSender):
    """What ``request.get_sender()`` returns: one Sender for all services of a worker.

    A call that a service makes while it serves a call ends with that at the latest: its result would be of no use. What
    a service publishes is kept until it has succeeded, then stored in the outbox of the worker, and published from
    there. So it is published if, and only if, the request is over; and as the ids follow from that of the request, a
    request that runs again after its worker was killed publishes nothing twice.

    Args:
        keeps_events: in the outbox of this worker, which is beside the journal. Without it, or if the journal is in
            memory, a service has succeeded when a broker has confirmed what it has published.
    """

    def __init__(
        self, configuration: Configuration, *, middleware: Sequence[Middleware] = (), keeps_events: bool = False
    ):
        super().__init__(configuration, middleware=middleware)
        self._event_outbox = outbox_beside_journal(configuration) if keeps_events else None
        self._opening = threading.Lock()
        self._has_outbox = False
        self._take_over()

    def close(self) -> None:
        """Nothing: other services use it too. It ends with the worker."""

    def outbox_messages(self) -> int:
        """How many events wait in the outbox of this worker; opens nothing."""
        session = self._session
        outbox = session.status()["outbox"] if session is not None and session.is_ours else None
        return int((outbox or {}).get("messages", 0))

    def _take_over(self) -> None:
        """Publish what workers that have ended have left."""
        if self._event_outbox is not None and has_left(self._event_outbox):
            try:
                self._open_outbox(self._current(), self._event_outbox)
            except OutboxUnavailable as error:
                LOG.error("what services have published is not: %s", error)

    def commit(self, events: Sequence[PendingRequest]) -> list[Future[Any]]:
        """The service has succeeded that has published *events*. They are safe when all the futures have ended.

        Raises:
            OutboxUnavailable: they cannot be stored.
        """
        session = self._current()
        if self._event_outbox is None:
            for request in events:
                request.deadline = time.monotonic() + request.ttl_ms / 1000  # not from when the service began
            return [submit(session, request) for request in events]
        self._open_outbox(session, self._event_outbox)
        futures = [request.future() for request in events]
        for future in futures:
            future.on_wait = session.await_end
        session.engine.keep(events)
        return list(futures)

    def _open_outbox(self, session: SenderSession, base: str) -> None:
        with self._opening:
            if not self._has_outbox:
                limits = self._config.outbox_max_messages, self._config.outbox_max_bytes
                session.engine.use_outbox(open_event_outbox(base, *limits), for_events=True)
                self._has_outbox = True

    def _make_event(self, event: str, *how: Any) -> tuple[SenderSession, PendingRequest]:
        serving = current_request()
        if serving is None or serving._fate is None or serving._is_over:
            return super()._make_event(event, *how)
        wire_id = published_id(serving._fate.run_id, len(serving._published) + 1)
        what: tuple[Any, ...] = (*how, wire_id)
        return self._make_stored(EventName.parse(event), *what)

    def _collected(self, request: PendingRequest) -> Receipt | None:
        serving = current_request()
        if serving is None or serving._fate is None or serving._is_over:
            return None
        serving._published = [*serving._published, request]
        return Receipt(request.event_id)

    def _limit_s(self) -> float | None:
        request = current_request()
        return None if request is None else request.remaining

    def _parse(self, target: str, timeout: float | None) -> tuple[Address, float]:
        address, timeout_s = super()._parse(target, timeout)
        remaining_s = self._limit_s()
        if remaining_s is None:
            return address, timeout_s
        if remaining_s <= 0:
            why = CallError(str(address), "not sent: the deadline of the request that is being served has passed")
            raise CallTimeout(str(address), 0.0) from why
        return address, min(timeout_s, remaining_s)


def outbox_beside_journal(config: Configuration) -> str | None:
    """Where the workers of a node keep what its services publish: beside the journal; None if that is in memory."""
    if config.journal is not None and config.journal.reveal() == MEMORY:
        return None
    try:
        return str(beside_journal(config, "events"))
    except JournalUnavailable as error:
        LOG.warning("what services publish is not kept on disk: %s", error)
        return None
