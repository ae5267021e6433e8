"""Request: one call, message or ping between its caller and the engine."""

from __future__ import annotations

import sys
import time
from concurrent.futures import InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any

from servicebus.client.future import LOOK_S, CallFuture
from servicebus.errors import CallTimeout, SendUnconfirmed, SignatureError
from servicebus.transport import forks
from servicebus.wire.address import Address
from servicebus.wire.envelope import MESSAGE, Kind
from servicebus.wire.printable import printable

if TYPE_CHECKING:
    from servicebus.client.link import Link
    from servicebus.client.path import Path
    from servicebus.protocol.interface import SenderProtocol

_MAX_TOLD = 16
_DOUBT = "sent a reply that cannot be believed"


MARGIN_S = 10.0
"""The I/O thread ends a request at its deadline, or a little later where an outbox has to be written. A caller waits
for so long after its deadline, then it stops by itself."""


@dataclass(slots=True)
class MessageOptions:
    """What only some messages have. Times are Unix milliseconds: they mean the same to a later process."""

    due_ms: int | None = None
    """Not to be run before; None for at once."""
    expires_ms: int | None = None
    """Not worth handing to a broker after; None for as long as its token would be accepted."""
    row: int = 0
    """Its number in the outbox that it is delivered from; 0 if it comes from a caller."""
    is_kept: bool = False
    """Its caller waits for the disk only."""


