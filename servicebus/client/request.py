"""Request: one call, message or ping between its caller and the engine."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from servicebus.wire.address import Address
from servicebus.wire.envelope import Kind

if TYPE_CHECKING:
    from servicebus.client.link import Link
    from servicebus.client.path import Path
    from servicebus.client.version import Version


class Promise(Future[Any]):
    """The caller's end of a request. Who cancels it has given up, which the engine is told.

    It knows the request by its id only: two objects that know each other would have to be collected as garbage.
    """

    wire_id = ""
    on_cancel: Callable[[str], None] | None = None
    on_wait: Callable[[Callable[[], bool]], None] | None = None
    """What a thread does that waits, given a function that says whether this is done; it may come back sooner."""

    was_cancelled = False
    _is_answered = False
    _answer: Any = None

    # A Future takes its lock for each of these; who sees the flag needs none for what was set before it.

    def set_result(self, result: Any) -> None:
        super().set_result(result)
        self._answer = result
        self._is_answered = True

    def result(self, timeout: float | None = None) -> Any:
        if self._is_answered:
            return self._answer
        if timeout is None and self.on_wait is not None and not self.done():
            self.on_wait(self.done)
        return super().result(timeout)

    def cancel(self) -> bool:
        is_cancelled = super().cancel()
        self.was_cancelled = self.was_cancelled or is_cancelled
        on_cancel, self.on_cancel = self.on_cancel, None
        if is_cancelled and on_cancel is not None:
            on_cancel(self.wire_id)
        return is_cancelled


@dataclass(slots=True)
class Post:
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
    """What is asked, until its future is done. Made in the caller's thread, then the engine's alone.

    Times are ``time.monotonic()``. The bytes in ``body`` never change, whichever brokers it travels over: a re-send is
    the same envelope under the same id, and only its expiration on the broker gets shorter.
    """

    __slots__ = (
        "_is_done",
        "_maybe_ran_before",
        "address",
        "attempts",
        "body",
        "carried",
        "copy",
        "deadline",
        "event_id",
        "future",
        "hedge_after_s",
        "held_since",
        "id",
        "kind",
        "link",
        "maybe_ran",
        "path",
        "pinned",
        "post",
        "published_at",
        "refusals",
        "resend",
        "returned",
        "reverse",
        "says_fresh",
        "started_at",
        "token",
        "version",
        "waiting_since",
    )

    def __init__(
        self,
        event_id: int,
        wire_id: str,
        address: Address,
        kind: Kind,
        body: bytes,
        token: str,
        *,
        timeout_s: float,
        resend: bool = True,
        reverse: bool = False,
        pinned: Link | None = None,
        hedge_after_s: float | None = None,
        post: Post | None = None,
    ):
        self.event_id = event_id
        self.id = wire_id
        self.address = address
        self.kind = kind
        self.body = body
        self.token = token
        self.resend = resend
        self.reverse = reverse
        self.pinned = pinned
        self.hedge_after_s = hedge_after_s
        self.post = post
        self.started_at = time.monotonic()
        self.deadline = self.started_at + timeout_s
        self.future = Promise()
        self.link: Link | None = None
        self.path: Path | None = None
        self.copy: Path | None = None
        """Where a second copy of it is on its way (``hedge_after``)."""
        self.version: Version | None = None
        """In which it was published last; its reply is read in the same."""
        self.published_at: float | None = None
        self.waiting_since: float | None = None
        self.maybe_ran = False
        """Published, and neither returned nor answered: whether the node has it, nobody can know."""
        self._maybe_ran_before = False
        self._is_done = False
        self.refusals = 0
        """How often its service was busy."""
        self.says_fresh = False
        """The node takes it for late, our clock says otherwise: it travels with a mark that it was sent just now."""
        self.carried = 0
        """How often its node was lost while it may have run there."""
        self.held_since: float | None = None
        self.returned = False
        self.attempts: list[tuple[str, str]] = []

    def __repr__(self) -> str:
        return f"<Request {self.kind.value} {self.id} to {self.address} on {self.link!r}>"

    def published(self) -> None:
        """One more attempt is on its way."""
        self._maybe_ran_before = self.maybe_ran
        self.maybe_ran = True

    def not_run(self) -> None:
        """The last attempt certainly did nothing. What became of those before it stays as unknown as it was."""
        self.maybe_ran = self._maybe_ran_before

    def tried(self, host: str, what: str) -> None:
        """Remember a failed attempt for the error text; the last per host and reason is enough."""
        if (host, what) not in self.attempts:
            self.attempts.append((host, what))

    @property
    def due_ms(self) -> int | None:
        return self.post.due_ms if self.post is not None else None

    @property
    def is_from_outbox(self) -> bool:
        return self.post is not None and self.post.row > 0

    def path_on(self, link: Link) -> Path | None:
        """The path over which it travels on *link*, if it does."""
        if self.path is not None and self.path.link is link:
            return self.path
        return self.copy if self.copy is not None and self.copy.link is link else None

    @property
    def is_done(self) -> bool:
        """Answered, failed, or cancelled by its caller."""
        return self._is_done or self.future.was_cancelled

    def complete(self, result: Any) -> None:
        if not self._is_done:
            self._is_done = True
            with suppress(InvalidStateError):  # cancelled by its caller, who does not want to know
                self.future.set_result(result)

    def fail(self, error: BaseException) -> None:
        if not self._is_done:
            self._is_done = True
            with suppress(InvalidStateError):
                self.future.set_exception(error)
