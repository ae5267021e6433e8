"""Bridge: moves what comes into a queue of one broker to an exchange of another, or of the same.

Theory of operation. A message is published to the target with all that its publisher wrote, and acknowledged at the
source when the target has confirmed it. So whatever is killed, and whenever, it is at one of the two, or at both: then
it was published a second time, under the same ``message_id``. What the target refuses stays unacknowledged at the
source and is published again, after pauses that grow, so one that is never taken does not hold up the others; with
``dead_letters`` it goes to that queue of the source broker after the last pause, and what is too large or cannot be
read goes there at once.

Both connections belong to the thread of one loop. When either of them is lost, the channel that consumes is closed: the
broker has what is unacknowledged again, and gives it out when both are up. What was confirmed meanwhile is known by its
``message_id`` and not published again.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from functools import partial

from servicebus.configuration import BridgeEntry, BrokerHost, Configuration
from servicebus.errors import TransportError
from servicebus.operations.bridge_end import BridgeEnd
from servicebus.policy.retry_schedule import next_delay
from servicebus.policy.size_limit import SizeLimit
from servicebus.transport.amqp import AmqpConnection
from servicebus.transport.confirmed_channel import ConfirmedChannel, Publish
from servicebus.transport.interface import BrokerChannel, Connect, Delivery, Script
from servicebus.transport.loggers import get_logger
from servicebus.transport.loop import EventLoop
from servicebus.transport.plain_script import plain_script
from servicebus.transport.properties import as_dead_letter, as_republished, reasons, write_all
from servicebus.transport.ratelimitedlog import RateLimitedLog
from servicebus.transport.steps import declare_queue
from servicebus.wire.printable import counted

LOG = get_logger(__name__)

__all__ = ["Bridge"]

_ACKS_AT_ONCE = 64
_LONGEST_PAUSE_S = 60.0
_AGAIN_S = 1.0
"""After the channel that consumes was refused."""


class Bridge:
    """One entry of ``bridges:``. Belongs to the loop's thread, but for ``counters``.

    Args:
        connect: makes the connections.
    """

    def __init__(self, loop: EventLoop, config: Configuration, entry: BridgeEntry, connect: Connect = AmqpConnection):
        self.counters: Counter[str] = Counter()
        """``moved``, ``refused``, ``doubles`` and ``dead``."""
        self._loop, self._entry = loop, entry
        hosts = {host.name: host for host in (*config.hosts, *config.connections)}
        self._log = RateLimitedLog(LOG, repr(self), period_s=60.0, burst=1)
        self._source = self._end(config, hosts[entry.queue.host], "consumes", connect)
        self._target = self._end(config, hosts[entry.target.host], "publishes", connect)
        self._channel: BrokerChannel | None = None
        self._publishes: ConfirmedChannel | None = None
        self._dead: ConfirmedChannel | None = None
        self._tag = ""
        self._epoch = 0
        """Of the channel that consumes: answers to what an earlier one delivered come too late."""
        self._known: OrderedDict[str, None] = OrderedDict()
        """Message ids that the target has confirmed lately."""
        self._under_way: set[str] = set()
        self.unsettled = 0
        """Deliveries that are not acknowledged."""
        self._is_stopping = False

    def __repr__(self) -> str:
        entry = self._entry
        to = f"{entry.target.exchange or 'the default exchange'} on {entry.target.host}"
        return f"bridge from {entry.queue.queue} on {entry.queue.host} to {to}"

    @property
    def is_up(self) -> bool:
        return self._channel is not None

    @property
    def is_gone(self) -> bool:
        return self._source.connections.is_gone and self._target.connections.is_gone

    def start(self) -> None:
        now = time.monotonic()
        self._source.connections.connect(now)
        self._target.connections.connect(now)

    def stop(self) -> None:
        """Take no more; what is under way goes on."""
        self._is_stopping = True
        if self._channel is not None and self._tag:
            self._channel.cancel(self._tag)

    def close(self) -> None:
        self._is_stopping = True
        self._epoch += 1  # what the channels report from here on is what we asked for
        self._source.connections.close()
        self._target.connections.close()

    # -- connections ---------------------------------------------------------------------------------------------------

    def _end(self, config: Configuration, host: BrokerHost, purpose: str, connect: Connect) -> BridgeEnd:
        label = f"servicebus bridge {self._entry.queue.queue} {purpose}"
        return BridgeEnd(self._loop, config, host, label, self._ends_changed, self._end_lost, connect)

    def _ends_changed(self) -> None:
        """Consume, as soon as both ends are up."""
        source, target = self._source, self._target
        if not (source.is_open and target.is_open) or self._channel is not None or self._is_stopping:
            return
        self._publishes = self._confirming(target)
        self._dead = self._confirming(source) if self._entry.dead_letters else None
        then = self._consume if self._dead is None else partial(self._dead.open, self._declare_dead)
        self._publishes.open(then)

    def _confirming(self, end: BridgeEnd) -> ConfirmedChannel:
        failures, limit = self._loop.failures, SizeLimit()
        return ConfirmedChannel(end.connection, end.host.name, limit, failures, None, end.broken(), has_exchanges=True)

    def _declare_dead(self) -> None:
        def declare() -> Script:
            yield declare_queue(self._entry.dead_letters, durable=True)
            self._consume()

        epoch = self._epoch
        broken = partial(self._refused_in, epoch)
        self._source.connection.open_channel(lambda channel: channel.run(declare()), broken)

    def _consume(self) -> None:
        if self._is_stopping or self._channel is not None:
            return
        self._epoch += 1
        epoch, entry, self._tag = self._epoch, self._entry, ""
        take = partial(self._take, epoch)

        def opened(channel: BrokerChannel) -> None:
            self._channel = channel
            channel.save_acks(_ACKS_AT_ONCE)
            channel.run(plain_script(entry.queue, entry.queue.prefetch or 1000, take, self._keep), self._consuming)

        self._source.connection.open_channel(opened, partial(self._refused_in, epoch))

    def _keep(self, tag: str) -> None:
        self._tag = tag

    def _consuming(self) -> None:
        LOG.info("%s: running", self)

    def _refused_in(self, epoch: int, error: TransportError) -> None:
        """The source broker has closed the channel: there is no such queue, say."""
        if epoch != self._epoch:
            return
        self._let_go()
        self._log.log(logging.WARNING, f"waits: {getattr(error, 'reason', error)}", "source")
        self._loop.call_later(_AGAIN_S, self._ends_changed)

    def _end_lost(self, text: str) -> None:
        """What is unacknowledged comes again."""
        channel = self._channel
        self._let_go()
        if channel is not None and self._source.is_open:
            channel.close()
        if not self._is_stopping:
            self._log.log(logging.WARNING, f"waits: {text}", text)

    def _let_go(self) -> None:
        self._epoch += 1
        self._channel = None
        for confirmed in (self._publishes, self._dead):
            if confirmed is not None:
                confirmed.close()
        self._publishes = self._dead = None
        self._under_way.clear()
        self.unsettled = 0

    # -- messages ------------------------------------------------------------------------------------------------------

    def _take(self, epoch: int, delivery: Delivery) -> None:
        if epoch != self._epoch:
            return
        self.unsettled += 1
        id = delivery.message_id if self._entry.deduplicate else None
        if id is not None and (id in self._known or id in self._under_way):
            if id in self._known:
                self.counters["doubles"] += 1
                self._ack(delivery)
            else:  # the first one is not confirmed yet: this one is asked about again
                self._later(epoch, 1.0, lambda: self._again(epoch, delivery))
            return
        self._publish(epoch, delivery, 1)

    def _again(self, epoch: int, delivery: Delivery) -> None:
        self.unsettled -= 1
        self._take(epoch, delivery)

    def _publish(self, epoch: int, delivery: Delivery, attempt: int) -> None:
        origin, target, publishes = delivery.origin, self._entry.target, self._publishes
        if publishes is None or origin is None:
            return
        if delivery.flaw is not None:
            self._give_up(epoch, delivery, f"{delivery.flaw.reason}: {delivery.flaw.detail}")
            return
        id = delivery.message_id
        if id is not None and self._entry.deduplicate:
            self._under_way.add(id)
        properties = as_republished(origin.flags, origin.properties)
        key = origin.routing_key if self._entry.keeps_key else target.routing_key
        told = partial(self._told, epoch, delivery, attempt)
        about = {"mandatory": target.mandatory, "properties": properties}
        publishes.publish(Publish(key, delivery.body, told, about, target.exchange))

    def _told(self, epoch: int, delivery: Delivery, attempt: int, refused: str) -> None:
        id = delivery.message_id if self._entry.deduplicate else None
        if id is not None and not refused:
            self._known[id] = None
            if len(self._known) > self._entry.remembers:
                self._known.popitem(last=False)
        if epoch != self._epoch:
            return
        if id is not None:
            self._under_way.discard(id)
        if not refused:
            self.counters["moved"] += 1
            self._ack(delivery)
            return
        self.counters["refused"] += 1
        delay_s = next_delay(self._entry.retry, attempt)
        if delay_s is None and (self._entry.dead_letters or not self._entry.retry):
            self._give_up(epoch, delivery, refused)
            return
        self._log.log(logging.WARNING, f"the target refuses a message: {refused}; tried again", refused)
        pause_s = min(_LONGEST_PAUSE_S, delay_s if delay_s is not None else _LONGEST_PAUSE_S)
        self._later(epoch, pause_s, lambda: self._publish(epoch, delivery, attempt + 1))

    def _give_up(self, epoch: int, delivery: Delivery, why: str) -> None:
        """To the dead letters of the source broker, if there are any; else it stays there, unacknowledged."""
        dead, origin = self._dead, delivery.origin
        if dead is None or origin is None:
            self._log.log(logging.ERROR, f"a message is not moved, and stays where it is: {why}", why)
            return

        def stored(refused: str) -> None:
            if epoch != self._epoch:
                return
            if refused:
                self._log.log(logging.ERROR, f"a dead letter is not stored: {refused}; tried again", refused)
                self._later(epoch, _LONGEST_PAUSE_S, lambda: self._give_up(epoch, delivery, why))
            else:
                self.counters["dead"] += 1
                self._log.log(logging.WARNING, f"a message is now in {self._entry.dead_letters}: {why}", why)
                self._ack(delivery)

        properties = as_dead_letter(origin, why) if delivery.flaw is None else write_all(reasons(origin, why))
        dead.publish(Publish(self._entry.dead_letters, delivery.body, stored, {"properties": properties}))

    def _ack(self, delivery: Delivery) -> None:
        self.unsettled -= 1
        delivery.channel.ack(delivery.tag)

    def _later(self, epoch: int, delay_s: float, do: Callable[[], None]) -> None:
        self._loop.call_later(delay_s, lambda: do() if epoch == self._epoch else None)

    def summary(self) -> str:
        counts = self.counters
        return (
            f"{counted(counts['moved'], 'message')} moved, {counts['doubles']} doubles, {counts['dead']} dead letters"
        )
