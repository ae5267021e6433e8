"""Publisher: what a worker publishes on one broker: replies at once, copies of messages confirmed first.

Acknowledger: what the worker tells the broker at the end of a delivery: the reply, and then the ack.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from servicebus._plain import is_plain_key
from servicebus.configuration import Configuration
from servicebus.errors import EnvelopeError, TransportError
from servicebus.policy.retry_schedule import tier_for
from servicebus.policy.size_limit import SizeLimit
from servicebus.protocol.held import HeldProtocol
from servicebus.protocol.plain import PlainProtocol
from servicebus.runtime.job import Copy, Disposition, Job, PendingDelivery
from servicebus.runtime.recent_ids import RecentIds
from servicebus.transport.confirmed_channel import ConfirmedChannel, Publish, learn_from
from servicebus.transport.failurelog import FailureLog
from servicebus.transport.headerfit import fitted
from servicebus.transport.interface import BrokerChannel, BrokerConnection, Returned, Script
from servicebus.transport.loggers import get_logger
from servicebus.transport.properties import MOST_OTHER_BYTES, as_stored
from servicebus.transport.ratelimitedlog import RateLimitedLog
from servicebus.transport.steps import set_prefetch
from servicebus.wire import headers
from servicebus.wire.address import dead_queue, delay_queue
from servicebus.wire.envelope import CALL
from servicebus.wire.events import event_queue
from servicebus.wire.fault import fault_from_exception
from servicebus.wire.printable import printable
from servicebus.wire.signing import Keyring
from servicebus.wire.stamps import DeadLetterStamp, WaitStamp, write_dead_letter_stamp, write_wait

LOG = get_logger(__name__)

_DETAIL_CHARS = 1000
_TRACE_CHARS = 8000


class Publisher:
    """Belongs to the I/O thread, and to one epoch of a consumer's connections."""

    def __init__(
        self,
        config: Configuration,
        host_name: str,
        counters: Counter[str],
        failures: FailureLog,
        limit: SizeLimit,
        on_broken: Callable[[TransportError], None],
    ):
        self.address_copy = CopyAddresser(config, host_name).address
        self._host_name = host_name
        self._counters = counters
        self._failures = failures
        self._refused = RateLimitedLog(LOG, host_name)
        self._on_broken = on_broken
        self._limit = limit
        self._replies: BrokerChannel | None = None
        self._confirmed: ConfirmedChannel | None = None

    def open(self, connection: BrokerConnection, on_ready: Callable[[], None]) -> None:
        def replies_open(channel: BrokerChannel) -> None:
            self._replies = channel
            on_ready()

        self._confirmed = ConfirmedChannel(
            connection, self._host_name, self._limit, self._failures, self._queue_is_gone, self._on_broken
        )
        self._confirmed.open(lambda: connection.open_channel(replies_open, self._replies_closed))

    @property
    def unconfirmed(self) -> int:
        return len(self._confirmed) if self._confirmed is not None else 0

    def reply(self, pending: PendingDelivery, body: bytes, job: Job | None = None) -> None:
        """Answer *pending*; with *job*, its caller gets a fault if the broker refuses *body*."""
        if self._replies is None or not pending.reply_to:
            self._counters["replies.nowhere"] += not pending.reply_to
            return
        if pending.delivery.origin is not None:
            if isinstance(pending, Job) and isinstance(pending.protocol, (PlainProtocol, HeldProtocol)):
                pending.protocol.answer(pending.delivery, body, partial(self._reply_answered, pending, body, job))
            return
        if len(body) > self._limit.tracked_bytes and self._confirmed is not None:
            about = {"correlation_id": pending.delivery.correlation_id, "mandatory": False}
            answered = partial(self._reply_answered, pending, body, job)
            self._confirmed.publish(Publish(pending.reply_to, body, answered, about))
            return
        # Not mandatory: RabbitMQ 3.10 returns every mandatory message to a direct reply-to address, also those that it
        # delivered. A caller that is gone costs a dropped reply.
        self._replies.publish(
            "", pending.reply_to, body, correlation_id=pending.delivery.correlation_id, mandatory=False
        )

    def _reply_answered(self, pending: PendingDelivery, body: bytes, job: Job | None, refused: str) -> None:
        """The broker has a reply that might have been too large for it; or *refused* it: its caller is told so."""
        if not refused:
            return
        self._counters["replies.refused"] += 1
        self._refused.warning(f"a reply was refused by the broker: {refused}")
        if job is not None:
            fault = fault_from_exception(EnvelopeError("oversized", f"the result: {refused}"), with_trace=False)
            instead = job.protocol.encode_fault(job.incoming, fault)
            if instead is not None and len(instead) < len(body):
                self.reply(pending, instead)

    def items(self, pending: PendingDelivery, id: str, body: bytes, on_answered: Callable[[str], None]) -> bool:
        """Answer *pending* by a chunk of a stream, under the correlation *id*.

        True: it may be too large for the broker; ``on_answered("")`` follows, or the reason of its refusal, and nothing
        else of the stream may be published before.
        """
        if self._replies is None or not pending.reply_to:
            return False
        about = {"correlation_id": id, "mandatory": False}
        if len(body) <= self._limit.tracked_bytes or self._confirmed is None:
            self._replies.publish("", pending.reply_to, body, correlation_id=id, mandatory=False)
            return False
        self._confirmed.publish(Publish(pending.reply_to, body, on_answered, about))
        return True

    def when_routed(self, callback: Callable[[], None]) -> None:
        """Call *callback* once the broker has routed the replies that it was handed; never if they are lost."""

        def question() -> Script:
            yield set_prefetch(0)  # a channel is served in order, so the answer comes after all that

        if self._replies is not None and self._replies.is_open:
            self._replies.run(question(), callback)

    def _replies_closed(self, error: TransportError) -> None:
        learn_from(self._limit, error)
        self._on_broken(error)

    def echo(self, queue: str, body: bytes) -> None:
        if self._replies is not None:
            self._replies.publish("", queue, body, mandatory=False)

    def store(
        self,
        original: PendingDelivery,
        queue: str,
        copy_headers: Mapping[str, Any],
        on_answered: Callable[[str], None],
    ) -> None:
        """Publish a copy of *original*; ``on_answered("")`` once the broker has it, or with why it has refused it."""
        if self._confirmed is not None:
            self._confirmed.publish(
                Publish(queue, original.delivery.body, on_answered, self._properties(original, copy_headers))
            )

    def _properties(self, original: PendingDelivery, copy_headers: Mapping[str, Any]) -> Mapping[str, Any]:
        origin = original.delivery.origin
        if isinstance(original, Job) and original.incoming.kind is CALL and original.plain is None:
            return _passed_on(original, copy_headers)
        if origin is None or not is_plain_key(original.subscription):
            return {"message_id": original.delivery.message_id, "persistent": True, "headers": copy_headers}
        assert self._replies is not None
        return {"properties": as_stored(origin, fitted(copy_headers, self._replies.frame_max - MOST_OTHER_BYTES))}

    def _queue_is_gone(self, returned: Returned) -> None:
        # Its confirm would follow and the original be acked: break the connection first, the broker redelivers.
        queue, why = printable(returned.routing_key), printable(returned.reason)
        LOG.error("%s: queue %s is gone (%s); reconnecting", self._host_name, queue, why)
        assert self._confirmed is not None
        self._confirmed.forget()
        self._on_broken(TransportError(f"queue {queue} is gone"))


