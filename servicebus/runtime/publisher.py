"""Publisher: what a worker publishes on one broker: replies at once, copies of messages confirmed first."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable

from servicebus.configuration import Configuration
from servicebus.errors import TransportError
from servicebus.runtime.copies import Copy, dead_letter, delayed
from servicebus.runtime.job import Claim, Settlement
from servicebus.transport.confirms import Unconfirmed
from servicebus.transport.failurelog import FailureLog
from servicebus.transport.interface import BrokerChannel, BrokerConnection, Returned

LOG = logging.getLogger(__name__)

_REFUSED = (
    "the broker refuses to store copies of messages there (nack): is the queue full (max-length, reject-publish)? "
    "Empty it, or raise its limit"
)


class Publisher:
    """Belongs to the I/O thread, and to one generation of a consumer's connections."""

    def __init__(
        self,
        config: Configuration,
        host_name: str,
        counters: Counter[str],
        failures: FailureLog,
        on_broken: Callable[[TransportError], None],
    ):
        self._config = config
        self._host_name = host_name
        self._counters = counters
        self._failures = failures
        self._on_broken = on_broken
        self._replies: BrokerChannel | None = None
        self._stored: BrokerChannel | None = None
        self._unconfirmed: Unconfirmed[Callable[[str], None]] = Unconfirmed()

    def open(self, connection: BrokerConnection, on_ready: Callable[[], None]) -> None:
        def stored_open(channel: BrokerChannel) -> None:
            self._stored = channel
            connection.open_channel(replies_open, self._on_broken)

        def replies_open(channel: BrokerChannel) -> None:
            self._replies = channel
            on_ready()

        connection.open_channel(
            stored_open, self._on_broken, on_returned=self._stored_returned, on_confirmed=self._confirmed
        )

    @property
    def unconfirmed(self) -> int:
        return len(self._unconfirmed)

    def reply(self, claim: Claim, body: bytes) -> None:
        if self._replies is None or not claim.reply_to:
            self._counters["replies.nowhere"] += not claim.reply_to
            return
        # Not mandatory: RabbitMQ 3.10 returns every mandatory message to a direct reply-to address, also those that it
        # delivered. A caller that is gone costs a dropped reply.
        self._replies.publish("", claim.reply_to, body, correlation_id=claim.delivery.correlation_id, mandatory=False)

    def echo(self, queue: str, body: bytes) -> None:
        if self._replies is not None:
            self._replies.publish("", queue, body, mandatory=False)

    def copy(self, claim: Claim, settlement: Settlement) -> Copy:
        """The copy that *settlement* asks for, of the delivery of *claim*."""
        node, given, now = self._config.node_name, claim.delivery.headers, time.time()
        if settlement.burial is not None:
            return dead_letter(node, given, settlement.burial, self._host_name, now)
        assert settlement.postponement is not None
        return delayed(node, given, settlement.postponement, now)

    def store(self, claim: Claim, copy: Copy, on_answered: Callable[[str], None]) -> None:
        """Publish *copy*; ``on_answered(refused)`` once the broker has it (""), or why it has refused it."""
        if self._stored is None:
            return  # the connection is going down: the broker has the original still
        number = self._stored.publish(
            "",
            copy.queue,
            claim.delivery.body,
            message_id=claim.delivery.message_id,
            persistent=True,
            headers=copy.headers,
        )
        if number:
            self._unconfirmed.add(number, on_answered)

    def _confirmed(self, number: int, multiple: bool, is_ack: bool) -> None:
        for on_answered in self._unconfirmed.settled(number, multiple):
            try:
                on_answered("" if is_ack else _REFUSED)
            except Exception as error:
                self._failures.report("the confirm of a copy", error)

    def _stored_returned(self, returned: Returned) -> None:
        # Its confirm would follow and the original be acked: break the connection first, the broker redelivers.
        LOG.error("%s: queue %s is gone (%s); reconnecting", self._host_name, returned.routing_key, returned.reason)
        self._unconfirmed.clear()
        self._on_broken(TransportError(f"queue {returned.routing_key} is gone"))
