"""Publisher: what a worker publishes on one broker: replies at once, dead letters and put-asides confirmed first."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from servicebus.configuration import Configuration
from servicebus.errors import TransportError
from servicebus.runtime.job import Burial, Claim
from servicebus.runtime.topology import ASIDE_S
from servicebus.transport.confirms import Unconfirmed
from servicebus.transport.interface import BrokerChannel, BrokerConnection, Returned
from servicebus.wire.address import dead_queue, delay_queue

LOG = logging.getLogger(__name__)

_DETAIL_CHARS = 1000
_TRACE_CHARS = 8000


class Publisher:
    """Belongs to the I/O thread, and to one generation of a consumer's connections."""

    def __init__(
        self, config: Configuration, host_name: str, counters: Counter[str], on_broken: Callable[[TransportError], None]
    ):
        self._config = config
        self._host_name = host_name
        self._counters = counters
        self._on_broken = on_broken
        self._replies: BrokerChannel | None = None
        self._stored: BrokerChannel | None = None
        self._unconfirmed: Unconfirmed[Callable[[bool], None]] = Unconfirmed()

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

    def bury(self, claim: Claim, burial: Burial, on_stored: Callable[[bool], None]) -> None:
        """Write a message to the node's dead letters, with the reason; ``on_stored(ok)`` once the broker has it."""
        self._counters["dead"] += 1
        headers = {
            **_headers_of(claim),
            "x-servicebus-reason": burial.reason,
            "x-servicebus-detail": burial.detail[:_DETAIL_CHARS],
            "x-servicebus-trace": burial.trace[-_TRACE_CHARS:],
            "x-servicebus-host": self._host_name,
            "x-servicebus-time": int(time.time()),
        }
        self._store(dead_queue(self._config.node_name), claim, headers, on_stored)

    def put_aside(self, claim: Claim, on_stored: Callable[[bool], None]) -> None:
        """Let a message wait in the shortest delay queue; it is no attempt."""
        self._counters["aside"] += 1
        self._store(delay_queue(self._config.node_name, ASIDE_S), claim, _headers_of(claim), on_stored)

    def _store(self, queue: str, claim: Claim, headers: Mapping[str, Any], on_stored: Callable[[bool], None]) -> None:
        if self._stored is None:
            return  # the connection is going down: the broker has the original still
        number = self._stored.publish(
            "", queue, claim.delivery.body, message_id=claim.delivery.message_id, persistent=True, headers=headers
        )
        if number:
            self._unconfirmed.add(number, on_stored)

    def _confirmed(self, number: int, multiple: bool, is_ack: bool) -> None:
        for on_stored in self._unconfirmed.settled(number, multiple):
            on_stored(is_ack)

    def _stored_returned(self, returned: Returned) -> None:
        # Its confirm would follow and the original be acked: break the connection first, the broker redelivers.
        LOG.error("%s: queue %s is gone (%s); reconnecting", self._host_name, returned.routing_key, returned.reason)
        self._unconfirmed.clear()
        self._on_broken(TransportError(f"queue {returned.routing_key} is gone"))


def _headers_of(claim: Claim) -> dict[str, Any]:
    """The headers that a stored copy keeps. The broker's own x-death would be refused when published."""
    headers = claim.delivery.headers or {}
    return {name: value for name, value in headers.items() if not name.startswith("x-") or "servicebus" in name}
