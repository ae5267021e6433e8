"""MemoryNode: the workers of one node, one for each broker in memory, in threads of this process.

Each worker stands for a process. When it ends, its loop is turned no more, and the brokers find its connections closed.
Threads cannot be killed: a service that ``kill()`` finds at work gets SystemExit where it stands, or as soon as it goes
on, and what it still does has no effect on the bus.
"""

from __future__ import annotations

import ctypes
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from servicebus.client.tails import Tails
from servicebus.client.timer import LivenessTimer
from servicebus.runtime.drain import Drain
from servicebus.runtime.log_tails import LogTails
from servicebus.runtime.maintenance import Maintenance
from servicebus.runtime.node_locks import NodeLocks
from servicebus.runtime.pipeline import Pipeline
from servicebus.runtime.service_loop import ServiceLoop
from servicebus.runtime.service_thread import ServiceThread
from servicebus.runtime.singleton_thread import SingletonThread
from servicebus.runtime.singletons import Singletons
from servicebus.runtime.task_service import TaskService
from servicebus.runtime.worker import Worker
from servicebus.sender import Sender
from servicebus.service import ServiceBus
from servicebus.testing.asyncio_clock import AsyncioClock
from servicebus.testing.clock import VirtualTime
from servicebus.testing.driver import Driver
from servicebus.testing.history import Record, RecordingDispatcher
from servicebus.testing.node_journal import NodeJournal
from servicebus.transport.connection_manager import ConnectionManager
from servicebus.transport.loop import Timer
from servicebus.transport.memory import MemoryNetwork

__all__ = ["PERIODIC", "MemoryNode"]

_SELDOM_S = 60.0
"""What each worker looks after by the clock, once a second or so, would take minutes for a day."""
_START_S = 0.01
_LOOK_S = 0.01
_MOST_LOOKS = 500
"""At services that are to end, each of so long: seconds of a machine that has time for them."""