class Acknowledger:
    """Does what was decided about deliveries: answers, has copies stored, and acknowledges. The I/O thread's.

    Args:
        store: called with what ends as a copy.
        refused_calls: noted here are the calls that are answered and were not run.
    """

    def __init__(self, store: Callable[[Disposition], None], failures: FailureLog, refused_calls: RecentIds):
        self.epoch: int | None = None
        self.publisher: Publisher | None = None
        self._store = store
        self._failures = failures
        self._refused_calls = refused_calls

    def __repr__(self) -> str:
        return f"<Acknowledger epoch={self.epoch}>"

    def begin(self, epoch: int, publisher: Publisher) -> None:
        """A new pair of connections: deliveries of *epoch* are settled from here on, over *publisher*."""
        self.epoch, self.publisher = epoch, publisher

    def end(self) -> None:
        """The connections are gone: nothing can be settled until the next ones."""
        self.epoch = self.publisher = None

    def settle(self, disposition: Disposition) -> bool:
        """Answer, store and ack, as far as the deliveries are of these connections; the others come again.

        False: something was raised. It may be called again, unless a copy is to be stored.
        """
        publisher, epoch, reply = self.publisher, self.epoch, disposition.reply
        if publisher is None:
            return True
        try:
            if disposition.copy is not None:
                self._store(disposition)
                return True
            for pending in disposition.pending:
                if pending.epoch != epoch:
                    continue
                # Reply first: a crash between the two costs a repeat, not an answer.
                if reply is not None:
                    try:
                        publisher.reply(pending, reply, disposition.job)
                    except Exception:  # a service's, which came late: the second try reports what is ours
                        self._reply_again(publisher, pending, reply, disposition.job)
                    if disposition.job is None:  # it was not run: the journal does not know of this answer
                        self._refused_calls.add(pending.run_id)
                pending.delivery.channel.ack(pending.delivery.tag)
        except Exception as error:  # what is to be stored comes again
            self._failures.report("a disposition", error)
            return False
        return True

    def _reply_again(self, publisher: Publisher, pending: PendingDelivery, reply: bytes, job: Job | None) -> None:
        """A late exception, meant for a service, comes once."""
        try:
            publisher.reply(pending, reply, job)
        except Exception as error:  # it cannot be answered, and is done with all the same
            self._failures.report("a reply", error)


