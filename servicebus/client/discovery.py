"""Discoveries: questions to the agents of all nodes, over every broker at once.

Theory of operation. Each worker binds a queue of its own to one routing key of the exchange, so that a request with
that key reaches all of them, and each node of the pattern answers. It is signed once for each broker, with an id of its
own: an answer that is moved to another broker proves nothing. How many will answer nobody knows. So a broker is done
when it returns the request (no agent is there), when it is lost, or when nothing new has come for a while: as long
again as the last answer took, and at least *quiet_s*; before the first one it is not known how slow nodes are just now,
and at least ``_FIRST_S`` pass. Behind the request goes a message that comes back in any case: it tells a broker that is
silent from one whose nodes are not meant. What cannot be believed prolongs nothing, and leaves nothing behind but a
count.

A node is no slower than others for being new. So once all nodes have answered that did the last time, of *n* in any
order, the next one would have been heard of long before it has taken as long as the last one again: a discovery that
*trusts_known* waits for as long as ``_FURTHER`` nodes have taken on the average.
"""

from __future__ import annotations

import itertools
import os
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from servicebus.client.future import MARGIN_S, CallFuture
from servicebus.client.link import Link
from servicebus.client.tails import Tails
from servicebus.errors import CallError, EnvelopeError, LifecycleError
from servicebus.protocol.discovery import Answer, Question
from servicebus.protocol.v2 import ProtocolV2
from servicebus.transport import forks
from servicebus.transport.interface import Delivery
from servicebus.transport.loggers import get_logger
from servicebus.transport.loop import EventLoop, Timer
from servicebus.transport.ratelimitedlog import RateLimitedLog
from servicebus.wire.address import EVERY_NODE, NOBODY_KEY
from servicebus.wire.envelope import make_id

LOG = get_logger(__name__)

_FIRST_S = 0.5
"""For a node that its machine leaves no time, or whose Python code holds the interpreter."""
_FURTHER = 4
"""One of *n* + 1 nodes is the last with a chance of 1 in *n* + 1, and seldom by four times the mean gap."""


@dataclass(slots=True, eq=False)
class _Asked:
    """One broker, and what is heard over it."""

    link: Link
    wire_id: str = ""
    probe_id: str = ""
    """Of the message that comes back."""
    token: str = ""
    published_at: float = 0.0
    heard_at: float = 0.0
    """When the last node answered that had not before; 0 for none."""
    probed_at: float = 0.0
    """When the probe came back; 0 if it has not."""
    known: int = 0
    """How many nodes are expected to answer, as they did the last time; 0 if that is not to be relied on."""
    missing: set[str] = field(default_factory=set)
    """Of those, who has not answered yet."""
    is_done: bool = False
    problem: str = ""
    """Why the nodes behind it were not asked, or may not all have answered."""

    def quiet_at(self, quiet_s: float, overdue_at: float) -> float:
        """When to wait for no further answers."""
        if self.heard_at:
            took_s = self.heard_at - self.published_at
            share = 1.0 if self.missing or self.known <= _FURTHER else _FURTHER / self.known
            return self.heard_at + share * max(quiet_s, took_s)
        if self.probed_at:
            return self.probed_at + max(quiet_s, _FIRST_S, self.probed_at - self.published_at)
        return overdue_at


class Discovery:
    """One question. Made by any thread, then the engine's.

    Args:
        on_node: called with each answer, and the name of the broker over which it came; those of one node over several
            brokers are several.
        is_held: asked before it ends early; while it holds, there is still time for nodes that are slow to answer.
        trusts_known: it ends soon after all nodes have answered that did the last time.
    """

    def __init__(
        self,
        question: Question,
        timeout_s: float,
        quiet_s: float,
        on_node: Callable[[Answer, str], None] | None = None,
        is_held: Callable[[], bool] | None = None,
        *,
        trusts_known: bool = False,
    ):
        self.question = question
        self.quiet_s = quiet_s
        self.on_node = on_node
        self.is_held = is_held
        self.trusts_known = trusts_known
        self.started_at = time.monotonic()
        self.overdue_at = self.started_at + timeout_s
        self.nodes: dict[str, dict[str, None]] = {}
        """Brokers by the names of the nodes that have answered over them."""
        self.services: dict[tuple[str, str], set[str]] = {}
        """The nodes that have it, by kind and ``category.name``."""
        self.asked: list[_Asked] = []
        self.timer: Timer | None = None
        self._forks = forks.count
        self.future = CallFuture()
        """Ends with it, and has no result."""
        self.future.is_overdue = self.is_overdue

    def __repr__(self) -> str:
        return f"<Discovery of {self.question.nodes} nodes={len(self.nodes)} over {len(self.asked)} brokers>"

    @property
    def has_ended(self) -> bool:
        return self.future.done()

    @property
    def problems(self) -> dict[str, str]:
        """Why the nodes behind a broker may not all have been found, by its name; for after its end."""
        return {asked.link.host.name: asked.problem for asked in self.asked if asked.problem}

    def is_overdue(self) -> bool:
        """Whether the thread that ends discoveries has missed this one; if so it is ended here. For any thread."""
        if self._forks == forks.notice() and time.monotonic() < self.overdue_at + MARGIN_S:
            return False
        self.end(LifecycleError("the I/O thread of this process did not end it", "wait for answers"))
        return True

    def end(self, error: BaseException | None = None) -> None:
        if self.timer is not None:
            self.timer.cancel()
        with suppress(InvalidStateError):  # it has ended, or its caller has cancelled it
            if error is None:
                self.future.set_result(None)
            else:
                self.future.set_exception(error)


