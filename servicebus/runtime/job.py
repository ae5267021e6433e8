"""The values of a request on its way through a worker: Job, Outcome, Disposition, Copy.

``Delivery`` (what the broker delivered) and ``Incoming`` (what the protocol read) become a Job, a service makes an
Outcome of it, and a Disposition says what is done with the deliveries; a message that is kept is kept as a Copy.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

from servicebus._context import priority_in
from servicebus.protocol.plain import PlainProtocol
from servicebus.transport.interface import Delivery
from servicebus.transport.loop import nothing
from servicebus.wire.envelope import CALL, MESSAGE
from servicebus.wire.fault import Fault
from servicebus.wire.stamps import UNSTAMPED, Stamps

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from servicebus._plain import PlainMessage
    from servicebus.protocol.interface import AgentProtocol, Incoming
    from servicebus.runtime.journal import Release
    from servicebus.runtime.registration import Service


class Inbox(Protocol):
    """Of the thread that runs a service: where its jobs go."""

    @property
    def service(self) -> Service: ...
    @property
    def room(self) -> int:
        """How many jobs ``put()`` would accept now."""

    @property
    def problem(self) -> str:
        """Why it takes no requests though its inbox has room; empty if it does."""

    @property
    def elsewhere(self) -> str:
        """The queue to which its requests are passed on, as another worker runs it; "" if it runs here."""

    @property
    def common_queue(self) -> str | None:
        """The same wherever it runs; "" while nothing can be passed on. None if it is no singleton."""

    def put(self, job: Job) -> bool:
        """Accept *job*, or say False when there is no ``room``."""

    def put_again(self, job: Job) -> bool:
        """Whether ``put()`` has accepted *job*, or was about to. Then it is run, once, though it may come twice."""


# Not frozen, though most of them never change: these are made for every request, and object.__setattr__ for each field
# costs more than all else in them.


@dataclass(slots=True, eq=False, repr=False)
class PendingDelivery:
    """A delivery that waits for its acknowledgement, and where its reply goes ("" for nowhere)."""

    delivery: Delivery
    epoch: int
    """Of the connections that it came over. Its tag is void on all others."""
    reply_to: str

    @property
    def stamps(self) -> Stamps:
        """What is believed of the delivery's headers; copies of it say so again."""
        return UNSTAMPED

    @property
    def subscription(self) -> str:
        """The service ``category.name`` whose event it is; "" for everything else."""
        return ""

    @property
    def run_id(self) -> str:
        """By which the node knows it; of what could not be read, what its sender says it is."""
        return self.delivery.correlation_id or ""


@dataclass(slots=True, eq=False, repr=False)
class PendingEvent(PendingDelivery):
    """The same from the queue of a subscription, of what could not be read as an event."""

    subscription: str = ""


