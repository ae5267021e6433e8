"""MemoryBus: brokers, a node and a Sender in one process, without RabbitMQ, by a clock that the test turns."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from functools import partial
from os import PathLike
from types import TracebackType
from typing import Any

import servicebus.client.outbox
import servicebus.client.outbox_file  # before the clock is installed in all modules
from servicebus._describe import NodeDescription
from servicebus._durations import to_seconds
from servicebus.aio import AsyncSender
from servicebus.configuration import Configuration
from servicebus.errors import ConfigurationError, LifecycleError
from servicebus.middleware import Middleware
from servicebus.runtime.job import Job
from servicebus.sender import Sender
from servicebus.service import ServiceBus
from servicebus.testing.clock import VirtualTime, installed
from servicebus.testing.driver import Driver
from servicebus.testing.faulty_broker import FaultyBroker
from servicebus.testing.history import History, HistoryEntry, What, id_of
from servicebus.testing.memory_node import PERIODIC, MemoryNode
from servicebus.testing.memory_sender import RecordingNestedSender, RecordingSender
from servicebus.testing.mock import MockNode
from servicebus.testing.outbox_writer import SynchronousWriter
from servicebus.transport.memory import MemoryNetwork
from servicebus.wire.address import plain
from servicebus.wire.printable import counted

__all__ = ["MemoryBus"]

NODE = "NODE-01"
_SECRET = "of the bus in memory"  # noqa: S105 - it signs what never leaves the process
_SERVICE_THREADS = "svc-"


class MemoryBus:
    """A whole bus in memory, made by ``servicebus.testing.bus()``; it is open from ``with`` on.

    All of it is the real thing but the brokers and the clock: the Sender's engine, the workers, the signatures, the
    journal (in memory). Its methods are for any thread, and return when the bus is at rest again.
    """

    def __init__(
        self,
        services: tuple[Any, ...],
        brokers: int,
        node: str | None,
        outbox: str | PathLike[str] | None,
        middleware: Sequence[Middleware],
        settings: Mapping[str, Any],
    ):
        if type(brokers) is not int or brokers < 1:
            raise ConfigurationError(f"a bus needs a broker, not {brokers!r}")
        names = [f"mq-{number}" for number in range(1, brokers + 1)]
        agents = [each for each in services if isinstance(each, ServiceBus)]
        self._settings = {
            "hosts": [{"name": name, "host": name} for name in names],
            "node_name": node or next(filter(None, map(_node_of, services)), NODE),
            "secret_token": _SECRET,
            "journal": "memory",
            **settings,
        }
        self._config = Configuration(self._settings)
        queue_len = next((each._queue_len for each in agents if each._queue_len is not None), None)
        self._agent = ServiceBus(self._config, queue_len)
        self._of_services = [each for agent in agents for each in agent._middleware]
        self._middleware = middleware
        for each in services:
            _register(self._agent, each)
        self._agent._description = NodeDescription(self._agent.contract())  # once for all workers
        self._outbox = outbox
        self._senders: list[RecordingSender | RecordingNestedSender] = []
        self._state = "not open"

    def __repr__(self) -> str:
        return f"<MemoryBus of node {self._config.node_name}, {len(self._config.hosts)} brokers, {self._state}>"

    # -- what a test uses ------------------------------------------------------------------------------------------

    @property
    def sender(self) -> Sender:
        """A Sender that knows all brokers. ``call_async()`` and ``send_async()`` return when the bus is at rest."""
        self._must_be_open()
        return self._sender

    def make_sender(
        self,
        *,
        outbox: str | PathLike[str] | None = None,
        middleware: Sequence[Middleware] = (),
        **settings: Any,
    ) -> Sender:
        """Another Sender, with *settings* of its own. It is closed with the bus, or by ``close()`` before."""
        self._must_be_open()
        sender = RecordingSender(Configuration({**self._settings, **settings}), outbox=outbox, middleware=middleware)
        self._attach(sender)
        return sender

    @property
    def async_sender(self) -> AsyncSender:
        """The same for coroutines, in ``async with``."""
        return AsyncSender.of(self.sender)

    @property
    def node(self) -> MemoryNode:
        """The node that has the services."""
        self._must_be_open()
        return self._node

    @property
    def brokers(self) -> tuple[FaultyBroker, ...]:
        """In the order in which Sender and node know them."""
        self._must_be_open()
        return self._brokers

    @property
    def history(self) -> History:
        """What happened until now."""
        self._must_be_open()
        self._driver.settle()
        return History(self._history)

    @property
    def now(self) -> float:
        """Seconds since it was opened, by its own clock."""
        self._must_be_open()
        return self._clock.now - self._opened_at

    def advance(self, seconds: float) -> None:
        """Let *seconds* pass, which takes no time; what is due meanwhile happens at its own time."""
        seconds = to_seconds("seconds", seconds)
        self._must_be_open()
        self._driver.advance(seconds)

    def assert_executed_once(self, id: int | str | Future[Any]) -> None:
        """Fail unless exactly one run of the request has come to its end; a failed attempt that is retried is none.

        Args:
            id: what ``call()`` or ``send()`` returned first, the Future of ``call_async()`` or ``send_async()``, or
                the id on the wire.
        """
        wire_id = self._wire_id(id)
        found = self.history.of(wire_id)
        runs = len(found.only("executed"))
        if runs != 1:
            raise AssertionError(f"{wire_id} was executed {counted(runs, 'time')}, not once:\n{found}")

    def broker_of(self, id: str) -> str | None:
        """The broker over which a request of ``sender`` travels now, by its id on the wire; None if it does not."""
        self._must_be_open()
        found: str | None = self._driver.order(lambda: self._sender.broker_of(id))
        return found

    # -- opening and closing ---------------------------------------------------------------------------------------

    def __enter__(self) -> MemoryBus:
        if self._state != "not open":
            raise LifecycleError(f"it is {self._state}", "open a bus in memory")
        self._clock = VirtualTime(time.monotonic(), time.time() - time.monotonic())
        self._clock.periodic = PERIODIC
        self._opened_at = self._clock.now
        self._history = History()
        with ExitStack() as opening:
            self._driver = Driver(self._clock)
            opening.enter_context(installed(self._clock, _runs_a_service, self._driver.sleep))
            opening.enter_context(_outbox_without_thread())
            self._loop = self._clock.loop("sender")
            self._loop.wait = self._driver.wait
            hosts = (*self._config.hosts, *self._config.connections)
            self._network = network = MemoryNetwork(*[host.address for host in hosts])
            self._make_senders()
            brokers_loop = self._clock.loop("brokers")
            for host in hosts:
                network[host.address].loop = brokers_loop
            self._brokers = tuple(FaultyBroker(network[host.address], host.name, self._order) for host in hosts)
            self._node = MemoryNode(self._agent, self._nested, network, self._clock, self._driver, self._record_job)
            self._driver.is_serving, self._driver.is_asked = self._node.is_serving, self._is_asked
            self._driver.is_under_way = lambda: self._is_asked() or self._node.has_unfinished()
            self._driver.on_time = self._node.wake
            opening.callback(self._close_loops)
            self._driver.start()
            opening.callback(self._driver.close)
            opening.callback(self._close_parts)
            self._state = "open"
            self._node.start()
            self._opening = opening.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opening.close()
        defects = self._node.defects + sum(loop.failures.count for loop in self._clock.loops)
        if error is None and defects:
            raise AssertionError("a callback of the bus has raised, a defect of servicebus; the log has its traceback")

    async def __aenter__(self) -> MemoryBus:
        self.__enter__()
        self._driver.asyncio_loop = asyncio.get_running_loop()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _must_be_open(self) -> None:
        if self._state != "open":
            raise LifecycleError(f"it is {self._state}: write `with servicebus.testing.bus(...) as world:`", "use it")

    def _order(self, do: Callable[[], Any]) -> Any:
        """Have something done to a broker."""

        def do_and_look() -> Any:
            try:
                return do()
            finally:
                self._node.watch()

        self._must_be_open()
        return self._driver.order(do_and_look)

    def _make_senders(self) -> None:
        self._sender = RecordingSender(self._config, outbox=self._outbox, middleware=self._middleware)
        self._sender.is_main = True
        self._nested = RecordingNestedSender(self._agent._config, middleware=self._of_services)
        for sender in (self._sender, self._nested):
            self._attach(sender)

    def _attach(self, sender: RecordingSender | RecordingNestedSender) -> None:
        driver = self._driver
        sender.attach(self.record, self._must_be_open, self._network.connect, self._loop, driver.settle, driver.calling)
        self._senders.append(sender)

    def _is_asked(self) -> bool:
        return any(sender.is_asked() for sender in self._senders)

    def _close_parts(self) -> None:
        self._state = "closed"
        for sender in self._senders:
            self._driver.order(partial(sender.end, self._clock))
        self._node.close()

    def _close_loops(self) -> None:
        for loop in self._clock.loops:
            loop.close()

    def record(self, what: What, id: str, target: str, **how: Any) -> None:
        """An event of the bus; for its own parts."""
        self._history.append(HistoryEntry(self._clock.now - self._opened_at, what, id, target, **how))

    def _record_job(self, what: What, job: Job, **how: Any) -> None:
        self.record(what, id_of(job), job.incoming.key, context=job.incoming.context or {}, **how)

    def _wire_id(self, id: int | str | Future[Any]) -> str:
        if isinstance(id, Future):
            return str(getattr(id, "wire_id", ""))
        if isinstance(id, str):
            return id
        for entry in self._history:
            if entry.event_id == id:
                return entry.id
        raise AssertionError(f"the Sender of this bus has asked nothing with the event id {id}")


def _node_of(given: Any) -> str:
    """The name of the node that has these services; "" if they do not say."""
    if isinstance(given, ServiceBus):
        return given._config.node_name
    return given.node if isinstance(given, MockNode) else ""


def _register(agent: ServiceBus, given: Any) -> None:
    """Give the services of *given* to *agent*, whatever it is that holds them."""
    if isinstance(given, ServiceBus):
        agent._services.update(given._services)
        agent._config = agent._config.with_publishers(given._config.publishers)
    elif isinstance(given, Mapping):
        for name, service in given.items():
            _register_object(agent, name, service)
    elif isinstance(given, Iterable) and not isinstance(given, str):
        agent.include(given)  # type: ignore[arg-type]
    else:
        what = "takes a ServiceBus, a group of typed functions, or a dict of services by category.name"
        raise ConfigurationError(f"a bus in memory {what}, not {type(given).__name__}", key="services")


def _register_object(agent: ServiceBus, name: str, service: Any) -> None:
    category, _, own_name = plain(name).rpartition(".")
    if callable(getattr(service, "on_message", None)):
        agent.add_message_service(category, own_name, service)
        if not callable(getattr(service, "on_call", None)):
            return
    agent.add_rpc_service(category, own_name, service)


def _runs_a_service() -> bool:
    return threading.current_thread().name.startswith(_SERVICE_THREADS)


@contextmanager
def _outbox_without_thread() -> Iterator[None]:
    """The outbox of the bus is written in the thread that turns its loops."""
    module: Any = servicebus.client.outbox
    original, module.OutboxWriter = module.OutboxWriter, SynchronousWriter
    try:
        yield
    finally:
        module.OutboxWriter = original
