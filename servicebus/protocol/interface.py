"""What a protocol version does for a Sender (SenderProtocol) and an agent (AgentProtocol), and the values passed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from servicebus.errors import EnvelopeError, SignatureError
from servicebus.transport.interface import Delivery, Flaw
from servicebus.wire.address import Address
from servicebus.wire.envelope import Kind, Reply
from servicebus.wire.fault import Fault
from servicebus.wire.stamps import UNSTAMPED, Stamps
from servicebus.wire.streams import StreamTerms

# -- the Sender's side -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Exchange:
    """What has to be declared before anything can be published."""

    name: str
    is_durable: bool


class OutgoingPublish(NamedTuple):
    """What is published, and where to. A tuple: one is made for every call."""

    exchange: str
    routing_key: str
    body: bytes
    headers: Mapping[str, Any] | None = None
    priority: int | None = None


class Pong(NamedTuple):
    """The agent's reported state."""

    takes_calls: bool
    """False: it is stopping."""
    queue_age_s: float | None = None
    """For how long the node's queue of calls has been there, if the agent's worker has made it."""
    answered: Sequence[str] = ()
    """Of the calls that were asked about, those that the node has answered."""


class OutgoingRequest(Protocol):
    """What a protocol reads of a Sender's request (``client.request``), and what it reports to it."""

    id: str
    event_id: int
    address: Address
    kind: Kind
    params: bytes
    contract: str
    context: str
    stream: str
    sent_ms: int
    ttl_ms: int
    deadline: float
    body: bytes
    size: int
    token: str
    attempt: int
    shift_ms: int
    sent_as: int

    @property
    def due_ms(self) -> int | None: ...

    def measured(self, size: int) -> None: ...

    def signed_again(self, token: str) -> None: ...

    def token_of(self, attempt: int) -> str: ...


class SenderProtocol(Protocol):
    """How requests and pings are encoded and their answers decoded. For the engine's thread."""

    @property
    def exchange(self) -> Exchange: ...

    def encode_request(self, request: OutgoingRequest) -> OutgoingPublish:
        """The attempt of *request* to be published now. Raises EnvelopeError: this version cannot carry it."""

    def decode_reply(self, request: OutgoingRequest, body: bytes) -> Reply:
        """The verified reply to *request*. Raises EnvelopeError."""

    def decode_result(self, message: bytes, /) -> Any:
        """The result in a reply's message. Raises EnvelopeError."""

    def encode_ping(
        self, node: str, wire_id: str, timeout_s: float, calls: Sequence[str]
    ) -> tuple[str, OutgoingPublish]:
        """A ping, and the token that its pong is checked with. It asks which of *calls* (ids) the node has answered."""

    def decode_pong(self, wire_id: str, token: str, body: bytes) -> Pong:
        """The agent's answer to a ping. Raises EnvelopeError: *body* is no pong, or not verified."""

    def encode_cancel(self, node: str, cancelled_id: str, wire_id: str) -> tuple[OutgoingPublish, float] | None:
        """The cancellation of a call at its node, and for how many seconds that is worth delivering.

        None: this version has no such request.
        """


class UnsignedRefusal(SignatureError):
    """A reply says that the node does not know the key that signs here. It cannot be signed, so it proves nothing."""

    def __init__(self, key_id: str):
        super().__init__(f"unsigned, it says that key {key_id} is not known there; do both sides have the same secret?")
        self.key_id = key_id


def oversized(size: int, limit: int, subject: str = "") -> EnvelopeError:
    return EnvelopeError("oversized", f"{subject}{size} bytes, where max_envelope_bytes allows {limit}")


# -- the agent's side --------------------------------------------------------------------------------------------------

PublishReply = Callable[[Delivery, bytes, Callable[[str], None]], None]
"""Publishes the reply to a delivery on the broker that it came from, in the I/O thread.

Of a large reply the third argument is told why the broker refuses it, or ""; of others nothing.
"""