class Discoveries:
    """Belongs to the engine's thread, but for ``ask()`` and ``post()``."""

    tails: Tails
    """What else is asked of all nodes: their log records."""

    def __init__(self, loop: EventLoop, links: Sequence[Link], protocol: ProtocolV2):
        self._loop = loop
        self._links = links
        self._protocol = protocol
        self._incarnation = os.urandom(8).hex()
        self._count = itertools.count(1)
        self._open: dict[Discovery, None] = {}
        self._asked: dict[str, tuple[Discovery, _Asked]] = {}
        self._known: defaultdict[Link, set[str]] = defaultdict(set)
        """The nodes that have answered over each, but for those that did not do so when they were asked again."""
        self.tails = Tails(loop, links, protocol)
        self._not_believed = 0
        self._unverified = RateLimitedLog(LOG, "discovery")
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<Discoveries open={len(self._open)}>"

    def __len__(self) -> int:
        return len(self._open)

    @property
    def unverified(self) -> int:
        """Answers that cannot be believed, ever."""
        return self._not_believed + self.tails.unverified

    def ask(self, discovery: Discovery, session_await: Callable[[Callable[[], bool]], None]) -> None:
        """Begin *discovery*; it ends, whatever happens. Cancelling its future ends it, too.

        Args:
            session_await: lets a thread that waits for it run the loop.
        """
        discovery.future.on_wait = session_await
        discovery.future.on_cancel = lambda _: self.post(lambda: self.end(discovery))
        self.post(lambda: self._begin(discovery))

    def post(self, callback: Callable[[], None]) -> None:
        """Have *callback* called in the engine's thread."""
        self._loop.post(callback)

    def end(self, discovery: Discovery, error: BaseException | None = None) -> None:
        """No more is to be heard of it."""
        self._open.pop(discovery, None)
        now = time.monotonic()
        for asked in discovery.asked:
            self._forget(asked)
            if not (asked.is_done or asked.heard_at or asked.probed_at):
                waited_s = now - (asked.published_at or discovery.started_at)
                asked.problem = f"no answer within {waited_s:.3g} s" if asked.wire_id else asked.link.describe()
        discovery.end(error)

    def close(self) -> None:
        """The Sender is closed."""
        self._is_closed = True
        for discovery in list(self._open):
            self.end(discovery, _closed())
        self.tails.close()

    # -- what the links bring ------------------------------------------------------------------------------------------

    def link_up(self, link: Link) -> None:
        now = time.monotonic()
        for discovery, asked in self._waiting_for(link):
            if not asked.wire_id:
                self._ask(discovery, asked, now)
        self.tails.link_up(link)

    def link_down(self, link: Link, reason: str) -> None:
        for discovery, asked in self._waiting_for(link):
            self._done(discovery, asked, reason)
        self.tails.link_down(link, reason)

    def answered(self, link: Link, delivery: Delivery, now: float) -> bool:
        """Take an answer; False if it is none to what was asked here."""
        wire_id = delivery.correlation_id or ""
        found = self._asked.get(wire_id)
        if found is None:
            return self.tails.answered(link, delivery, now)
        discovery, asked = found
        try:
            if wire_id != asked.wire_id:
                raise EnvelopeError("signature", "it answers what asks nothing")
            if link is not asked.link:
                raise EnvelopeError("signature", "it answers what was asked over another broker")
            if delivery.flaw is not None:
                raise EnvelopeError(delivery.flaw.reason, delivery.flaw.detail)
            answer = self._protocol.decode_discovery(asked.wire_id, asked.token, delivery.body)
        except EnvelopeError as error:
            self._not_believed += 1
            self._unverified.warning(f"{link.host.name}: ignored an answer to a discovery: {error}")
        else:
            self._take(discovery, asked, answer, now)
        return True

    def returned(self, link: Link, wire_id: str, now: float) -> bool:
        """Nobody is there to be asked, or the broker lives; False if it is none of ours that came back."""
        found = self._asked.get(wire_id)
        if found is None or found[1].link is not link:
            return self.tails.returned(link, wire_id)
        discovery, asked = found
        if wire_id == asked.wire_id:
            self._done(discovery, asked, "")
        else:
            asked.probed_at = now
            self.look(discovery)
        return True

    def look(self, discovery: Discovery) -> None:
        """See whether there is still something to wait for; and when to look again."""
        if discovery not in self._open:
            return
        if discovery.timer is not None:
            discovery.timer.cancel()
        now, due = time.monotonic(), discovery.overdue_at
        if now < due:
            open_ones = [asked for asked in discovery.asked if not asked.is_done]
            quiet_at = max((asked.quiet_at(discovery.quiet_s, due) for asked in open_ones), default=now)
            if quiet_at > now:
                due = min(due, quiet_at)
            elif discovery.is_held is None or not discovery.is_held():
                due = now
        if due > now:
            discovery.timer = self._loop.call_later(due - now, lambda: self.look(discovery))
            return
        for asked in discovery.asked:
            self._known[asked.link] -= asked.missing
        self.end(discovery)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _begin(self, discovery: Discovery) -> None:
        """Ask over every broker; over one that is not connected, as soon as it is."""
        now = time.monotonic()
        if self._is_closed or discovery.has_ended:
            discovery.end(_closed())
            return
        self._open[discovery] = None
        discovery.asked = [_Asked(link) for link in self._links]
        for asked in discovery.asked:
            if asked.link.is_usable:
                self._ask(discovery, asked, now)
            elif asked.link.is_up:  # and blocked
                asked.is_done, asked.problem = True, asked.link.describe()
            else:
                asked.link.connect(now)
        self.look(discovery)

    def _ask(self, discovery: Discovery, asked: _Asked, now: float) -> None:
        left_s = max(0.001, discovery.overdue_at - now)
        asked.wire_id = make_id(self._incarnation, next(self._count))
        asked.token, outgoing = self._protocol.encode_discovery(asked.wire_id, left_s, discovery.question)
        asked.published_at = asked.link.used_at = now
        asked.missing = {node for node in self._known[asked.link] if discovery.question.is_for(node)}
        asked.known = len(asked.missing) if discovery.trusts_known else 0
        self._asked[asked.wire_id] = discovery, asked
        expiration_ms = max(1, int(left_s * 1000))
        asked.link.publish_control(outgoing, asked.wire_id, expiration_ms)
        asked.probe_id = make_id(self._incarnation, next(self._count))
        self._asked[asked.probe_id] = discovery, asked
        probe = outgoing._replace(routing_key=NOBODY_KEY, body=b"")
        asked.link.publish_control(probe, asked.probe_id, expiration_ms)

    def _forget(self, asked: _Asked) -> None:
        self._asked.pop(asked.wire_id, None)
        self._asked.pop(asked.probe_id, None)

    def _take(self, discovery: Discovery, asked: _Asked, answer: Answer, now: float) -> None:
        brokers = discovery.nodes.setdefault(answer.node, {})
        shortens = not asked.heard_at or asked.missing == {answer.node}
        asked.missing.discard(answer.node)
        self._known[asked.link].add(answer.node)
        if asked.link.host.name not in brokers:
            brokers[asked.link.host.name] = None
            asked.heard_at = now
        for service in answer.services:
            discovery.services.setdefault(service, set()).add(answer.node)
        if discovery.on_node is not None:
            discovery.on_node(answer, asked.link.host.name)
        if shortens:
            self.look(discovery)

    def _done(self, discovery: Discovery, asked: _Asked, problem: str) -> None:
        if not asked.is_done:
            asked.is_done, asked.problem = True, problem
            self._forget(asked)
            self.look(discovery)

    def _waiting_for(self, link: Link) -> list[tuple[Discovery, Any]]:
        found = [(discovery, asked) for discovery in self._open for asked in discovery.asked]
        return [(discovery, asked) for discovery, asked in found if asked.link is link and not asked.is_done]


def _closed() -> CallError:
    return CallError(EVERY_NODE, "the Sender was closed before the answers came")
