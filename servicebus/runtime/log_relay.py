"""LogRelay and WorkerRelay: log records of an agent's processes that cannot reach a reader themselves.

Theory of operation. A worker sends what it logs over its own broker. The master has none, and a worker may have lost
its, or may serve a broker over which the reader does not ask. So each worker tells the master, beside its heartbeats,
which readers it serves now; the master tells all workers of them, through the pipe whose end says that the master is
gone; and a worker that does not serve one of them itself hands its records to the master, who passes them to one that
does. As heartbeats, they come within a second. The pipes are written without waiting: what they do not take is left
out, and the next record says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from servicebus.errors import EnvelopeError
from servicebus.protocol.tail import TailedRecord, read_row
from servicebus.runtime.child import Child
from servicebus.runtime.log_tails import LogTails
from servicebus.runtime.log_tap import LogTap
from servicebus.runtime.relay_queue import RelayQueue, Write

__all__ = ["LogRelay", "WorkerRelay"]

_SILENT_S = 3.0
"""Three heartbeats missed: a worker serves its readers no more."""
_TELL_EVERY_S = 1.0


class WorkerRelay:
    """For a worker's main thread."""

    def __init__(self, tails: LogTails):
        self._tails = tails
        self._has_served = False

    def __repr__(self) -> str:
        return f"<WorkerRelay of {self._tails!r}>"

    def send(self, write: Write) -> None:
        """Tell the master which readers are served here, and hand it the records for others."""
        served = self._tails.served()
        if served or self._has_served:
            is_told = write({"tails": served})
            self._has_served = bool(served) or not is_told
        self._tails.relayed.send(write)

    def heard(self, told: Any) -> None:
        """What the master says; anything else is ignored, since a service may write into the same pipe."""
        match told:
            case {"tails": dict() as tails}:
                self._tails.served_elsewhere(_levels(tails))
            case {"log": {"for": list() as ids, "row": list() as row}}:
                with suppress(EnvelopeError):
                    self._tails.put_for(ids, read_row(row))


class LogRelay:
    """Belongs to the master's thread; what the master logs while there are readers is taken from it, too."""

    def __init__(self) -> None:
        self._served: dict[Child, tuple[float, Mapping[str, int]]] = {}
        """When a worker said last which readers it serves, with the levels that they ask for."""
        self._told_at = 0.0
        self._told: Mapping[str, int] = {}
        self._tap = LogTap(self._put, "master")
        self._own = RelayQueue()

    def __repr__(self) -> str:
        return f"<LogRelay of {len(self._served)} workers with readers>"

    def take(self, child: Child, now: float) -> None:
        """What *child* has said beside its heartbeats."""
        lines, child.relayed = child.relayed, []
        for told in lines:
            match told:
                case {"tails": dict() as tails}:
                    self._served[child] = now, _levels(tails)
                case {"log": {"for": list() as ids}}:
                    self._pass_on(told, ids, child)

    def tick(self, children: Iterable[Child], now: float) -> None:
        """Tell *children* who reads, and send what the master has logged."""
        if not (self._served or self._told):
            return
        for child, (said_at, tails) in list(self._served.items()):
            if not tails or now - said_at > _SILENT_S or not child.is_alive:
                del self._served[child]
        readers: dict[str, int] = {}
        for _, tails in self._served.values():
            readers.update(tails)
        if readers != self._told or now - self._told_at >= _TELL_EVERY_S:
            self._told, self._told_at = readers, now
            for child in children:
                child.tell({"tails": readers})
            if readers:
                self._tap.attach(min(readers.values()))
            else:
                self._tap.detach()
        self._own.send(lambda told: self._pass_on(told, told["log"]["for"]))

    def forget(self) -> None:
        """In a forked worker."""
        self._tap.detach()

    def _put(self, record: TailedRecord) -> None:
        ids = [id for id, level in self._told.items() if record.level >= level]
        if ids:
            self._own.put(ids, record)

    def _pass_on(self, told: Mapping[str, Any], ids: Sequence[Any], origin: Child | None = None) -> bool:
        """To one worker for each reader; what a pipe does not take is lost."""
        by_child: dict[Child, list[Any]] = {}
        for id in ids:
            child = next(
                (each for each, (_, tails) in self._served.items() if id in tails and each is not origin), None
            )
            if child is not None:
                by_child.setdefault(child, []).append(id)
        for child, of_child in by_child.items():
            child.tell({"log": {**told["log"], "for": of_child}})
        return True


def _levels(tails: Mapping[Any, Any]) -> dict[str, int]:
    return {str(id): level for id, level in tails.items() if type(level) is int}