@dataclass(slots=True, eq=False, repr=False)
class Job(PendingDelivery):
    """A validated request. The I/O thread's, but for what the service's thread reads of it."""

    incoming: Incoming
    protocol: AgentProtocol
    service: Inbox | None = None
    """None for one that is refused."""
    deadline: float | None = None
    """``time.monotonic()`` after which its caller has given up."""
    on_full: Callable[[], None] | None = None
    """Called when the service does not take it now, in place of an answer, a deferral, or passing it on."""
    refusal: Disposition | None = None
    """Its end, if the journal does not know it: the journal must remember it, or a replay might be run later."""
    attempts: int = 1
    """Which attempt this is, counted from 1; more than 1 for a message that is tried again."""
    is_cancelled: bool = False
    """Its caller has given up. Set by the I/O thread, read by the service's."""
    started: Callable[[], None] = nothing
    """Called immediately before the service is run: from here on it may have had effects."""
    joined: list[Job] | None = None
    """Further deliveries of the same request, which wait for its end."""
    on_cancel: Callable[[Job], None] | None = None
    """Called by the I/O thread when its caller gives up, for a service that can be told."""
    is_taken: bool = False
    """Out of the inbox. Set by the service's thread."""
    fence: int | None = None
    """The number of the lease under which it runs, if its service has a lock on a Redis server."""
    is_answered: bool = False
    """Its own delivery is done with; only its end is still to be noted."""
    output: Any = None
    """Of a stream: its ``streams.StreamOutput``, once it has begun."""

    def __repr__(self) -> str:
        return f"<Job {self.incoming.kind.value} {self.incoming.id} for {self.incoming.key}>"

    @property
    def stamps(self) -> Stamps:
        return self.incoming.stamps

    @property
    def subscription(self) -> str:
        return self.protocol.subscription

    @property
    def plain(self) -> PlainMessage | None:
        """The message of another program that it is; None for everything else."""
        return self.protocol.plain_message(self.delivery) if isinstance(self.protocol, PlainProtocol) else None

    @property
    def event(self) -> str:
        """The name of the event that it is; "" for everything else."""
        return self.incoming.event

    @property
    def priority(self) -> int:
        """From 0 to 9: its sender's, or else that of its service. Only a node with ``priorities`` asks for it."""
        given = priority_in(self.incoming.context)
        if given is None:
            return 0 if self.service is None else self.service.service.priority
        return given

    @property
    def position(self) -> int:
        """The number of the first item that a stream is to yield; 0 for everything else."""
        return 0 if self.incoming.stream is None else self.incoming.stream.first

    @property
    def caller(self) -> str:
        """Whose key has signed it; "" for a secret of the bus."""
        return self.incoming.caller

    @property
    def run_id(self) -> str:
        """By which the journal knows it."""
        return self.incoming.id

    @property
    def waits_for(self) -> Inbox | None:
        """The service that it waits for while that is full; None for one that does not wait: a caller is told."""
        is_message = self.incoming.kind is MESSAGE and self.on_full is None and self.refusal is None
        return self.service if is_message else None

    def pending(self) -> list[Job]:
        """The deliveries that wait for its end."""
        own = [] if self.is_answered else [self]
        return own + self.joined if self.joined else own

    def join(self, other: Job) -> None:
        if self.joined is None:
            self.joined = []
        self.joined.append(other)


class JobResult(Enum):
    """What became of a job in its service."""

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


DONE = JobResult.DONE
"""Asked for every request; see ``servicebus.wire.envelope.MESSAGE``."""


@dataclass(slots=True)
class Outcome:
    """What a service made of a job: reply bytes for a call; for a message the fault, if there was one."""

    job: Job
    reply: bytes | None = None
    fault: Fault | None = None
    result: JobResult = DONE
    retry_after_s: float | None = None
    """With RETRY: when; None for what the service's retry schedule says."""

    @property
    def is_final(self) -> bool:
        """The id is done with: a copy gets the same answer. Else it may come again."""
        if self.result is DONE:
            return True
        return self.job.incoming.kind is CALL and self.result in (JobResult.FAILED, JobResult.REJECTED)


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy of a message that is stored before the message is acknowledged: a dead letter, or a later attempt."""

    attempts: int
    """How often the message was run."""
    delay_s: float = 0.0
    """How long it waits in the delay queues."""
    reason: str = ""
    """Why it is dead-lettered; "" for a later attempt."""
    detail: str = ""
    trace: str = ""
    is_known_new: bool = True
    """The journal knew that it had not been executed. False: it was refused unseen, or for its age."""
    is_deferred: bool = False
    """Only because its service is full."""
    queue: str = ""
    """Where it goes, as it is: to the worker that runs its service. "" for everything else."""


def dead_letter(reason: str, detail: str, trace: str = "", attempts: int = 0, *, is_known_new: bool = True) -> Copy:
    return Copy(attempts, 0.0, reason, detail, trace, is_known_new)


def later_attempt(delay_s: float, attempts: int, *, is_deferred: bool = False) -> Copy:
    return Copy(attempts, delay_s, is_deferred=is_deferred)


@dataclass(slots=True)
class Disposition:
    """What is done with deliveries: a reply is published, or a copy of the message stored; then they are acked."""

    pending: Sequence[PendingDelivery]
    reply: bytes | None = None
    copy: Copy | None = None
    job: Job | None = None
    """Whose end this is; None for a delivery that was never begun."""
    release: Release | None = None
    """Why the id may come again once the copy is stored; None if it may not."""
