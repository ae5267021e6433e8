"""Reads the history of a run into a ``Story``.

The files are read one after another, not merged by time: every question of the checker is answered by the times in
the records. So 30 minutes (several million records) need one pass, and memory for what is kept of each operation only.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable

from tests.chaos.caller_invariants import REFUSALS
from tests.chaos.history import Record, read
from tests.chaos.operations import (
    NONE,
    AgentSample,
    Attempt,
    Fault,
    HealthSample,
    Operation,
    Process,
    Story,
    StreamRead,
)

__all__ = ["put_together", "tell"]


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
            "moving": self._moving,
            "moved": self._moved,
            "forged": self._forged,
            "dead": self._dead,
            "child": self._child,
            "requeued": self._requeued,
            "fault-begin": self._fault_begin,
            "fault-end": self._fault_end,
            "stall": self._stall,
            "health": self._health,
            "agent": self._agent,
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
        if operation.deliveries is NONE:
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
        operation.target, operation.may = sys.intern(record["target"]), record.get("may")
        operation.subscribers = record.get("subscribers", ())
        if "stream" in record:
            operation.stream = StreamRead(**record["stream"])

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
            self._odd(f"{operation.op} has ended twice")
        operation.outcome = sys.intern(record["outcome"])
        operation.ended_at = record["t"]
        operation.is_right = record.get("right", True)
        if operation.stream is not None and "runs" in record:
            stream = operation.stream
            stream.runs, stream.position, stream.cause = record["runs"], record.get("position"), record.get("cause", "")
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

    def _moving(self, record: Record) -> None:
        operation = self._operation(record)
        operation.moved_again = operation.moved_again or operation.moved_by is self._process

    def _moved(self, record: Record) -> None:
        self._operation(record).moved_by = self._process

    def _forged(self, record: Record) -> None:
        self.story.forged.append((record["t"], record.get("came", "")))

    def _dead(self, record: Record) -> None:
        delivery = self._delivery(record)
        delivery.dead += 1
        if record.get("reason", "").startswith(REFUSALS):
            delivery.refusal = record["reason"]

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
        sample = HealthSample(record["t"], record["green"], record["consumers"], record.get("ready", False))
        self.story.health[record["target"]].append(sample)

    def _agent(self, record: Record) -> None:
        sample = AgentSample(record["t"], record["live"], record["ready"], record["consumers"])
        self.story.agents[record["node"]].append(sample)

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
