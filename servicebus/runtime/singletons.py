"""Singletons: which of the node's singleton services this worker runs, and from where it gets their requests.

A worker that runs such a service consumes its queue on every broker, over connections of its own: what others of the
node have passed on, whichever broker it came to. So no caller has to know which worker that is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial

from servicebus.configuration import BrokerHost, Configuration
from servicebus.errors import TransportError
from servicebus.protocol.events import EventProtocol
from servicebus.protocol.held import HeldProtocol
from servicebus.runtime.consumer import NodeConsumer
from servicebus.runtime.control import ControlRequests
from servicebus.runtime.event_queues import queues_of
from servicebus.runtime.extra_host import ExtraConsumer, ExtraHost, Keep
from servicebus.runtime.pipeline import Pipeline
from servicebus.runtime.singleton_thread import SingletonThread
from servicebus.runtime.topology import window
from servicebus.transport.interface import BrokerChannel, Connect, Delivery, Script
from servicebus.transport.loggers import get_logger
from servicebus.transport.loop import EventLoop
from servicebus.transport.ratelimitedlog import RateLimitedLog
from servicebus.transport.steps import bind_queue, consume, declare_queue
from servicebus.transport.stored import StoredQueues
from servicebus.wire.address import cancel_key
from servicebus.wire.envelope import CALL, Kind
from servicebus.wire.headers import AGAIN
from servicebus.wire.signing import Keyring

LOG = get_logger(__name__)

__all__ = ["Singletons"]

_LOOK_S = 0.25
_DECLARE_AGAIN_S = 5.0
_FULL_S = 0.1
_UNUSED_MS = 60_000
"""A queue of calls that no worker of the node declares or consumes any more is deleted."""


class Singletons:
    """Belongs to the I/O thread of one worker; begins and ends with its own connections (``PlainHosts.add()``)."""

    def __init__(
        self,
        loop: EventLoop,
        config: Configuration,
        keyring: Keyring,
        control: ControlRequests,
        pipeline: Pipeline,
        consumer: NodeConsumer,
        threads: Sequence[SingletonThread],
        connect: Connect,
    ):
        self._loop, self._consumer, self._threads = loop, consumer, threads
        parts = config, keyring, control, pipeline, threads
        self._hosts = [_HolderHost(loop, host, consumer.host, connect, *parts) for host in config.hosts]
        self._log = RateLimitedLog(LOG, consumer.host.name, period_s=60.0, burst=1)
        self._is_up = self._is_leaving = self._is_looking = self._is_over = False
        # The worker of the broker that Senders prefer is the first to look: there the least is to be passed on.
        self._first_s = 0.5 * _LOOK_S * config.hosts.index(consumer.host)

    def __repr__(self) -> str:
        return f"<Singletons {list(self._threads)}>"

    @property
    def problems(self) -> list[str]:
        """None: a broker that cannot be reached is the problem of the worker which is there for it."""
        return []

    def begin(self, epoch: int) -> None:
        self._is_up = True
        for host in self._hosts:
            host.begin(epoch)
        self._declare(epoch)
        if not self._is_looking:
            self._is_looking = True
            self._loop.call_later(self._first_s, self._look)

    def end(self) -> None:
        self._is_up = False
        for thread in self._threads:
            thread.is_declared = False
        for host in self._hosts:
            host.end()

    def take_no_more(self) -> None:
        self._is_leaving = True
        for host in self._hosts:
            host.take_no_more()

    def close(self) -> None:
        self._is_over = True
        for thread in self._threads:
            thread.release()
        for host in self._hosts:
            host.close()

    @property
    def is_gone(self) -> bool:
        return all(host.is_gone for host in self._hosts)

    def _look(self) -> None:
        if self._is_over:
            return
        self._loop.call_later(_LOOK_S, self._look)
        for thread in self._threads:
            is_held = thread.look(may_serve=self._is_up and not self._is_leaving)
            if not self._is_leaving:
                for host in self._hosts:
                    host.hold(thread, is_held=is_held)

    # -- what is passed on ---------------------------------------------------------------------------------------------

    def _declare(self, epoch: int) -> None:
        """Where what comes to this worker's broker is passed on; on a channel whose end costs nothing else."""
        consumer = self._consumer

        def opened(channel: BrokerChannel) -> None:
            channel.run(_declarations(self._threads, consumer.stored), lambda: declared(channel))

        def declared(channel: BrokerChannel) -> None:
            channel.close()
            for thread in self._threads:
                thread.is_declared = True

        def failed(error: TransportError) -> None:
            if consumer.epoch == epoch and self._is_up and not all(thread.is_declared for thread in self._threads):
                self._log.log(logging.ERROR, str(getattr(error, "reason", error)))
                self._loop.call_later(_DECLARE_AGAIN_S, lambda: again(epoch))

        def again(former: int) -> None:
            if former == consumer.epoch and self._is_up:
                self._declare(former)

        consumer.connections.connections[1].open_channel(opened, failed)