class Request:
    """What is asked, until it has ended. Made in the caller's thread, then the engine's alone.

    Its caller waits here (``wait()``), or holds a ``future()``. Times are ``time.monotonic()``. ``body`` is made once
    the version is known in which it is sent, and does not change. It is what is published, but for the later attempts
    of a call: each of those is signed by itself, with its number, under the same id (``token_of()``).
    """

    __slots__ = (
        "_answer",
        "_error",
        "_forks",
        "_future",
        "_has_ended",
        "_is_abandoned",
        "_tokens",
        "_unsettled",
        "_waiter",
        "address",
        "attempt",
        "attempts",
        "body",
        "carried",
        "copied_as",
        "copy",
        "corrections",
        "deadline",
        "event_id",
        "hedge_after_s",
        "held_since",
        "id",
        "kind",
        "link",
        "options",
        "params",
        "path",
        "pinned",
        "protocol",
        "published_at",
        "refusals",
        "refused_with",
        "resend",
        "returned",
        "reverse",
        "sent_as",
        "sent_ms",
        "shift_ms",
        "size",
        "started_at",
        "token",
        "ttl_ms",
        "waiting_since",
    )

    def __init__(
        self,
        event_id: int,
        wire_id: str,
        address: Address,
        kind: Kind,
        params: bytes,
        *,
        timeout_s: float,
        body: bytes = b"",
        resend: bool = True,
        reverse: bool = False,
        pinned: Link | None = None,
        hedge_after_s: float | None = None,
        options: MessageOptions | None = None,
    ):
        self.event_id = event_id
        self.id = wire_id
        self.address = address
        self.kind = kind
        self.params = params
        """JSON text; empty for a message whose ``body`` is all that is sent."""
        self.body = body
        """As the newest version has its first attempt; empty until it is known that it is sent in that."""
        self.size = len(body or params)
        """How many bytes were published last, or about as many as will be."""
        self.token = ""
        """Of the last attempt in the newest version."""
        self.resend = resend
        self.reverse = reverse
        self.pinned = pinned
        self.hedge_after_s = hedge_after_s
        self.options = options
        self._forks = forks.count
        self.started_at = time.monotonic()
        self.deadline = self.started_at + timeout_s
        self.sent_ms = int(time.time() * 1000)
        """Unix milliseconds: when it was made. Its first attempt is dated so."""
        self.ttl_ms = max(1, int(timeout_s * 1000))
        self.link: Link | None = None
        self.path: Path | None = None
        self.copy: Path | None = None
        """Where a second copy of it is on its way (``hedge_after``)."""
        self.protocol: SenderProtocol | None = None
        """In which it was published last; its reply is read in the same."""
        self.published_at: float | None = None
        self.waiting_since: float | None = None
        self.attempt = 0
        """The number of the last attempt to publish it."""
        self.sent_as = 0
        """Which attempt travels on ``path``."""
        self.copied_as = 0
        """Which attempt travels on ``copy``."""
        self.shift_ms = 0
        """By how much the last attempt was dated ahead of our clock, which its node contradicts."""
        self.corrections = 0
        """How often a node has contradicted it."""
        self._tokens: list[str] | None = None
        """Of the attempts before the last, from the second one on."""
        self._unsettled = 0
        self._has_ended = False
        self._is_abandoned = False
        self._answer: Any = None
        self._error: BaseException | None = None
        self._waiter: Lock | None = None
        self._future: CallFuture | None = None
        self.refusals = 0
        """How often its service was busy."""
        self.refused_with = ""
        """What it said the last time."""
        self.carried = 0
        """How often its node was lost while it may have run there."""
        self.held_since: float | None = None
        self.returned = False
        self.attempts: tuple[tuple[str, str], ...] = ()
        """Host, and what it did: of those that failed."""

    def __repr__(self) -> str:
        return f"<Request {self.kind.value} {self.id} to {self.address} on {self.link!r}>"

    def published(self) -> None:
        """One more attempt is on its way."""
        self._unsettled += 1

    def not_run(self) -> None:
        """One attempt certainly did nothing. What became of the others stays as unknown as it was."""
        self._unsettled -= 1

    @property
    def maybe_ran(self) -> bool:
        """An attempt was published, and neither returned nor answered: whether the node has it cannot be known."""
        return self._unsettled > 0

    def clock_ms(self) -> int:
        """Now in Unix milliseconds, by the clock that it was dated with."""
        return self.sent_ms + self.ttl_ms - int((self.deadline - time.monotonic()) * 1000)

    def signed_again(self, token: str) -> None:
        """The attempt to come is signed by *token*."""
        if self.attempt > 1:
            self._tokens = self._tokens or []
            self._tokens.append(self.token)
        self.token = token

    def token_of(self, attempt: int) -> str:
        """What *attempt* was signed with. Raises SignatureError if there was none."""
        if attempt == self.attempt:
            return self.token
        if self._tokens is None or not 0 < attempt < self.attempt:
            raise SignatureError(f"it answers attempt {attempt} of {self.attempt}")
        return self._tokens[attempt - 1]

    def attempt_on(self, link: Link) -> int:
        """The number of the attempt that travels over *link*; 0 if none does."""
        if self.path is not None and self.path.link is link:
            return self.sent_as
        return self.copied_as if self.copy is not None and self.copy.link is link else 0

    def tried(self, host: str, what: str) -> None:
        """Remember a failed attempt for the error text; one per host and reason is enough, and the last few are."""
        if (host, what) not in self.attempts:
            self.attempts = (*self.attempts[1 - _MAX_TOLD :], (host, what))

    def doubted(self, host: str, why: Exception) -> None:
        """Remember that *host* brought a reply that cannot be believed. A stranger may send many: the first is told."""
        if not any(name == host and what.startswith(_DOUBT) for name, what in self.attempts):
            self.tried(host, f"{_DOUBT} ({printable(str(why))})")

    @property
    def due_ms(self) -> int | None:
        return self.options.due_ms if self.options is not None else None

    @property
    def is_from_outbox(self) -> bool:
        return self.options is not None and self.options.row > 0

    def path_on(self, link: Link) -> Path | None:
        """The path over which it travels on *link*, if it does."""
        if self.path is not None and self.path.link is link:
            return self.path
        return self.copy if self.copy is not None and self.copy.link is link else None

    # -- its end -----------------------------------------------------------------------------------------------------

    @property
    def is_done(self) -> bool:
        """Answered, failed, or given up by its caller."""
        return self._has_ended or self._is_abandoned or (self._future is not None and self._future.was_cancelled)

    def has_ended(self) -> bool:
        """Answered or failed; for any thread."""
        return self._has_ended

    def future(self) -> CallFuture:
        """A Future for its end; only before it is given to the engine."""
        if self._future is None:
            self._future = CallFuture()
            self._future.wire_id, self._future.is_overdue = self.id, self.is_overdue
        return self._future

    def wait(self) -> Any:
        """Wait for its end, in the one thread that asked; gives the answer or raises what it failed with."""
        if not self._has_ended:
            # Cheaper than a Future. Who ends it sets the flag first and looks for us then, we do it the other way.
            waiter = Lock()
            waiter.acquire()
            self._waiter = waiter
            while not self._has_ended and not waiter.acquire(timeout=LOOK_S):
                if self.is_overdue():
                    break
        try:
            if self._error is not None:
                raise self._error
            return self._answer
        finally:
            del self  # an error's traceback refers to this frame, and the frame to the error

    def is_overdue(self) -> bool:
        """Whether the thread that ends requests has missed this one; if so it is ended here. For any thread."""
        is_gone = self._forks != forks.notice() or sys.is_finalizing()
        if not is_gone and time.monotonic() < self.deadline + MARGIN_S:
            return False
        waited_s = time.monotonic() - self.started_at
        address, did = str(self.address), "the I/O thread of this process did not end it"
        if self.kind is MESSAGE:
            self.fail(SendUnconfirmed(address, [*self.attempts, ("this process:", did)]))
        else:
            self.fail(CallTimeout(address, waited_s, [*self.attempts, ("this process:", did)]))
        return True

    def abandon(self) -> bool:
        """The thread that waited does not any more; False if it has ended."""
        self._is_abandoned = not self._has_ended
        return self._is_abandoned

    # The future first: the thread that runs the loop may be interrupted anywhere; what has not ended is ended again,
    # by its deadline at the latest.

    def complete(self, answer: Any) -> None:
        if not self._has_ended:
            if self._future is not None:
                try:  # noqa: SIM105 - suppress() takes longer than all the rest of this
                    self._future.set_result(answer)
                except InvalidStateError:  # cancelled by its caller, who does not want to know
                    pass
            self._answer = answer
            self._end()

    def fail(self, error: BaseException) -> None:
        if not self._has_ended:
            if self._future is not None:
                with suppress(InvalidStateError):
                    self._future.set_exception(error)
            self._error = error
            self._end()

    def _end(self) -> None:
        self._has_ended = True
        if self._future is not None:
            self._future.is_overdue = None
        if self._waiter is not None:
            self._waiter.release()