class MemoryNode:
    """The node of a bus in memory; ``stop()``, ``kill()`` and ``start()`` are for any thread."""

    def __init__(
        self,
        agent: ServiceBus,
        sender: Sender,
        network: MemoryNetwork,
        clock: VirtualTime,
        driver: Driver,
        record: Record,
    ):
        self.name: str = agent._config.node_name
        self._agent = agent
        self._sender = sender
        self._network = network
        self._clock = clock
        self._driver = driver
        self._record = record
        self._journal = NodeJournal()
        self.defects = 0
        """What callbacks of workers that have ended have raised."""
        self._workers: list[Worker] = []
        self._has_run = False
        self._watches: dict[Worker, Timer] = {}
        self._asyncio: dict[ServiceLoop, AsyncioClock] = {}

    def __repr__(self) -> str:
        return f"<MemoryNode {self.name} {', '.join(self._states()) or 'stopped'}>"

    @property
    def states(self) -> list[str]:
        """Of its connections to each broker, in the order of the brokers: ``consuming``, for example."""
        self._driver.settle()
        return self._states()

    def start(self) -> None:
        """Start it again, with the journal that it had; it consumes on every broker that is up."""
        self._driver.order(self._begin)

    def stop(self) -> None:
        """Stop in order, as on SIGTERM: finish what was accepted, leave the brokers, end the services."""
        workers = self._driver.order(self._drain)
        self._end_services(workers)
        self._driver.order(lambda: self._end(workers, is_killed=False))

    def kill(self) -> None:
        """All its workers die at once, as of SIGKILL: nothing is finished, answered or torn down.

        The code of a service that is at work gets SystemExit, because its thread cannot be killed.
        """
        with self._driver.time_stands_still():
            self._end_services(self._driver.order(self._kill), warns=False)

    def close(self) -> None:
        """The bus is closed: end at once what runs."""
        workers, self._workers = self._workers, []
        self._driver.end_sleep()
        for service in _services(workers):
            service.stop()
        _leave_loops(workers)
        self._end_services(workers)

    def has_unfinished(self) -> bool:
        """Whether a request is with a service; in the driver's thread."""
        return any(worker.dispatcher.unfinished for worker in self._workers)

    def is_serving(self) -> bool:
        """Whether a service is at work, in the driver's thread."""
        return any(self._is_at_work(worker) for worker in self._workers)

    def _states(self) -> list[str]:
        return [str(worker.consumer.snapshot()["state"]) for worker in list(self._workers)]

    # -- in the driver's thread ------------------------------------------------------------------------------------

    def _begin(self) -> None:
        if self._workers:
            return
        if self._has_run:
            # Senders know by the age of a queue that one was lost: the new one must be younger than their last call.
            self._driver.pass_time(_START_S)
        locks = NodeLocks()
        for host in self._agent._config.hosts:
            loop = self._clock.loop(f"worker of {host.name}")
            worker = self._agent._worker(
                host,
                self._sender,
                self._journal,
                locks,
                loop=loop,
                connect=self._network.connect,
                make_dispatcher=partial(RecordingDispatcher, self._record),
            )
            self._workers.append(worker)
            self._clock.others += [self._asyncio_clock(service) for service in _asynchronous([worker])][:1]
            worker.begin()
        self._has_run = True
        self.watch()
        self._clock.settle()

    def _asyncio_clock(self, service: TaskService) -> AsyncioClock:
        """Of the asyncio loop that all such services of a worker share."""
        loop = service._loop
        if loop not in self._asyncio:
            self._asyncio[loop] = AsyncioClock(loop, self._clock)
        return self._asyncio[loop]

    def wake(self) -> None:
        """Time has passed; in the driver's thread."""
        for each in self._asyncio.values():
            if each.due_at <= self._clock.now:
                each.wake()

    def watch(self) -> None:
        """Look after the connections from now on; in the driver's thread."""
        for worker in self._workers:
            if worker in self._watches:
                self._watches[worker].cancel()
            worker.loop.post(partial(self._watch, worker))

    def _watch(self, worker: Worker) -> None:
        if worker in self._workers:
            pause_s = max(0.001, worker.watcher.step(self._clock.now))
            broker = self._network[worker.host.address]
            if not (broker.is_frozen or broker.delay_s):  # nothing is to be found out; a fault has it look again
                pause_s = max(pause_s, _SELDOM_S)
            self._watches[worker] = worker.loop.call_later(pause_s, partial(self._watch, worker))

    def _drain(self) -> list[Worker]:
        within_s = self._agent._config.drain_timeout
        for worker in self._workers:
            parts = worker.loop, worker.consumer, worker.dispatcher, worker.services
            Drain(*parts, within_s, self._driver.pass_time).run()
        workers, self._workers = self._workers, []
        return workers

    def _kill(self) -> list[Worker]:
        workers, self._workers = self._workers, []
        self._end(workers, is_killed=True)
        for service in _services(workers):
            _forget_teardown(service)
            for runner in service._runners:
                if runner.held and not self._driver.interrupt(runner.thread.ident):
                    _raise_in(runner.thread, SystemExit)
            service.begin_no_more()
            service.stop()
        _leave_loops(workers)
        return workers

    def _end(self, workers: list[Worker], *, is_killed: bool) -> None:
        for worker in workers:
            self._watches.pop(worker).cancel()
            self._clock.loops.remove(worker.loop)  # type: ignore[arg-type]
            for broker in self._network.brokers.values():  # it may be connected to others than its own
                broker.end_process(worker.loop, is_killed=is_killed)
            self.defects += worker.loop.failures.count
            worker.loop.close()
        for service in _asynchronous(workers):
            clock = self._asyncio.pop(service._loop, None)
            if clock in self._clock.others:
                self._clock.others.remove(clock)
        self._journal.end_workers()

    def _is_at_work(self, worker: Worker) -> bool:
        unfinished, in_services = worker.dispatcher.unfinished, 0
        if not unfinished:
            return False
        for service in worker.threads:
            backlog = service.backlog
            in_services += backlog
            if isinstance(service, TaskService) and backlog and not self._asyncio_clock(service).stands_still:
                return True
            if backlog and self._has_thread_at_work(service, backlog):
                return True
        return in_services < unfinished  # an outcome is on its way

    def _has_thread_at_work(self, service: ServiceThread, backlog: int) -> bool:
        threads = service.threads
        still = sum(self._driver.stands_still(thread.ident) for thread in threads)
        if service._lock_queue is not None:  # those that have nothing to do are seen to wait there
            return still < sum(thread.is_alive() for thread in threads)
        return still < min(backlog, len(threads))

    def _end_services(self, workers: list[Worker], *, warns: bool = True) -> None:
        for worker in workers:
            worker.close_tails()
        looks = 0  # not seconds: a machine that has no time for these threads has none for this one
        loops = {service._loop for service in _asynchronous(workers)}
        while alive := [thread for thread in _threads(workers, loops) if thread.is_alive()]:
            self._driver.settle()
            looks += 1
            if looks > _MOST_LOOKS or all(self._driver.is_stuck(thread.ident) for thread in alive):
                names = ", ".join(sorted(thread.name for thread in alive))
                if warns:
                    warnings.warn(f"services of node {self.name} still run: {names}", ResourceWarning, stacklevel=3)
                break
            alive[0].join(_LOOK_S)


def _leave_loops(workers: list[Worker]) -> None:
    for service in [each for worker in workers for each in worker.services]:
        if isinstance(service, SingletonThread):
            service.leave_loop()


def _forget_teardown(service: ServiceThread) -> None:
    async def nothing() -> None: ...

    vars(service).update(_tear_down=lambda: None, _tear_down_async=nothing)


def _raise_in(thread: threading.Thread, error: type[BaseException]) -> None:
    """Have *error* raised in *thread* as soon as it goes on."""
    if thread.ident is not None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(error))


def _asynchronous(workers: list[Worker]) -> list[TaskService]:
    """Also of singletons that do not run here yet: all share one loop."""
    services = [each for worker in workers for each in worker.services]
    found = [each._current if isinstance(each, SingletonThread) else each for each in services]
    return [service for service in found if isinstance(service, TaskService)]


def _threads(workers: list[Worker], loops: Iterable[ServiceLoop]) -> list[threading.Thread]:
    """All that services run in."""
    own = [thread for service in _services(workers) for thread in service.threads]
    return own + [thread for loop in loops for thread in (loop.thread, loop._watch.thread)]


def _services(workers: list[Worker]) -> Iterator[ServiceThread]:
    for worker in workers:
        yield from worker.threads


PERIODIC: frozenset[Callable[..., None]] = frozenset(
    {
        LivenessTimer._tick,
        Pipeline._tick,
        LogTails._tick,
        Tails._tick,
        Maintenance._ask,
        ConnectionManager._backoff_over,
        Singletons._look,
        MemoryNode._watch,
    }
)
"""What the parts of a bus do once a second or so, and what a node does about a broker that is down."""
