"""Job, Outcome, Settlement: one admitted request, what its service made of it, and what the broker is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from servicebus.transport.interface import Delivery
from servicebus.wire.envelope import CALL
from servicebus.wire.fault import Fault
from servicebus.wire.stamps import UNSTAMPED, Stamps

if TYPE_CHECKING:
    from collections.abc import Callable

    from servicebus.protocol.interface import AgentProtocol, Incoming
    from servicebus.runtime.journal import Release


def _nothing() -> None:
    pass


# Not frozen, though nobody changes them: these are made for every request, and object.__setattr__ for each field costs
# more than all else in them.


@dataclass(slots=True)
class Claim:
    """Somebody who waits for a job's end: a delivery to ack, and where its reply goes ("" for nowhere).

    A delivery tag is valid only on the connection that issued it; *generation* says which that was.
    """

    delivery: Delivery
    generation: int
    reply_to: str
    joined: Incoming | None = None
    """The attempt that it brought, if that is not the one that runs: a verdict has to be written for each."""
    stamps: Stamps = UNSTAMPED
    """What is believed of the delivery's headers; copies of it say so again."""


class Job:
    """One admitted request. Claims belong to the I/O thread; the service's thread reads the rest."""

    __slots__ = ("attempts", "claims", "deadline", "incoming", "is_cancelled", "protocol", "started")

    def __init__(self, incoming: Incoming, protocol: AgentProtocol, claim: Claim, deadline: float | None):
        self.incoming = incoming
        self.protocol = protocol
        self.claims = [claim]
        self.deadline = deadline
        self.attempts = 1
        """Which attempt this is, counted from 1; more than 1 for a message that is tried again."""
        self.is_cancelled = False
        """Its caller has given up. Set by the I/O thread, read by the service's."""
        self.started: Callable[[], None] = _nothing
        """To be called immediately before the service is run: from here on it may have had effects."""

    def __repr__(self) -> str:
        return f"<Job {self.incoming.kind.value} {self.incoming.id} for {self.incoming.key}>"


class Verdict(Enum):
    """What is to become of a job after its service has left it."""

    DONE = "done"
    FAILED = "failed"
    """The service raised: a message is tried again by its service's retry schedule, a caller is told."""
    RETRY = "retry"
    """The service asks for another attempt of this message."""
    REJECTED = "rejected"
    """The service wants this message among the dead letters, at once."""
    REQUEUE = "requeue"
    """The service cannot take this message now; it is no attempt."""
    NOT_RUN = "not run"
    """The service was not called: expired, cancelled, or its params are no JSON."""


DONE = Verdict.DONE
"""Asked for every request; see ``servicebus.wire.envelope.MESSAGE``."""


@dataclass(slots=True)
class Outcome:
    """What a service made of a job: reply bytes for a call; for a message the fault, if there was one."""

    job: Job
    reply: bytes | None = None
    fault: Fault | None = None
    verdict: Verdict = DONE
    retry_after_s: float | None = None
    """With RETRY: when; None for what the service's retry schedule says."""

    @property
    def is_final(self) -> bool:
        """The id is done with: a copy gets the same answer. Else it may come again."""
        if self.verdict is DONE:
            return True
        return self.job.incoming.kind is CALL and self.verdict in (Verdict.FAILED, Verdict.REJECTED)


@dataclass(frozen=True, slots=True)
class Burial:
    """Why a message goes to the dead letters."""

    reason: str
    detail: str
    trace: str = ""
    attempts: int = 0
    """How often it was run."""
    is_known_new: bool = True
    """The journal knew that it had not been executed. False: it was refused unseen, or for its age."""


@dataclass(frozen=True, slots=True)
class Postponement:
    """How long a message waits in the delay queues, and how often it was run and failed until now."""

    delay_s: float
    attempts: int


@dataclass(slots=True)
class Settlement:
    """What is done with deliveries: a reply published, or a copy of the message stored and confirmed; then the ack."""

    claims: list[Claim] = field(default_factory=list)
    reply: bytes | None = None
    burial: Burial | None = None
    postponement: Postponement | None = None
    job: Job | None = None
    """Whose end this is; None for a delivery that was never begun."""
    release: Release | None = None
    """Why the id may come again once the copy is stored; None if it may not."""
    is_full: bool = False
    """It is only for want of room that it is postponed."""
    on_full: Callable[[], None] | None = None
    """What to do instead of postponing it."""
    storing_in: int | None = None
    """The generation in which the copy was published and is not confirmed yet."""

    @property
    def copy(self) -> Burial | Postponement | None:
        """What is stored before the ack, if anything is."""
        return self.burial or self.postponement
