"""Drain: the orderly stop of a worker, step by step, each bounded by one deadline.

The order: take no new messages; answer new calls "stopping", so that their Senders go elsewhere at once; let the
services finish what was accepted, and give back what they did not begin in time; when the calls queue is quiet leave it
(as an auto-delete queue it goes with its last consumer, and would take waiting calls along); publish and ack what is
left; close when the broker has routed the replies. It learns of our end by the other connection: a ping of the caller's
would come back before the reply, and the call would be sent again, to a node that has stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from servicebus.policy.connection import ConnectionState
from servicebus.runtime.consumer import NodeConsumer
from servicebus.runtime.dispatcher import Dispatcher
from servicebus.runtime.service_thread import ServiceThread
from servicebus.runtime.singleton_thread import SingletonThread
from servicebus.runtime.streams import ENDING
from servicebus.transport.interface import Script
from servicebus.transport.loggers import get_logger
from servicebus.transport.loop import EventLoop
from servicebus.transport.steps import declare_queue
from servicebus.wire.address import rpc_queue

LOG = get_logger(__name__)

_QUIET_S = 0.1
_WAIT_FOR_QUIET_AT_MOST_S = 2.0
"""Callers who do not stop calling, or a broker that does not say how many calls wait, hold the stop up no longer."""
_ROUTED_WITHIN_S = 2.0
"""A broker that is silent holds the stop up no longer."""
_POLL_S = 0.01
_LAST_MOMENT_S = 0.2
"""For what only needs an iteration of the loop, even when there is no time left."""


class Drain:
    """Run once, by the worker's main thread."""

    def __init__(
        self,
        loop: EventLoop,
        consumer: NodeConsumer,
        dispatcher: Dispatcher,
        services: Sequence[ServiceThread | SingletonThread],
        within_s: float,
        pause: Callable[[float], float | None],
    ):
        """*pause* waits that long, and returns a new limit in seconds if something urges to stop sooner."""
        self._loop = loop
        self._consumer = consumer
        self._dispatcher = dispatcher
        self._services = services
        self._pause = pause
        self._started = time.monotonic()
        self._deadline = self._started + within_s
        self._calls_waiting = -1
        self._other_consumers = 0
        self._is_routed = False

    def run(self) -> bool:
        """True if everything that was accepted has been finished."""
        self._loop.post(self._take_no_more)
        for service in self._services:
            service.begin_stop()
        self._until(lambda: self._services_idle() and self._calls_are_quiet(), "work finished")
        self._loop.post(lambda: self._consumer.cancel("calls"))
        if not self._until(self._services_idle, "services idle"):
            for service in self._services:
                service.begin_no_more()
        # A broker that has not read yet that we take no more goes on delivering. What is begun now, no service runs.
        pipeline = self._consumer.pipeline
        self._loop.post(pipeline.begin_no_messages)
        is_idle = self._until(
            lambda: pipeline.begins_no_messages and self._services_idle(),
            "what was not begun given back",
            _LAST_MOMENT_S,
        )
        is_settled = self._until(
            lambda: not pipeline.has_unsettled, "replies and acks handed to the broker", _LAST_MOMENT_S
        )
        self._loop.post(self._ask_broker)
        self._wait(
            lambda: self._is_routed or self._consumer.state is ConnectionState.CLOSED,
            time.monotonic() + min(_ROUTED_WITHIN_S, max(self._deadline - time.monotonic(), _LAST_MOMENT_S)),
        )
        # Teardown hooks run now; a service that does not end is left behind, it is a daemon thread.
        for service in self._services:
            service.stop()
        is_ended = self._wait(
            lambda: not any(service.is_running for service in self._services),
            max(self._deadline, time.monotonic() + _LAST_MOMENT_S),
        )
        self._loop.post(pipeline.give_up_copies)
        self._loop.post(self._consumer.close)
        self._wait(lambda: self._consumer.is_closed, time.monotonic() + 0.5)
        self._loop.stop()
        duration_s = time.monotonic() - self._started
        LOG.info("%s: stopped after %.2f s", self._consumer.host.name, duration_s)
        return is_idle and is_settled and is_ended

    def _ask_broker(self) -> None:
        publisher = self._consumer.pipeline.acknowledger.publisher
        if publisher is None or self._consumer.blocked:  # the replies are lost, or wait for the end of an alarm
            self._routed()
        else:
            publisher.when_routed(self._routed)

    def _routed(self) -> None:
        self._is_routed = True

    def _take_no_more(self) -> None:
        self._dispatcher.is_stopping = True
        self._consumer.pipeline.interrupt_streams(ENDING)
        for subscription in ("messages", "delays", "events", "compat"):
            self._consumer.cancel(subscription)
        self._consumer.stop()
        self._ask_for_waiting_calls()

    def _ask_for_waiting_calls(self) -> None:
        """How many calls wait at the broker, and does another agent of the node consume them?"""
        channel = self._consumer.channel("calls")
        if channel is None or not channel.is_open:
            self._calls_waiting = 0
            return

        def script() -> Script:
            queue = self._consumer.transient_queue(rpc_queue(self._consumer.node_name))
            _, self._calls_waiting, consumers = yield declare_queue(queue, passive=True)
            self._other_consumers = consumers - 1
            if self._other_consumers > 0:
                self._consumer.cancel("calls")

        channel.run(script(), self._ask_again)

    def _ask_again(self) -> None:
        if self._calls_waiting != 0:
            self._loop.call_later(_QUIET_S, self._ask_for_waiting_calls)

    def _calls_are_quiet(self) -> bool:
        channel = self._consumer.channel("calls")
        if self._other_consumers > 0 or channel is None or not channel.is_open:
            return True
        now = time.monotonic()
        if now - self._started > _WAIT_FOR_QUIET_AT_MOST_S:
            return True
        return self._calls_waiting == 0 and now - max(self._started, self._consumer.pipeline.delivered_at) > _QUIET_S

    def _services_idle(self) -> bool:
        return self._dispatcher.unfinished == 0 and all(service.backlog == 0 for service in self._services)

    def _until(self, condition: Callable[[], bool], what: str, at_least_s: float = 0.0) -> bool:
        is_reached = self._wait(condition, max(self._deadline, time.monotonic() + at_least_s))
        if not is_reached and self._deadline > self._started:
            LOG.warning("%s: gave up waiting for: %s", self._consumer.host.name, what)
        LOG.debug("%s: %s after %.3f s", self._consumer.host.name, what, time.monotonic() - self._started)
        return is_reached

    def _wait(self, condition: Callable[[], bool], deadline: float) -> bool:
        while not condition():
            now = time.monotonic()
            if now >= deadline:
                return False
            limit_s = self._pause(_POLL_S)
            if limit_s is not None:
                self._deadline = min(self._deadline, now + limit_s)
                deadline = min(deadline, max(self._deadline, now + _LAST_MOMENT_S))
        return True