class CopyAddresser:
    """Chooses queue and headers for copies of messages: delay queues and dead letters. The body stays as it was sent.

    Args:
        host_name: the broker, for dead letters.
    """

    def __init__(self, config: Configuration, host_name: str):
        self._node = config.node_name
        self._max_age_s = config.token_max_age
        self._host_name = host_name
        self._keyring = Keyring(config.secrets)

    def __repr__(self) -> str:
        return f"<CopyAddresser {self._node}@{self._host_name}>"

    def address(self, original: PendingDelivery, copy: Copy) -> tuple[str, Mapping[str, Any]]:
        """The queue and the headers of *copy*, which is one of *original*."""
        if copy.queue:
            kept = headers.kept_in_copies(original.delivery.headers)
            return copy.queue, {**kept, headers.AGAIN: True} if original.delivery.redelivered else kept
        now = time.time()
        return self._dead_letter(original, copy, now) if copy.reason else self._later_attempt(original, copy, now)

    def _dead_letter(self, original: PendingDelivery, copy: Copy, now: float) -> tuple[str, Mapping[str, Any]]:
        ticket = original.stamps.ticket
        former = ticket.id if ticket is not None else ""
        if isinstance(original, Job) and original.plain is not None:
            former = original.run_id  # two messages of other programs may be the same, byte for byte
        stamp = DeadLetterStamp(
            int(now),
            _first(original, copy.attempts, now),
            copy.attempts,
            int(now + self._max_age_s) if copy.is_known_new else 0,
            former,
        )
        reason = {
            headers.DEAD_LETTER: write_dead_letter_stamp(
                self._keyring, original.delivery.body, copy.reason, stamp, self._queue_of(original)
            ),
            headers.REASON: copy.reason,
            headers.DETAIL: copy.detail[:_DETAIL_CHARS],
            headers.TRACE: copy.trace[-_TRACE_CHARS:],
            headers.HOST: self._host_name,
        }
        return dead_queue(self._node), {**self._kept(original), **reason}

    def _later_attempt(self, original: PendingDelivery, copy: Copy, now: float) -> tuple[str, Mapping[str, Any]]:
        ticket, attempts = original.stamps.ticket, copy.attempts
        stamp = WaitStamp(int((now + copy.delay_s) * 1000), attempts, _first(original, attempts, now))
        kept = self._kept(original)
        if ticket is not None:
            kept[headers.REQUEUED] = ticket.header
        kept[headers.WAIT] = write_wait(self._keyring, original.delivery.body, ticket, stamp, self._queue_of(original))
        return delay_queue(self._node, tier_for(copy.delay_s)), kept

    def _kept(self, original: PendingDelivery) -> dict[str, Any]:
        subscription, given = original.subscription, original.delivery.headers
        if not is_plain_key(subscription):
            kept = headers.as_sent(given)
        else:
            kept, origin = headers.as_published(given), original.delivery.origin
            exchange, key = ("", "") if origin is None else origin[:2]
            if given and headers.SUBSCRIPTION in given:  # it comes from a delay queue
                exchange, key = given.get(headers.EXCHANGE, ""), given.get(headers.ROUTING_KEY, "")
            kept |= {headers.EXCHANGE: exchange, headers.ROUTING_KEY: key}
        if subscription:
            kept[headers.SUBSCRIPTION] = subscription
        return kept

    def _queue_of(self, original: PendingDelivery) -> str:
        """Of the subscription whose event it is; "" for a message."""
        return event_queue(self._node, original.subscription) if original.subscription else ""


def _passed_on(call: Job, copy_headers: Mapping[str, Any]) -> Mapping[str, Any]:
    """The properties of a call that goes on to the worker which runs its service."""
    left_s = 0.0 if call.deadline is None else call.deadline - time.monotonic()
    about = {"correlation_id": call.delivery.correlation_id, "reply_to": call.delivery.reply_to}
    return {**about, "expiration_ms": max(1, int(left_s * 1000)), "headers": copy_headers}


def _first(original: PendingDelivery, attempts: int, now: float) -> int:
    return (original.stamps.wait.first or int(now)) if attempts > 0 else 0
