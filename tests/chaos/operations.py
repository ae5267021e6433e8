"""What the history says of each operation, put together from the files of all processes: ``Story``.

The files are read one after another, not merged by time: every question of the checker is answered by the times in
the records. So 30 minutes (several million records) need one pass, and memory for what is kept of each operation only.
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.history import Record, read

__all__ = ["Attempt", "Fault", "HealthSample", "Operation", "Process", "Story", "put_together", "tell"]


class Process:
    """One process of the run, from its file."""

    __slots__ = ("has_ended", "last_at", "name", "paused")

    def __init__(self, name: str):
        self.name = name
        self.last_at = 0.0
        self.has_ended = False
        """It ended as it should. If not, it was killed, at some time after its last record."""
        self.paused: list[tuple[float, float]] = []
        """When workers of its node were paused (SIGSTOP): it may have been one of them."""

    def ran_s(self, since: float) -> float:
        """How long it can have run at least from *since* to its last sign of life."""
        paused_s = sum(max(0.0, min(end, self.last_at) - max(begin, since)) for begin, end in self.paused)
        return self.last_at - since - paused_s


class Attempt:
    """One time that a service was entered with an operation."""

    __slots__ = ("finished_at", "number", "process", "result", "started_at")

    def __init__(self, process: Process, started_at: float, number: int | None):
        self.process = process
        self.started_at = started_at
        self.number = number
        self.finished_at: float | None = None
        self.result: str | None = None

    @property
    def is_done(self) -> bool:
        return self.result == "done"

    @property
    def over_at(self) -> float | None:
        """When it was certainly not running any more: finished, or the last sign of a process that was killed."""
        if self.finished_at is not None:
            return self.finished_at
        return None if self.process.has_ended else self.process.last_at


_NONE: dict[str, Any] = {}
"""Of most operations, not to be written to."""


class Operation:
    """One call, message or event: what its sender saw, and what became of it."""

    __slots__ = (
        "attempts", "dead", "deadline", "deliveries", "ended_at", "error", "has_expired", "invoked_at", "is_idempotent",
        "is_right", "is_too_large", "is_unheard", "kind", "op", "outcome", "requeued_at", "subscribers", "taken",
        "taken_at", "target", "told_by",
    )  # fmt: skip

    def __init__(self, op: int):
        self.op = op
        self.kind: str | None = None
        self.invoked_at: float | None = None
        self.deadline: float | None = None
        self.is_idempotent = False
        self.is_too_large = False
        self.taken: str | None = None
        """Messages: ``confirmed``, ``outbox``, ``sent`` (no promise), ``refused``; None if send() never ended."""
        self.taken_at = 0.0
        self.outcome: str | None = None
        """Calls: ``ok``, ``fault``, ``error``; None if call() never ended."""
        self.ended_at = 0.0
        self.error: str | None = None
        self.is_right = True
        self.attempts: list[Attempt] = []
        self.dead = 0
        self.has_expired = False
        self.requeued_at: list[float] = []
        """When an operator sent its dead letter back."""
        self.target = ""
        self.subscribers: Sequence[str] = ()
        """Events: who is to get it."""
        self.deliveries: dict[str, Operation] = _NONE
        """Events: what became of it at each of those who got it; there stand its attempts."""
        self.told_by: int | None = None
        """Events: the op that the service ran which published it."""
        self.is_unheard = False

    @property
    def is_acknowledged(self) -> bool:
        """Its sender was told that it is done (call) or taken (message)."""
        return self.outcome == "ok" if self.kind == "call" else self.taken in ("confirmed", "outbox", "sent")

    @property
    def is_done(self) -> bool:
        return any(attempt.is_done for attempt in self.attempts)


@dataclass
class Fault:
    number: int
    kind: str
    target: str
    begun_at: float
    ended_at: float | None = None


@dataclass(frozen=True)
class HealthSample:
    t: float
    green: bool
    consumers: int | None


@dataclass
class Story:
    """Everything that the checker and the report want to know of a run."""

    operations: dict[int, Operation] = field(default_factory=dict)
    processes: list[Process] = field(default_factory=list)
    faults: dict[int, Fault] = field(default_factory=dict)
    stalls: list[tuple[float, float]] = field(default_factory=list)
    """Stretches in which the machine gave nobody the processor."""
    forged: list[tuple[float, str]] = field(default_factory=list)
    children: list[tuple[float, str, bool]] = field(default_factory=list)
    """Children that services made: when, how they were to end, and whether they did."""
    health: dict[str, list[HealthSample]] = field(default_factory=lambda: defaultdict(list))
    log_sent: dict[str, tuple[int, Process]] = field(default_factory=dict)
    log_written: dict[tuple[str, str], int] = field(default_factory=dict)
    log_lost: dict[tuple[str, str], int] = field(default_factory=dict)
    """By source and by the process that counted; each process's last count stands."""
    base: dict[str, int] | None = None
    end: dict[str, int] | None = None
    lengths: dict[str, int] | None = None
    records: int = 0
    oddities: list[str] = field(default_factory=list)
    """What no history may hold whatever the bus does: the rig itself is wrong."""

    @property
    def started_at(self) -> float:
        """The zero of the report: when the first operation was invoked."""
        return min((o.invoked_at for o in self.operations.values() if o.invoked_at is not None), default=0.0)


