"""What the history says of each operation, put together from the files of all processes: ``Story``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["NONE", "AgentSample", "Attempt", "Fault", "HealthSample", "Operation", "Process", "Story", "StreamRead"]


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


NONE: dict[str, Any] = {}
"""Of most operations, not to be written to."""


@dataclass
class StreamRead:
    """A stream, as its reader saw it."""

    count: int
    """How many items it has."""
    fails_at: int | None
    """The item in whose place its service raises."""
    runs: Sequence[Sequence[int]] = ()
    """The first and the last number of each run of items that followed one another."""
    position: int | None = None
    """What StreamInterrupted said."""
    cause: str = ""
    """The error behind StreamInterrupted."""


class Operation:
    """One call, message, event, stream or plain message: what its sender saw, and what became of it."""

    __slots__ = (
        "attempts", "dead", "deadline", "deliveries", "ended_at", "error", "has_expired", "invoked_at", "is_idempotent",
        "is_right", "is_too_large", "is_unheard", "kind", "may", "moved_again", "moved_by", "op", "outcome", "refusal",
        "requeued_at", "stream", "subscribers", "taken", "taken_at", "target", "told_by",
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
        """Calls: ``ok``, ``fault``, ``error``; None if call() never ended. Streams: the same, or ``left``."""
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
        """Events: who is to get it; plain messages: the stages that they pass."""
        self.deliveries: dict[str, Operation] = NONE
        """What became of it at each of those; there stand its attempts."""
        self.told_by: int | None = None
        """Events: the op that the service ran which published it."""
        self.is_unheard = False
        self.stream: StreamRead | None = None
        self.may: bool | None = None
        """Of named callers: whether they have the right to do that."""
        self.refusal = ""
        """The reason of a dead letter that says that its caller has no right, or no key."""
        self.moved_by: Process | None = None
        """The process of the bridge to which its target has confirmed it."""
        self.moved_again = False
        """That process has published it once more."""

    @property
    def is_acknowledged(self) -> bool:
        """Its sender was told that it is done (call) or taken (message)."""
        return (
            self.outcome == "ok" if self.kind in ("call", "stream") else self.taken in ("confirmed", "outbox", "sent")
        )

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
    ready: bool = False


@dataclass(frozen=True)
class AgentSample:
    t: float
    live: bool | None
    """None: it did not answer."""
    ready: bool
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
    agents: dict[str, list[AgentSample]] = field(default_factory=lambda: defaultdict(list))
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