class _HolderHost(ExtraHost):
    """One broker. It is connected to when this worker gets one of the services."""

    def __init__(
        self,
        loop: EventLoop,
        host: BrokerHost,
        home: BrokerHost,
        connect: Connect,
        config: Configuration,
        keyring: Keyring,
        control: ControlRequests,
        pipeline: Pipeline,
        threads: Sequence[SingletonThread],
    ):
        what = "requests for its singleton services"
        super().__init__(loop, config, host, connect, "alone", what, logging.INFO)
        self._config, self._keyring, self._control, self._pipeline = config, keyring, control, pipeline
        self._protocol = HeldProtocol(config, keyring, control.protocol.clock, self._answer)
        self._stored: StoredQueues | None = None
        self._by_thread = {
            thread: ExtraConsumer(self, thread.queue, partial(self._script, thread), is_wanted=False)
            for thread in threads
        }
        self._cancellations = ExtraConsumer(
            self, "cancellations", self._hear_script, is_wanted=False, is_looked_after=False
        )
        self._is_home = host is home
        """The worker's own queue hears cancellations there."""
        self.consumers += [*self._by_thread.values(), self._cancellations]

    def hold(self, thread: SingletonThread, *, is_held: bool) -> None:
        """Consume what is passed on to *thread*, or no more."""
        consumer = self._by_thread[thread]
        if consumer.is_wanted is is_held:
            return
        consumer.is_wanted = is_held
        if not is_held:
            consumer.close()
        elif not self._is_home:
            self._cancellations.is_wanted = True
        self.consume()

    def _script(self, thread: SingletonThread, epoch: int, keep: Keep) -> Script:
        if self._stored is None:
            version = self.connections.connections[1].server_version
            self._stored = StoredQueues(self._config, version, lambda _queue: None)
        yield from _declarations([thread], self._stored)
        yield from window(self._config)
        protocol = self._protocol_of(thread)
        take = partial(self._take, epoch=epoch, protocol=protocol, kind=thread.service.kind)
        keep((yield consume(thread.queue, take, whole=True)))

    def _protocol_of(self, thread: SingletonThread) -> HeldProtocol | EventProtocol:
        if not thread.service.events:
            return self._protocol
        (queue,) = queues_of(self._config, [thread.service])
        return EventProtocol(self._config, self._keyring, queue)

    def _take(self, delivery: Delivery, epoch: int, protocol: HeldProtocol | EventProtocol, kind: Kind) -> None:
        if self.is_leaving:
            return
        if delivery.headers and AGAIN in delivery.headers:
            delivery = delivery._replace(redelivered=True)
        # A call that this worker may not take any more stays on its broker: it is answered there.
        give_back = partial(delivery.channel.reject, delivery.tag, requeue=True)
        on_full = (lambda: self.later(_FULL_S, give_back)) if kind is CALL else None
        self._pipeline.take(delivery, epoch, protocol, kind, on_full)

    def _hear_script(self, _epoch: int, keep: Keep) -> Script:
        name, _, _ = yield declare_queue(exclusive=True, auto_delete=True)
        yield bind_queue(name, self._config.exchange_name, cancel_key(self._config.node_name))
        keep((yield consume(name, self._hear, no_ack=True)))

    def _hear(self, delivery: Delivery) -> None:
        self._control.hear(delivery)

    def _answer(self, delivery: Delivery, body: bytes, on_answered: Callable[[str], None]) -> None:
        if delivery.reply_to:
            self.answer(delivery.reply_to, body, on_answered, correlation_id=delivery.correlation_id)


def _declarations(threads: Sequence[SingletonThread], stored: StoredQueues | None) -> Script:
    for thread in threads:
        if thread.service.kind is CALL:
            yield declare_queue(thread.queue, durable=True, arguments={"x-expires": _UNUSED_MS})
        elif stored is not None and not thread.service.events:
            yield stored.declare(thread.queue)
