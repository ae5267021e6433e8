"""Job, Outcome, Settlement: one admitted request, what its service made of it, and what the broker is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from servicebus.transport.interface import Delivery
from servicebus.wire.envelope import Kind
from servicebus.wire.fault import Fault

if TYPE_CHECKING:
    from servicebus.runtime.dialect import Dialect


@dataclass(frozen=True, slots=True)
class Claim:
    """Somebody who waits for a job's end: a delivery to ack, and where its reply goes ("" for nowhere).

    A delivery tag is valid only on the connection that issued it; *generation* says which that was.
    """

    delivery: Delivery
    generation: int
    reply_to: str


@dataclass(frozen=True, slots=True)
class Incoming:
    """A request whose signature, age and node were found good; its params are not parsed yet."""

    id: str
    kind: Kind
    category: str
    service: str
    token: str
    version: str
    raw_params: bytes
    sent_ms: int
    remaining_s: float | None
    """Until nobody waits any more; None for a message."""
    expires_at: float
    """Unix time until which its token could be accepted."""
    reply_to: str
    given_id: str = ""
    """The id that a sender of version 1 gave: not unique, but what it and its service know."""
    is_patient: bool = False
    """Its sender knows no "busy": it may be kept waiting until there is room."""

    @property
    def key(self) -> str:
        return f"{self.category}.{self.service}"


class Job:
    """One admitted request. Claims belong to the I/O thread; the service's thread reads the rest."""

    __slots__ = ("claims", "deadline", "dialect", "incoming")

    def __init__(self, incoming: Incoming, dialect: Dialect, claim: Claim, deadline: float | None):
        self.incoming = incoming
        self.dialect = dialect
        self.claims = [claim]
        self.deadline = deadline

    def __repr__(self) -> str:
        return f"<Job {self.incoming.kind.value} {self.incoming.id} for {self.incoming.key}>"


@dataclass(slots=True)
class Outcome:
    """What a service made of a job: reply bytes for a call, or the fault that sends a message to the dead letters."""

    job: Job
    reply: bytes | None = None
    fault: Fault | None = None
    has_run: bool = True


@dataclass(slots=True)
class Burial:
    """Why a message goes to the dead letters."""

    reason: str
    detail: str
    trace: str = ""


@dataclass(slots=True)
class Settlement:
    """What is done with deliveries: a reply published, the message buried or put aside for a moment, then the ack."""

    claims: list[Claim] = field(default_factory=list)
    reply: bytes | None = None
    burial: Burial | None = None
    buries: str = ""
    """The id to tell ``Dispatcher.buried()`` when the dead letter is stored."""
    aside: bool = False
