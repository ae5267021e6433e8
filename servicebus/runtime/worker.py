"""Worker: one forked process that serves one broker: starts its threads, sends heartbeats, and drains.

The main thread does nothing but wait for signals, send heartbeats to the master, and order the stop; it never waits for
a broker or a service without a deadline.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from servicebus.configuration import BrokerHost, Configuration
from servicebus.observability.reports import Entry
from servicebus.protocol.callers import keyring_of
from servicebus.protocol.v2 import ProtocolV2
from servicebus.runtime.consumer import NodeConsumer
from servicebus.runtime.control import ControlRequests, Describe
from servicebus.runtime.dispatcher import Dispatcher
from servicebus.runtime.drain import Drain
from servicebus.runtime.event_queues import EventQueues, queues_of
from servicebus.runtime.heartbeat import Heartbeat
from servicebus.runtime.inherited import dump_stacks_on_abort
from servicebus.runtime.journal import Journal
from servicebus.runtime.journal.interface import Damaged
from servicebus.runtime.leaving import Home, let_go_in_children
from servicebus.runtime.load_report import LoadReport
from servicebus.runtime.log_relay import WorkerRelay
from servicebus.runtime.log_tails import LogTails
from servicebus.runtime.maintenance import DRAINED
from servicebus.runtime.node_locks import Locks
from servicebus.runtime.ping_watcher import PingWatcher
from servicebus.runtime.pipeline import Pipeline
from servicebus.runtime.plain_hosts import PlainHosts, plain_hosts
from servicebus.runtime.report import WorkerReport
from servicebus.runtime.service_meter import ServiceMeters, measured
from servicebus.runtime.service_thread import Service, ServiceThread
from servicebus.runtime.signals import EXIT_ASKED, EXIT_FAILED, SignalPipe, unmask
from servicebus.runtime.singleton_thread import SingletonThread
from servicebus.runtime.streams import NodeStreams
from servicebus.runtime.validator import ServiceKey
from servicebus.services import TextService
from servicebus.transport.amqp import AmqpConnection
from servicebus.transport.interface import Connect
from servicebus.transport.loggers import get_logger
from servicebus.transport.sharedloop import SharedLoop
from servicebus.wire.signing import Keyring

if TYPE_CHECKING:
    from servicebus.runtime.service_tracing import ServiceTraces

LOG = get_logger(__name__)

Hook = Callable[[], Any]
P = ParamSpec("P")
R = TypeVar("R")

_LAST_ITERATION_S = 1.0


class Worker:
    """Serves one host until told to stop; ``run()`` is its main thread and returns the exit code.

    Args:
        journal: opened in this process; the worker closes it.
        describe: what the node answers to ``describe``.
        locks: opened in this process; needed where a service has locks.
        loop: in place of its own; for a caller of ``begin()``, who turns it.
    """

    of_client: Callable[[], Iterable[Entry]]
    """What the Sender of the services has counted, for the metrics."""
    outbox_messages: Callable[[], int]
    """How many events of its services wait for a broker."""
    report: Callable[[], Iterable[Entry]]
    """What has changed of all that is counted for them."""

    def __init__(
        self,
        config: Configuration,
        host: BrokerHost,
        services: Sequence[Service],
        make_sender: Callable[[], Any],
        journal: Journal,
        *,
        describe: Describe | None = None,
        locks: Locks | None = None,
        queue_len: int | None,
        after_fork: Hook | None = None,
        on_exit: Hook | None = None,
        loop: SharedLoop | None = None,
        connect: Connect = AmqpConnection,
        make_dispatcher: Callable[..., Dispatcher] = Dispatcher,
    ):
        self._config, self.host = config, host
        self._after_fork, self._on_exit = after_fork, on_exit
        keyring = keyring_of(config)
        self.loop = loop or SharedLoop(f"io-{host.name}")
        by_key: dict[ServiceKey, ServiceThread | SingletonThread] = {}  # filled below: they post to the pipeline
        self._journal, self._home = journal, Home()
        self.dispatcher = make_dispatcher(self.loop, by_key, journal, host.name, config.retry_schedule)
        protocol = ProtocolV2(config, keyring)
        self.control = ControlRequests(config, keyring, protocol, self.dispatcher, describe)
        parts = self.loop, self.dispatcher, host.name, config.prefetch, self._on_damaged_journal
        self.pipeline = Pipeline(*parts, protocol.clock.follow, config.priorities)
        self.control.tails = self._tails = self._make_tails(protocol)
        self._locks, self._replaced_threads = locks, 0
        self._meters = ServiceMeters() if config.metrics is not None else None
        self._traces = self._make_traces() if config.traces else None
        self.services = [self._inbox_of(service, queue_len, make_sender, locks) for service in services]
        self._serve_streams([thread for thread in self.threads if thread.service.stream_method])
        by_key.update({key: thread for thread in self.services for key in thread.service.lookup_keys})
        self.consumer = NodeConsumer(self.loop, host, config, self.pipeline, self.control, connect)
        self._consume_more(keyring, services, connect)
        self.watcher = PingWatcher(self.loop, self.consumer, self.control, config)
        self.of_client, self.outbox_messages, self.report = tuple, int, self._make_report()

    def _make_tails(self, protocol: ProtocolV2) -> LogTails:
        config, name = self._config, f"worker {self.host.name}"
        parts = self.loop, self.pipeline.acknowledger, protocol, config.node_name, name, config.max_envelope_bytes
        return LogTails(*parts, lambda: self.consumer.blocked is not None)

    def _make_traces(self) -> ServiceTraces:
        from servicebus.runtime.service_tracing import ServiceTraces

        config = self._config
        traces = ServiceTraces(config.node_name, config.exchange_name, self.host, chosen_alone=config.traces < 1)
        traces.trace_replies(self.pipeline.acknowledger)
        return traces

    def _make_report(self) -> Callable[[], Iterable[Entry]]:
        self._last_snapshot: dict[str, Any] = {}
        brokers = [host.name for host in self._config.hosts]
        self.control.load = LoadReport(brokers, self._meters, self.services, lambda: self._last_snapshot)
        if self._meters is None:
            return tuple
        parts = self.consumer, self._journal, self._counters, lambda: self.of_client()
        return WorkerReport(self._meters, lambda: self.threads, *parts)

    def _consume_more(self, keyring: Keyring, services: Sequence[Service], connect: Connect) -> None:
        """Beside the node's queues of calls and messages."""
        config = self._config
        self.consumer.plain = self._plain_hosts(keyring, connect)
        self._add_singletons(keyring, connect)
        singletons = {each.key for each in services if each.events and each.singleton}
        EventQueues(self.consumer, config, keyring, queues_of(config, services), singletons)
        if config.compat:
            from servicebus.runtime.legacy_queue import add_legacy_queue

            add_legacy_queue(self.consumer, config)

    def _plain_hosts(self, keyring: Keyring, connect: Connect) -> PlainHosts:
        """The queues of other programs that its services consume."""
        services = [(each.service, each.room) for each in self.services]
        queues = [(service.key, service.plain, room) for service, room in services if service.plain is not None]
        return plain_hosts(self.loop, self._config, self.host, keyring, self.pipeline, queues, connect)

    def _add_singletons(self, keyring: Keyring, connect: Connect) -> None:
        threads = [each for each in self.services if isinstance(each, SingletonThread)]
        if threads:
            from servicebus.runtime.singletons import Singletons

            parts = self.control, self.pipeline, self.consumer, threads, connect
            self.consumer.plain.add(Singletons(self.loop, self._config, keyring, *parts))

    @property
    def threads(self) -> list[ServiceThread]:
        """Those of its services; of a singleton none if it runs elsewhere."""
        found: list[ServiceThread] = []
        for each in self.services:
            found += each.started if isinstance(each, SingletonThread) else [each]
        return found

    def _serve_streams(self, threads: Sequence[ServiceThread]) -> None:
        """Let *threads* answer streams; a worker without such services has nothing of it."""
        if threads:
            control, limit, now = self.control, self._config.max_envelope_bytes, self.pipeline.acknowledger
            parts = now, control.own_queue, lambda: self.dispatcher.is_stopping or control.is_leaving
            control.streams = streams = NodeStreams(self.loop, *parts, self.host.name, limit)
            self.pipeline.interrupt_streams = streams.interrupt_all
            for thread in threads:
                thread.use(streams)

    def _inbox_of(
        self, service: Service, queue_len: int | None, make_sender: Callable[[], Any], locks: Locks | None
    ) -> ServiceThread | SingletonThread:
        if not service.singleton or locks is None:
            return self._thread_of(service, queue_len, make_sender, locks)
        make = partial(self._thread_of, service, queue_len, make_sender, locks)
        return SingletonThread(service, self._config.node_name, locks, make)

    def _thread_of(
        self, service: Service, queue_len: int | None, make_sender: Callable[[], Any], locks: Locks | None
    ) -> ServiceThread:
        # Half of the window: more, and one slow service would keep the others from getting anything delivered.
        half = max(1, self._config.prefetch // 2)
        make = self._make_tasks if _is_async(service) else ServiceThread
        thread: ServiceThread = make(
            service,
            min(queue_len or half, half),
            self._observed(self.pipeline.post),
            make_sender,
            with_traces=self._config.fault_traces,
            locks=locks,
            hand_over=self._observed(self.pipeline.hand_over),
            recover=self._observed(self.pipeline.recover),
            retry_schedule=self._config.retry_schedule,
            window=self._config.prefetch if self._config.priorities else 0,
        )
        for observer in (self._meters, self._traces):
            if observer is not None:
                observer.watch(thread)
        return thread

    def _observed(self, hand_over: Callable[P, R]) -> Callable[P, R]:
        """*hand_over*, which takes an outcome, with what looks at that before; as it is without metrics and traces."""
        if self._meters is not None:
            hand_over = measured(hand_over)
        return hand_over if self._traces is None else self._traces.ended(hand_over)

    @cached_property
    def _make_tasks(self) -> Callable[..., ServiceThread]:
        """For ``async def`` services, which share one asyncio loop. Others need none of it."""
        from servicebus.runtime.service_loop import ServiceLoop
        from servicebus.runtime.task_service import TaskService

        hand_over = self._observed(self.pipeline.hand_over)
        return partial(TaskService, ServiceLoop(f"asyncio-{self.host.name}", hand_over))

    def run(self, heartbeat_fd: int | None = None, parent_death_fd: int | None = None) -> int:
        """Serve until a signal says stop, or the master is gone (end of file on *parent_death_fd*)."""
        dump_stacks_on_abort()
        signals = SignalPipe()
        unmask()  # the master forks with signals masked: until here they would have ended the process
        let_go_in_children(lambda: [fd for fd in (heartbeat_fd, parent_death_fd, *self.loop.files) if fd is not None])
        files, limit_s = (heartbeat_fd, parent_death_fd), self._config.drain_timeout
        more: dict[str, Any] = {"report": self.report, "relay": WorkerRelay(self._tails)}
        heartbeat = Heartbeat(self.loop, signals, *files, self.snapshot, drain_s=limit_s, **more)
        self._call_hook(self._after_fork, "after-fork hook")
        io_thread = threading.Thread(target=self.loop.run, name=self.loop.name, daemon=True)
        io_thread.start()
        self.begin()
        self.watcher.start()
        try:
            limit_s = heartbeat.wait_for_stop()
            is_clean = Drain(self.loop, self.consumer, self.dispatcher, self.services, limit_s, heartbeat.wait).run()
            self.watcher.stop()
            is_clean = is_clean and not self.pipeline.is_damaged
            io_thread.join(_LAST_ITERATION_S)
            if is_clean and not io_thread.is_alive():  # its housekeeping would ask a closed journal
                # Else our number dies with our last thread: until then a service may start what others would start too.
                self._journal.close()
        finally:
            self._call_hook(self._on_exit, "exit hook")
        return EXIT_ASKED if is_clean else EXIT_FAILED

    def begin(self) -> None:
        """Start the threads of the services, and connect."""
        for service in self.services:
            service.start()
        self.pipeline.start()
        self.consumer.start()

    def close_tails(self) -> None:
        """Take no more records for readers of the log; where the process goes on without it."""
        self._tails.close()

    def _on_damaged_journal(self, error: Damaged) -> None:
        """Without memory nothing may be begun; the next worker that is alone in the file begins a new one."""
        LOG.error("%s: %s; this worker ends, and the next one begins a new journal", self.host.name, error)
        os.kill(os.getpid(), signal.SIGTERM)

    def snapshot(self) -> dict[str, Any]:
        consumer = self.consumer
        if self._locks is not None:
            self._locks.look()
        replaced = sum(service.mend() for service in self.services)
        self._replaced_threads += replaced
        problems = [service.problem for service in self.threads if service.problem] + consumer.plain.problems
        is_hindered = bool(consumer.blocked or replaced or problems or self.pipeline.outage.reason)
        is_serving = consumer.is_whole and not is_hindered
        self._last_snapshot = {
            "host": self.host.name,
            **consumer.snapshot(),
            # A broker that does not read what we publish lets no reply through.
            "healthy": is_serving or consumer.maintenance.state == DRAINED,
            "proved_for_s": round(self.control.proved_for_s(time.monotonic()), 2) if consumer.is_whole else 0.0,
            "backlog": sum(service.backlog for service in self.services),
            "outbox_messages": self.outbox_messages(),
            "counters": self._counters(),
            "journal": self._journal.snapshot(),
            **({"problems": problems} if problems else {}),
        }
        return self._last_snapshot

    def _counters(self) -> dict[str, int]:
        defects = {"defects": self.loop.failures.count, "replaced-threads": self._replaced_threads}
        return {**self.dispatcher.counters, **{name: count for name, count in defects.items() if count}}

    def _call_hook(self, hook: Hook | None, name: str) -> None:
        if hook is None:
            return
        try:
            hook()
        except BaseException as error:  # the user's; as in 2.x it is reported and does not keep the agent from serving
            self._home.end_child(name, error)
            LOG.exception("%s: %s failed", self.host.name, name)
        self._home.end_child(name)


def _is_async(service: Service) -> bool:
    return isinstance(service.instance, TextService) and service.instance.is_async