# Not frozen, though it never changes: one is made for every request, and object.__setattr__ for each field costs more
# than all else in it.
@dataclass(slots=True)
class Incoming:
    """A request whose signature, age and node were found good; its params are not parsed yet."""

    id: str
    """The id that the journal knows it by."""
    kind: Kind
    category: str
    service: str
    key: str
    """``category.service``. A field: a property costs a call for each request."""
    token: str
    version: str
    raw_params: bytes
    sent_ms: int
    """Unix milliseconds at which it was signed, or the requeue ticket of a dead letter was; 0 in version 1."""
    remaining_s: float | None
    """Until its deadline; None for a message."""
    expires_at: float
    """Unix time until which its token could be accepted."""
    reply_to: str
    given_id: str = ""
    """The id that its sender chose, where that is another: of version 1 (not unique), of a requeued dead letter, of an
    event, or of a caller with a key of its own."""
    attempt: int = 1
    """Which attempt of its Sender it is; the reply repeats it."""
    due_ms: int = 0
    """Unix milliseconds before which it is not run, by its envelope or by the worker that postponed it."""
    stamps: Stamps = UNSTAMPED
    contract: str = ""
    """The hash of what its caller was built against; "" if that is not known."""
    stream: StreamTerms | None = None
    """What a call says that asks for a stream; None for everything else."""
    is_patient: bool = False
    """Its sender does not know "busy": it may be kept waiting until there is room."""
    context: Mapping[str, str] | None = field(default=None, repr=False)
    """The pairs that its caller sent along, read-only; None if there are none."""
    event: str = ""
    """The name of the event that it is. Its category and service are those of the subscriber then."""
    caller: str = ""
    """Whose key has signed it; "" for a secret of the bus, whose peers may do everything."""


class RequestRefused(Exception):
    """A delivery that is not executed. ``reply`` goes to its sender, if it gets an answer."""

    def __init__(
        self,
        error: EnvelopeError,
        reply: bytes | None = None,
        reply_to: str = "",
        incoming: Incoming | None = None,
    ):
        super().__init__(str(error))
        self.error = error
        self.reply = reply
        self.reply_to = reply_to
        self.incoming = incoming
        """The request, if it is well signed: the journal must remember that it was refused."""

    def reply_in(self, kind: Kind) -> bytes | None:
        """``reply``, unless it is signed for a request of another *kind*: that may be a copy of one that runs."""
        return None if self.incoming is not None and self.incoming.kind is not kind else self.reply


def wrong_queue(incoming: Incoming, kind: Kind) -> RequestRefused:
    """*incoming* came in the queue for *kind*. No answer: a signed one would say that it was not run."""
    return RequestRefused(EnvelopeError("wrong-queue", f"a {incoming.kind.value} in the queue for {kind.value}s"))


def flawed(flaw: Flaw) -> RequestRefused:
    """The transport could not read a delivery, or did not keep it: its sender gets no answer."""
    return RequestRefused(EnvelopeError(flaw.reason, flaw.detail))


class AgentProtocol(Protocol):
    """``decode_request()`` belongs to the I/O thread; the encoding methods may be called by any thread."""

    @property
    def subscription(self) -> str:
        """The service ``category.name`` whose events it reads; "" for every other queue."""

    def decode_request(self, delivery: Delivery) -> Incoming:
        """Decode and verify. Raises RequestRefused."""

    def denial(self, incoming: Incoming) -> Fault | None:
        """Why the caller of *incoming*, who has a key of its own, may not ask for it; None if it may."""

    def encode_fault_unread(self, delivery: Delivery, fault: Fault) -> tuple[bytes | None, str]:
        """The reply to a call that ``decode_request()`` failed for, and its address; None if it is not well signed.

        Raises what ``decode_request()`` may have raised.
        """

    def encode_result(self, incoming: Incoming, value: Any) -> bytes:
        """The reply that carries *value*. Raises EnvelopeError: it cannot be encoded."""

    def encode_text(self, incoming: Incoming, text: bytes) -> bytes:
        """The reply that carries the value of JSON *text*. Raises EnvelopeError: it cannot be encoded."""

    def encode_fault(self, incoming: Incoming, fault: Fault) -> bytes | None:
        """The reply that reports *fault*; None if the caller gets no answer."""
