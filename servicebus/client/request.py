"""PendingRequest: one call, message or ping between its caller and the engine."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from servicebus.client.future import Awaited
from servicebus.client.request_state import TRANSITIONS, RequestEvent, RequestState
from servicebus.errors import EnvelopeError, LifecycleError, SignatureError
from servicebus.policy.transitions import after
from servicebus.transport import forks
from servicebus.wire.address import Address
from servicebus.wire.envelope import MESSAGE, Kind
from servicebus.wire.printable import printable

if TYPE_CHECKING:
    from servicebus.client.link import Link
    from servicebus.client.nodes import Path
    from servicebus.protocol.interface import SenderProtocol

_MAX_TOLD = 16
_DOUBT = "sent a reply that cannot be believed"


@dataclass(slots=True)
class MessageOptions:
    """What only some messages have. Times are Unix milliseconds: they mean the same to a later process."""

    due_ms: int | None = None
    """Not to be run before; None for at once."""
    expires_ms: int | None = None
    """Not worth handing to a broker after; None for as long as its token would be accepted."""
    row: int = 0
    """Its number in the outbox that it is delivered from; 0 if it comes from a caller."""


class PendingRequest(Awaited):
    """What is asked, until it has ended. Made in the caller's thread, then the engine's alone.

    Times are ``time.monotonic()``. ``body`` is made once the version is known in which it is sent, and does not change.
    It is what is published, but for the later attempts of a call: each of those is signed by itself, with its number,
    under the same id (``token_of()``).
    """

    __slots__ = (
        "_tokens",
        "_unsettled",
        "attempt",
        "body",
        "context",
        "contract",
        "corrections",
        "elsewhere_since",
        "event_id",
        "failovers",
        "hedge",
        "hedge_after_s",
        "hedged_as",
        "held_since",
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
        "token",
        "ttl_ms",
        "unsigned_refusals",
        "waiting_since",
    )

    params: bytes
    """JSON text; empty for a message whose ``body`` is all that is sent."""
    body: bytes
    """As the newest version has its first attempt; empty until it is known that it is sent in that."""
    size: int
    """How many bytes were published last, or about as many as will be."""
    token: str
    """Of the last attempt in the newest version."""
    sent_ms: int
    """Unix milliseconds: when it was made. Its first attempt is dated so."""
    link: Link | None
    path: Path | None
    hedge: Path | None
    """Where a second attempt travels beside the first (``hedge_after``)."""
    protocol: SenderProtocol | None
    """In which it was published last; its reply is read in the same."""
    published_at: float | None
    waiting_since: float | None
    """Since when it waits for a path, without what it was elsewhere in between."""
    elsewhere_since: float | None
    """Since when it does not wait, of one that has waited before; None while it waits."""
    held_since: float | None
    attempt: int
    """The number of the last attempt to publish it."""
    sent_as: int
    hedged_as: int
    """Which attempt travels on ``path``, and which on ``hedge``."""
    shift_ms: int
    """By how much the last attempt was dated ahead of our clock, which its node contradicts."""
    corrections: int
    """How often a node has contradicted it."""
    refusals: int
    refused_with: str
    """How often its service was busy, and what it said the last time."""
    failovers: int
    """How often its node was lost while it may have run there."""
    attempts: tuple[tuple[str, str], ...]
    """Host, and what it did: of those that failed."""
    unsigned_refusals: dict[int, EnvelopeError] | None
    """Attempts of which a reply that proves nothing says that they were not run, and what it says."""
    _tokens: list[str] | None
    """Of the attempts before the last, from the second one on."""
    stream = ""  # the terms as they travel, of a StreamRequest alone

    def __init__(  # all attributes in one constructor, those of Awaited too: it runs for every call
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
        contract: str = "",
        context: str = "",
    ):
        self.event_id, self.id, self.address = event_id, wire_id, address
        self.kind, self.params, self.body = kind, params, body
        self.contract, self.context, self.size = contract, context, len(body or params)
        self.resend, self.reverse, self.pinned = resend, reverse, pinned
        self.hedge_after_s, self.options = hedge_after_s, options
        self.state, self._forks, self.attempts = RequestState.NEW, forks.count, ()
        self.started_at = time.monotonic()
        self.deadline = self.started_at + timeout_s
        self.sent_ms = int(time.time() * 1000)
        self.ttl_ms = max(1, int(timeout_s * 1000))
        self.token = self.refused_with = ""
        self.link = self.path = self.hedge = self.protocol = self.unsigned_refusals = None
        self.published_at = self.waiting_since = self.elsewhere_since = self.held_since = None
        self.attempt = self.sent_as = self.hedged_as = self.shift_ms = 0
        self.corrections = self.refusals = self.failovers = self._unsettled = 0
        self.returned = self._has_ended = self._is_abandoned = False
        self._tokens = self._answer = self._error = self._waiter = self._on_end = self._future = None

    def __repr__(self) -> str:
        return f"<PendingRequest {self.kind.value} {self.id} to {self.address} {self.state.value} on {self.link!r}>"

    # -- its state, in the engine's thread -----------------------------------------------------------------------------

    def travels(self, path: Path, now: float) -> None:
        """Its next attempt goes over *path*. A call is published at once, a message when its channel has room."""
        try:
            state = TRANSITIONS[self.state][RequestEvent.PUBLISHED]
        except KeyError:
            raise LifecycleError(self.state.value, RequestEvent.PUBLISHED.value) from None
        self.link = path.link
        self.protocol = path.protocol
        self.published_at = now
        self.returned = False
        if self.kind is not MESSAGE:
            self.path = path
            self.attempt = self.sent_as = self.attempt + 1
            self.shift_ms = path.shift_ms
            self._unsettled += 1
        if self.waiting_since is not None and self.elsewhere_since is None:
            self.elsewhere_since = now
        self.state = state

    def travels_twice(self, path: Path) -> None:
        """Beside the attempt that is on its way a second one goes over *path*."""
        self.state = after(TRANSITIONS, self.state, RequestEvent.HEDGED)
        self.hedge = path
        self.attempt = self.hedged_as = self.attempt + 1
        self.shift_ms = path.shift_ms
        self._unsettled += 1

    def published(self) -> None:
        """The message is on its way."""
        self._unsettled += 1

    def published_late(self, now: float) -> None:
        """The message is published only now."""
        self.published_at = now

    def lost(self, link: Link) -> None:
        """The attempt on *link* came to nothing. Of two the other is still on its way."""
        self.state = after(TRANSITIONS, self.state, RequestEvent.LOST)
        if self.hedge is None:
            self.link = self.path = None
            return
        if self.hedge.link is not link:
            self.path, self.sent_as = self.hedge, self.hedged_as
        assert self.path is not None
        self.link, self.hedge = self.path.link, None

    def waits(self, now: float, limit_s: float) -> bool:
        """It waits for a path. What it waited before counts, unless it was elsewhere for over *limit_s* since.

        What it was elsewhere does not count: on its way, or held back. Returns whether ``waiting_since`` is another.
        """
        self.state = after(TRANSITIONS, self.state, RequestEvent.NO_PATH)
        since, elsewhere_s = self.waiting_since, now - (now if self.elsewhere_since is None else self.elsewhere_since)
        self.elsewhere_since = None
        self.waiting_since = now if since is None or elsewhere_s > limit_s else since + elsewhere_s
        return self.waiting_since != since

    def paused(self, why: str) -> None:
        """Its service was busy; *why* is what it said."""
        self.state = after(TRANSITIONS, self.state, RequestEvent.BUSY)
        self.refusals += 1
        self.refused_with = printable(why)
        self.link = self.path = self.waiting_since = self.elsewhere_since = None

    def held(self, now: float) -> None:
        """It must not be sent again just now."""
        self.state = after(TRANSITIONS, self.state, RequestEvent.HELD_BACK)
        self.held_since = now

    def resumed(self) -> None:
        """It does not wait any more, whatever it waited for."""
        self.state = after(TRANSITIONS, self.state, RequestEvent.RESUMED)
        self.held_since = None

    def begins_again(self) -> None:
        """The thread that took it was interrupted: it is taken once more, since twice is better than not at all."""
        if self.state is RequestState.WAITING:
            self.resumed()
        elif self.state is RequestState.IN_FLIGHT and self.link is not None:
            self.lost(self.link)

    def stored(self) -> None:
        """The outbox has it; its end follows when it is on disk."""
        self.state = after(TRANSITIONS, self.state, RequestEvent.STORED)

    def failed_over(self) -> int:
        """Its node was lost while it may have run there: how often by now."""
        self.failovers += 1
        return self.failovers

    def clock_corrected(self) -> None:
        """Its node contradicts our clock, and is believed."""
        self.corrections += 1

    def came_back(self) -> None:
        """No queue took the message; its confirm follows."""
        self.returned = True

    def not_run(self, attempt: int = 0) -> None:
        """One attempt certainly did nothing. What became of the others stays as unknown as it was."""
        self._unsettled -= 1
        (self.unsigned_refusals or {}).pop(attempt, None)

    def refused_unsigned(self, attempt: int, error: EnvelopeError) -> None:
        """A reply that proves nothing says that *attempt* did not run."""
        self.unsigned_refusals = {**(self.unsigned_refusals or {}), attempt: error}

    @property
    def maybe_ran(self) -> bool:
        """An attempt was published, and neither returned nor answered: whether the node has it cannot be known."""
        return self._unsettled > 0

    @property
    def is_said_not_run(self) -> bool:
        """Of each attempt it is certain, or said by a reply that proves nothing, that it did not run."""
        return len(self.unsigned_refusals or ()) >= self._unsettled

    def clock_ms(self) -> int:
        """Now in Unix milliseconds, by the clock that it was dated with."""
        return self.sent_ms + self.ttl_ms - int((self.deadline - time.monotonic()) * 1000)

    def measured(self, size: int) -> None:
        """So many bytes are published, in another version than the newest."""
        self.size = size

    def forget_params(self) -> None:
        """Each attempt of a message has the same bytes: one copy in memory is enough."""
        self.params = b""

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
        return self.hedged_as if self.hedge is not None and self.hedge.link is link else 0

    def tried(self, host: str, what: str) -> None:
        """Remember a failed attempt for the error text; one per host and reason is enough, and the last few are."""
        if (host, what) not in self.attempts:
            self.attempts = (*self.attempts[1 - _MAX_TOLD :], (host, what))

    def doubted(self, host: str, why: Exception) -> None:
        """Remember that *host* brought a reply that cannot be believed. A stranger may send many: the first is told."""
        if not any(name == host and what.startswith(_DOUBT) for name, what in self.attempts):
            self.tried(host, f"{_DOUBT} ({printable(str(why))})")

    @property
    def is_storing(self) -> bool:
        """Its caller waits for the disk only."""
        return self.state is RequestState.STORING

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
        return self.hedge if self.hedge is not None and self.hedge.link is link else None
