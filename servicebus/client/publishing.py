"""EventPublisher: the part of a Sender that publishes events."""

from __future__ import annotations

import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from servicebus._context import GivenContext, with_priority
from servicebus._durations import to_seconds
from servicebus.client.future import Receipt
from servicebus.client.request import PendingRequest
from servicebus.client.session import SenderSession, SessionOwner, message_options, submit
from servicebus.wire.address import Address
from servicebus.wire.envelope import MESSAGE
from servicebus.wire.events import EventName

__all__ = ["EventPublisher"]


class EventPublisher(SessionOwner):
    """Base of Sender. For any thread."""

    if TYPE_CHECKING:

        def _make(self, address: Address, *what: Any, **how: Any) -> tuple[SenderSession, PendingRequest]: ...

    def publish(
        self,
        event: str,
        params: Any = None,
        timeout: float | None = None,
        *,
        delay: float | None = None,
        expires: float | None = None,
        contract: str = "",
        context: GivenContext = None,
        priority: int | None = None,
    ) -> Receipt:
        """Publish an event; returns once a broker has stored it for every subscription that it knows.

        Each service that has subscribed gets it once in effect. Subscriptions are durable: one whose node is away gets
        it later, one that is made later does not get it. That nobody subscribes is no error; the Receipt says so.

        Within a service, by the Sender of its request, it is published only when the service has succeeded.

        Args:
            event: its name, words joined by dots, at most 200 bytes: ``orders.created``.
            params: anything JSON can say.
            timeout: seconds until it must be confirmed, ``send_timeout`` (30) by default.
            delay: seconds from now before which no service gets it; less than ``token_max_age``. None for at once.
            expires: seconds from now after which it is not worth handing to a broker any more; ``token_max_age`` by
                default, and at most.
            contract: the hash of the contract that this program was built against, if it knows one.
            context, priority: as of ``call()``.

        Returns:
            Its event id, an int that says where it is: ``confirmed_by``, ``subscribers`` and ``in_outbox``.

        Raises:
            AddressError, EnvelopeError: nothing was published.
            NoBrokerAvailable: without an outbox; it is not stored.
            OutboxFull, OutboxUnavailable: with an outbox; it is not stored.
            SendRefused: a broker refused it, as a queue of a subscription is full for example. Other subscriptions may
                have it.
            SendUnconfirmed: no broker confirmed it in time; whether it is stored is unknown.
        """
        context = with_priority(context, priority)
        session, request = self._make_event(event, params, timeout, delay, expires, contract, context)
        return self._collected(request) or session.engine.ask(request)

    def publish_async(
        self,
        event: str,
        params: Any = None,
        timeout: float | None = None,
        *,
        delay: float | None = None,
        expires: float | None = None,
        contract: str = "",
        context: GivenContext = None,
        priority: int | None = None,
    ) -> Future[Any]:
        """The same without waiting: a Future of the Receipt."""
        context = with_priority(context, priority)
        session, request = self._make_event(event, params, timeout, delay, expires, contract, context)
        receipt = self._collected(request)
        if receipt is None:
            return submit(session, request)
        future: Future[Any] = Future()
        future.set_result(receipt)
        return future

    def _collected(self, request: PendingRequest) -> Receipt | None:
        """The result for an event that waits for the success of the service that publishes it; None for others."""
        return None

    def _make_event(self, event: str, *how: Any) -> tuple[SenderSession, PendingRequest]:
        return self._make_stored(EventName.parse(event), *how)

    def _make_stored(
        self,
        address: Address,
        params: Any,
        timeout: float | None,
        delay: float | None,
        expires: float | None,
        contract: str,
        context: GivenContext,
        wire_id: str = "",
    ) -> tuple[SenderSession, PendingRequest]:
        """A message or an event; with *wire_id* one that is kept until its service has succeeded."""
        limit_s = self._config.send_timeout if timeout is None else to_seconds("timeout", timeout)
        delay_s = 0.0 if delay is None else to_seconds("delay", delay)
        if not delay_s and expires is None and self._outbox_path is None and not wire_id:
            return self._make(address, MESSAGE, params, limit_s, contract=contract, context=context)
        options = message_options(delay_s, expires, self._config.token_max_age, time.time())
        self._current().need_outbox()
        if expires is not None:
            limit_s = min(limit_s, expires)
        how: dict[str, Any] = {"context": context, "options": options, "wire_id": wire_id}
        return self._make(address, MESSAGE, params, limit_s, contract=contract, **how)
