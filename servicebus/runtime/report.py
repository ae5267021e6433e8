"""WorkerReport: what a worker tells the master beside its heartbeats, for the metrics of the agent.

Each entry is a line of its own, shorter than what a pipe takes in one piece, so that a pipe that is full costs a whole
entry or none. An entry that has not changed since it was told is not told again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from servicebus.observability.reports import Entry, log_records_lost
from servicebus.runtime.consumer import NodeConsumer
from servicebus.runtime.journal import Journal
from servicebus.runtime.service_meter import ServiceMeters
from servicebus.runtime.service_thread import ServiceThread

__all__ = ["WorkerReport"]

Entries = Callable[[], Iterable[Entry]]


class WorkerReport:
    """For the worker's main thread.

    Args:
        threads: those that the worker has now.
        counters: what the worker counts, its dispatcher's and its own.
        of_client: the entries of the Sender that its services share.
    """

    def __init__(
        self,
        meters: ServiceMeters,
        threads: Callable[[], Sequence[ServiceThread]],
        consumer: NodeConsumer,
        journal: Journal,
        counters: Callable[[], Mapping[str, int]],
        of_client: Entries,
    ):
        self._meters = meters
        self._threads = threads
        self._consumer = consumer
        self._journal = journal
        self._counters = counters
        self._of_client = of_client
        self._told: dict[tuple[str, str], Entry] = {}
        self._first = 0
        """Which service is told of first: where the pipe was full the last time."""

    def __repr__(self) -> str:
        return f"<WorkerReport of {len(self._meters)} services>"

    def __call__(self) -> Iterator[Entry]:
        """What has changed; an entry counts as told when the next one is asked for."""
        for entry in self._of_worker():
            yield from self._if_changed(entry)
        threads = self._threads()
        for _ in range(len(self._meters)):
            yield from self._if_changed(self._meters.entry(self._first % len(self._meters), threads))
            self._first += 1
        for entry in self._of_client():
            yield from self._if_changed(entry)

    def _if_changed(self, entry: Entry) -> Iterator[Entry]:
        at = entry.section, entry.key
        if self._told.get(at) != entry:
            yield entry
            self._told[at] = entry

    def _of_worker(self) -> Iterator[Entry]:
        connections = self._consumer.connections
        counts = {
            "connections_opened": connections.opened,
            "connections_lost": connections.lost,
            "log_records_lost": log_records_lost(),
        }
        yield Entry("worker", "", counts, {})
        yield Entry("counters", "", dict(self._counters()), {})
        sizes = {name: value for name, value in self._journal.snapshot().items() if isinstance(value, (int, float))}
        yield Entry("journal", "", {}, sizes)