def tell(folder: str | os.PathLike[str]) -> Story:
    """The story of the run whose history is in *folder*."""
    return put_together(read(folder))


def put_together(histories: Iterable[tuple[str, Iterable[Record]]]) -> Story:
    """The story of these processes: the name of each, and its records in its order."""
    teller = _Teller()
    for name, records in histories:
        teller.add(name, records)
    _tell_pauses(teller.story)
    return teller.story


def _tell_pauses(story: Story) -> None:
    for fault in story.faults.values():
        if fault.kind.startswith("worker-freeze") and fault.ended_at is not None:
            node = fault.target.partition("@")[0]
            for process in story.processes:
                if process.name.startswith(f"worker-{node}-"):
                    process.paused.append((fault.begun_at, fault.ended_at))


class _Teller:
    def __init__(self) -> None:
        self.story = Story()
        self._process = Process("")
        self._hear: dict[str, Callable[[Record], None]] = {
            "begin": lambda record: None,
            "ended": self._ended,
            "invoked": self._invoked,
            "published": self._published,
            "confirmed": self._taken,
            "sent": self._taken,
            "refused": self._taken,
            "expired": self._expired,
            "replied": self._replied,
            "started": self._started,
            "finished": self._finished,
            "forged": self._forged,
            "dead": self._dead,
            "child": self._child,
            "requeued": self._requeued,
            "fault-begin": self._fault_begin,
            "fault-end": self._fault_end,
            "stall": self._stall,
            "health": self._health,
            "log-sent": self._log_sent,
            "log-written": self._log_written,
            "log-lost": self._log_lost,
            "base": self._base,
            "end": self._end,
        }

    def add(self, name: str, records: Iterable[Record]) -> None:
        """The records of one process, in its order."""
        process = self._process = Process(name)
        self.story.processes.append(process)
        hear = self._hear
        count = 0
        for count, record in enumerate(records, 1):  # noqa: B007
            # Threads of one process may write in another order than they read the clock.
            if record["t"] > process.last_at:
                process.last_at = record["t"]
            if listener := hear.get(record["what"]):
                listener(record)
        self.story.records += count

    def _operation(self, record: Record) -> Operation:
        op = record["op"]
        operations = self.story.operations
        found = operations.get(op)
        if found is None:
            found = operations[op] = Operation(op)
        return found

    def _delivery(self, record: Record) -> Operation:
        """What happens to the operation, of an event at one subscriber."""
        operation = self._operation(record)
        subscriber = record.get("subscriber")
        if subscriber is None:
            return operation
        if operation.deliveries is _NONE:
            operation.deliveries = {}
        return operation.deliveries.setdefault(subscriber, Operation(operation.op))

    def _odd(self, text: str) -> None:
        self.story.oddities.append(f"{self._process.name}: {text}")

    def _ended(self, record: Record) -> None:
        self._process.has_ended = True

    # -- senders -------------------------------------------------------------------------------------------------

    def _invoked(self, record: Record) -> None:
        operation = self._operation(record)
        if operation.invoked_at is not None:
            self._odd(f"op {operation.op} was invoked twice; ops must be unique in a run")
        operation.kind = sys.intern(record["kind"])
        operation.invoked_at = record["t"]
        operation.deadline = record.get("deadline")
        operation.is_idempotent = record.get("idempotent", False)
        operation.is_too_large = record.get("too_large", False)
        if operation.kind == "event":
            operation.target, operation.subscribers = sys.intern(record["target"]), record["subscribers"]

    def _published(self, record: Record) -> None:
        operation = self._operation(record)
        operation.kind, operation.target, operation.told_by = "event", sys.intern(record["target"]), record["by"]
        operation.subscribers = record["subscribers"]

    def _taken(self, record: Record) -> None:
        operation = self._operation(record)
        operation.taken = "outbox" if record.get("outbox") else sys.intern(record["what"])
        operation.is_unheard = record.get("unheard", False)
        operation.taken_at = record["t"]
        if "error" in record:
            operation.error = sys.intern(record["error"])

    def _expired(self, record: Record) -> None:
        self._operation(record).has_expired = True

    def _replied(self, record: Record) -> None:
        operation = self._operation(record)
        if operation.outcome is not None:
            self._odd(f"the call {operation.op} has ended twice")
        operation.outcome = sys.intern(record["outcome"])
        operation.ended_at = record["t"]
        operation.is_right = record.get("right", True)
        if "error" in record:
            operation.error = sys.intern(record["error"])

    # -- workers -------------------------------------------------------------------------------------------------

    def _started(self, record: Record) -> None:
        operation = self._delivery(record)
        operation.attempts.append(Attempt(self._process, record["t"], record.get("attempt")))

    def _finished(self, record: Record) -> None:
        operation = self._delivery(record)
        for attempt in reversed(operation.attempts):
            if attempt.process is self._process and attempt.finished_at is None:
                attempt.finished_at = record["t"]
                attempt.result = sys.intern(record.get("verdict", "done"))
                return
        self._odd(f"op {operation.op} was finished without being started")

    def _forged(self, record: Record) -> None:
        self.story.forged.append((record["t"], record.get("came", "")))

    def _dead(self, record: Record) -> None:
        self._delivery(record).dead += 1

    def _child(self, record: Record) -> None:
        self.story.children.append((record["t"], f"{record['how']}, of {self._process.name}", record["ended"]))

    def _requeued(self, record: Record) -> None:
        self._delivery(record).requeued_at.append(record["t"])

    # -- the world -----------------------------------------------------------------------------------------------

    def _fault_begin(self, record: Record) -> None:
        number = record["number"]
        self.story.faults[number] = Fault(number, record["kind"], record["target"], record["t"])

    def _fault_end(self, record: Record) -> None:
        fault = self.story.faults.get(record["number"])
        if fault is None:
            self._odd(f"fault {record['number']} ends and has not begun")
        else:
            fault.ended_at = record["t"]

    def _stall(self, record: Record) -> None:
        self.story.stalls.append((record["t"] - record["seconds"], record["t"]))

    def _health(self, record: Record) -> None:
        sample = HealthSample(record["t"], record["green"], record["consumers"])
        self.story.health[record["target"]].append(sample)

    def _log_sent(self, record: Record) -> None:
        self.story.log_sent[record["source"]] = (record["count"], self._process)

    def _log_written(self, record: Record) -> None:
        self.story.log_written[record["source"], self._process.name] = record["count"]

    def _log_lost(self, record: Record) -> None:
        self.story.log_lost[record["source"], self._process.name] = record["count"]

    def _base(self, record: Record) -> None:
        self.story.base = record["counts"]

    def _end(self, record: Record) -> None:
        self.story.end = record["counts"]
        self.story.lengths = record["lengths"]
