"""LegacyQueue: the queue by which Senders of py-servicebus 2.x reach this node, for calls, messages and pings alike.

Because pings stand in the same queue, nothing may block it: a call whose service is full waits here, a message is
deferred into the node's own queue of messages, and the window of unacknowledged deliveries is wider than all inboxes
are likely to be.
"""

from __future__ import annotations

from collections import deque

from servicebus.compat.names import PING, PONG, is_own_queue, node_queue
from servicebus.configuration import Configuration
from servicebus.policy.connection import ConnectionState
from servicebus.protocol.interface import RequestRefused
from servicebus.protocol.v1 import EitherProtocol, ProtocolV1
from servicebus.runtime.consumer import NodeConsumer
from servicebus.runtime.job import Disposition, PendingDelivery
from servicebus.runtime.subscriptions import Subscription
from servicebus.runtime.topology import Keep
from servicebus.transport.interface import Delivery, Script
from servicebus.transport.steps import bind_queue, consume, declare_exchange, declare_queue, set_prefetch
from servicebus.wire.envelope import Kind
from servicebus.wire.fault import BUSY, Fault

SUBSCRIPTION = "compat"

_WINDOWS = 4
_MAX_PREFETCH = 65535
_TRY_AGAIN_S = 0.05


def add_legacy_queue(consumer: NodeConsumer, config: Configuration) -> None:
    """Let *consumer* serve Senders of 2.x as well; before its ``start()``."""
    LegacyQueue(consumer, config)


class LegacyQueue:
    """Belongs to the I/O thread."""

    def __init__(self, consumer: NodeConsumer, config: Configuration):
        self._consumer = consumer
        self._config = config
        self._protocol = ProtocolV1(config)
        self._held: deque[tuple[Delivery, int]] = deque()
        self._is_timer_set = False
        consumer.message_protocol = EitherProtocol(consumer.message_protocol, self._protocol)
        consumer.add_subscription(Subscription(SUBSCRIPTION, self._script))

    def __repr__(self) -> str:
        return f"<LegacyQueue node {self._config.node_name} held={len(self._held)}>"

    def _script(self, keep: Keep) -> Script:
        epoch = self._consumer.epoch
        # The very attributes of 2.x: with any other its agents and Senders were refused by the broker (406), or we.
        exchange, queue = self._config.compat_exchange_name, node_queue(self._config.node_name)
        yield declare_exchange(exchange, durable=False)
        yield declare_queue(queue, durable=True)
        yield bind_queue(queue, exchange, queue)
        yield set_prefetch(min(_WINDOWS * self._config.prefetch, _MAX_PREFETCH))
        keep((yield consume(queue, lambda delivery: self._take(delivery, epoch))))

    def _take(self, delivery: Delivery, epoch: int) -> None:
        if self._consumer.state is ConnectionState.DRAINING:
            return  # it stays the broker's, for the worker that serves the node next
        reply_to = delivery.reply_to or ""
        if delivery.body == PING and reply_to:
            self._consumer.pipeline.counters["pings.compat"] += 1
            pending = PendingDelivery(delivery, epoch, reply_to if is_own_queue(reply_to) else "")
            self._consumer.pipeline.settle(Disposition([pending], PONG))
        elif reply_to:
            self._take_call(delivery, epoch)
        else:
            self._consumer.pipeline.take(delivery, epoch, self._protocol, Kind.MESSAGE)

    def _take_call(self, delivery: Delivery, epoch: int) -> None:
        self._consumer.pipeline.take(
            delivery, epoch, self._protocol, Kind.CALL, on_full=lambda: self._hold(delivery, epoch)
        )

    def _hold(self, delivery: Delivery, epoch: int) -> None:
        """Let a call wait for room: a caller of 2.x would take "busy" for its result."""
        if len(self._held) >= self._config.prefetch:
            self._consumer.pipeline.counters[BUSY] += 1
            self._refuse(delivery, epoch)
            return
        self._held.append((delivery, epoch))
        if not self._is_timer_set:
            self._is_timer_set = True
            self._consumer.call_later(_TRY_AGAIN_S, self._try_again)

    def _refuse(self, delivery: Delivery, epoch: int) -> None:
        try:
            incoming = self._protocol.decode_request(delivery)
            reply = self._protocol.encode_fault(incoming, Fault(BUSY, f"the inbox of {incoming.key} is full"))
        except RequestRefused as refused:  # at midnight: its token was good a moment ago
            reply = refused.reply
        pending = PendingDelivery(delivery, epoch, delivery.reply_to or "")
        self._consumer.pipeline.settle(Disposition([pending], reply))

    def _try_again(self) -> None:
        self._is_timer_set = False
        held, self._held = self._held, deque()
        for delivery, epoch in held:
            # What an older connection delivered, the broker delivers again.
            if epoch == self._consumer.epoch:
                self._take(delivery, epoch)
