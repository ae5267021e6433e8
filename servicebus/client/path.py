"""Path: one (broker, node), with the calls that are outstanding on it and what is known of its health."""

from __future__ import annotations

from typing import TYPE_CHECKING

from servicebus.errors import EnvelopeError
from servicebus.policy.liveness import PingClock
from servicebus.policy.paths import Health

if TYPE_CHECKING:
    from servicebus.client.link import Link
    from servicebus.client.request import Request
    from servicebus.protocol.interface import SenderProtocol


class Path:
    """Belongs to the engine's thread."""

    __slots__ = (
        "answered",
        "calls",
        "clock",
        "doubt",
        "given_up_since",
        "health",
        "lacks_queue_until",
        "link",
        "link_bytes_at_ping",
        "node",
        "outstanding",
        "probe_at",
        "protocol",
        "shift_ms",
        "used_at",
    )

    def __init__(self, link: Link, node: str, clock: PingClock):
        self.link = link
        self.node = node
        self.clock = clock
        self.protocol: SenderProtocol = link.newest
        """The version that the node speaks, as far as is known."""
        self.health = Health()
        self.outstanding: dict[str, Request] = {}
        """In the order of publishing, so the first is the oldest."""
        self.given_up_since = 0.0
        """When the first of those was published that nobody waits for any more, since anything was heard."""
        self.used_at = clock.heard_at
        self.probe_at = 0.0
        self.lacks_queue_until = 0.0
        self.link_bytes_at_ping = -1
        self.shift_ms = 0
        """By how much the node's clock is ahead of ours, if it has said so."""
        self.calls = 0
        """Published here, ever."""
        self.answered = 0
        """Of them, answered by their service, ever."""
        self.doubt: EnvelopeError | None = None
        """Why answers over this path are not believed, if any came."""

    def __repr__(self) -> str:
        return f"<Path {self.link.host.name}->{self.node} outstanding={len(self.outstanding)} {self.health!r}>"

    def oldest(self) -> float | None:
        """When the oldest request was published that was not answered.

        Those that were given up count: were calls with limits shorter than ``path_ping_after`` forgotten with their
        deadlines, a Sender that makes no others would never ask whether the path is alive.
        """
        outstanding = next((request.published_at for request in self.outstanding.values()), None)
        if self.given_up_since <= self.clock.heard_at:
            return outstanding
        return self.given_up_since if outstanding is None else min(self.given_up_since, outstanding)

    def give_up(self, request: Request) -> None:
        """Nobody waits for *request* any more; it was not answered, and that says something about the path."""
        is_first = self.given_up_since <= self.clock.heard_at
        if self.outstanding.pop(request.id, None) is not None and is_first and request.published_at is not None:
            self.given_up_since = request.published_at

    def lacks_queue(self, now: float) -> bool:
        """A message came back a moment ago: the broker has no queue for the node's messages, or refused one (nack)."""
        return now < self.lacks_queue_until

    def revive(self, now: float) -> None:
        """The link is new: nothing that was known of the node behind the old one holds any more."""
        self.protocol = self.link.newest
        self.lacks_queue_until = 0.0
        self.doubt = None
        self.shift_ms = 0
        self.heard(now)

    def heard(self, now: float) -> None:
        self.clock.heard(now)
        self.health.recover(now)
