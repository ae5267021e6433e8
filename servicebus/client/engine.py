"""Engine: sends a Sender's requests over the brokers, and brings every one of them to an end.

Theory of operation. A request is either *in flight* (published on a link), *waiting* for a usable path, *paused* or
done (`pending`). What moves requests between these: a link that comes up, goes down or blocks, and a path that dies or
lives (here); a reply, a confirm or a return (`answers`); and a tick, for deadlines and silent paths (`timer`). How a
request finds its way is in `scheduler`.
Everything here runs in the thread that runs the client loop but ``ask()``, ``submit()``, ``status()``, ``close()`` and
``retire()``.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from servicebus.client.answers import Answers
from servicebus.client.discovery import Discoveries
from servicebus.client.future import has_ended
from servicebus.client.hosts import Connector, HostSelector
from servicebus.client.link import Link
from servicebus.client.nodes import Budgets, IdleNodes, Path
from servicebus.client.pending import PendingRequests
from servicebus.client.request import PendingRequest
from servicebus.client.request_errors import closed, defect, not_done
from servicebus.client.scheduler import RequestScheduler
from servicebus.client.streams import Streams
from servicebus.client.timer import Hedger, LivenessTimer
from servicebus.client.watch import Canceller, PathWatch, Pinger
from servicebus.configuration import Configuration
from servicebus.errors import NoBrokerAvailable
from servicebus.protocol.interface import SenderProtocol
from servicebus.protocol.v2 import ProtocolV2
from servicebus.transport.amqp import AmqpConnection
from servicebus.transport.interface import Connect
from servicebus.transport.interrupts import came_from_a_signal
from servicebus.transport.loggers import get_logger
from servicebus.transport.loop import nothing
from servicebus.transport.sharedloop import SharedLoop
from servicebus.wire.signing import Keyring

if TYPE_CHECKING:
    from servicebus.client.outbox import Outbox
    from servicebus.client.outbox_file import OutboxFile

LOG = get_logger(__name__)
_ROUNDED_S = 0.001  # a node tells the age of its queue in milliseconds


class Engine:
    """The machinery behind one Sender in one process."""

    def __init__(self, loop: SharedLoop, config: Configuration, keyring: Keyring, connect: Connect = AmqpConnection):
        self._loop = loop
        self.links: list[Link] = []
        """One for each configured host, in their order."""
        self._pending = PendingRequests()
        self._outbox: Outbox | None = None
        self._send_timeout_s = config.send_timeout
        self._connector = Connector(loop, config, self.links, self._is_awaited, self._is_owed)
        self._selector = HostSelector(self.links, config.failback_after)
        self._budgets = Budgets(self.links)
        self._canceller = Canceller()
        self._hedger = Hedger(loop, self._pending, self._selector, self._connector, self._budgets)
        parts: tuple[Any, ...] = self._pending, self._selector, self._connector, self._budgets, self._canceller
        self._scheduler = RequestScheduler(loop, config, self.links, *parts)
        newest, others, pinger = _protocols(config, keyring)
        self.newest = newest
        self.encodes_at_once = not others
        """Whether every request is sent in one version: then its caller's thread can encode it."""
        watch = PathWatch(config, pinger, self, self._hedger)
        self.discoveries = Discoveries(loop, self.links, newest)
        self.streams = Streams(loop, self.links, newest, self._pending, self._canceller)
        parts = self._pending, self._scheduler, watch, self._canceller, self.discoveries, self.streams
        self._answers = Answers(*parts, config.clock_skew)
        idle = IdleNodes(self.links, self._budgets, self._pending.is_awaited)
        parts = self._pending, self._scheduler, watch, self._connector, idle, self.streams.tick
        self._timer = LivenessTimer(loop, self.links, *parts)
        protocols = [newest, *others]
        self.links += [Link(loop, host, config, protocols, self, self._answers, connect) for host in config.hosts]
        self._submitted: deque[PendingRequest] = deque()
        self._is_scheduled = self._closed = False

    def __repr__(self) -> str:
        return f"<Engine {self._pending!r} links={self.links}>"

    # -- for any thread ----------------------------------------------------------------------------------------------

    def ask(self, request: PendingRequest) -> Any:
        """Submit *request* and wait for its end; if no other thread waits, this one runs the loop meanwhile.

        Raises LifecycleError in the thread that would have to read the answer: in a callback, say.
        """
        try:
            begin, submit = partial(self._take_submitted, request), partial(self.submit, request)
            self._loop.wait_for(begin, submit, partial(has_ended, request))
            return request.wait()
        except BaseException:
            if request.abandon():  # the caller was interrupted, and has given up
                self.give_up(request.id)
            raise
        finally:
            del request  # an error's traceback refers to this frame, and the frame to the error

    def await_end(self, is_over: Callable[[], bool]) -> None:
        """Run the loop in this thread until *is_over*, if no other waits; else come back at once.

        Raises LifecycleError as ``ask()`` does.
        """
        self._loop.wait_for(nothing, nothing, is_over)

    def can_wait_here(self) -> bool:
        """Whether this thread may wait for something that the I/O thread does."""
        return self._loop.can_wait_here()

    def submit(self, request: PendingRequest) -> None:
        self._submitted.append(request)
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.submit(self._take_submitted)

    def give_up(self, wire_id: str) -> None:
        """The caller of request *wire_id* has cancelled it."""
        self._loop.post(lambda: self._give_up(wire_id))

    def keep(self, events: Sequence[PendingRequest]) -> None:
        """Store *events* in the outbox in their order, all or none of them; from there they are published."""
        self._loop.post(lambda: self._keep(events))

    def use_outbox(self, file: OutboxFile, *, for_events: bool = False) -> None:
        """Keep messages, or only events, in *file* from now on, and deliver what is in it."""
        self._scheduler.keeps_events_alone = for_events
        from servicebus.client.outbox import Outbox

        outbox = Outbox(
            file,
            self._loop,
            self._scheduler.begin,
            self._selector.has_way_for_messages,
            self._send_timeout_s,
            self.newest.sign_and_encode,
        )
        self._outbox = outbox
        self._loop.post(lambda: self._use_outbox(outbox))

    def status(self) -> dict[str, Any]:
        """What an operator wants to see; a snapshot, callable from any thread."""
        best = self._connector.best(time.monotonic())
        return {
            "hosts": [link.status(is_preferred=link is best) for link in self.links],
            "busy": self._scheduler.busy,
            "travelling": len(self._pending.in_flight),
            "waiting": len(self._pending.waiting),
            "unverified_replies": self._answers.unverified + self.discoveries.unverified,
            "late_replies": self._answers.late,
            "hedged": self._hedger.hedged,
            "held_back": self._budgets.denied,
            "defects": self._loop.failures.count,
            "outbox": None if self._outbox is None else self._outbox.status(),
        }

    def close(self, on_closed: Callable[[], None]) -> None:
        """Fail what is unfinished and close the connections; ``on_closed()`` follows in the loop's thread."""
        self._loop.post(lambda: self._close(on_closed))

    def retire(self) -> None:
        """No thread can submit anything any more: close as soon as nothing is unfinished. Takes no lock."""
        self._loop.post(self._retire)

    def _take_submitted(self, last: PendingRequest | None = None) -> None:
        if last is not None:
            self._submitted.append(last)
        self._is_scheduled = False
        now = time.monotonic()
        while self._submitted:
            # It is struck off last: who takes it may be interrupted, and carried twice is better than not at all.
            request = self._submitted[0]
            try:
                if self._closed:
                    request.fail(closed(request))
                else:
                    self._scheduler.accept(request, now)
                    if request.hedge_after_s is not None:
                        self._hedger.watch(request, request.hedge_after_s)
            except Exception as error:  # a defect of ours: it ends this request, and must not end the next ones
                if came_from_a_signal(error):
                    raise
                LOG.exception("%r could not be sent", request)
                request.fail(defect(request, error))
            self._submitted.popleft()
        if not self._timer.is_busy:
            self._timer.set()

    def _give_up(self, wire_id: str) -> None:
        request = self._pending.find(wire_id)
        if request is not None:
            self._canceller.cancel(request)
            self._pending.give_up(request)
            request.dropped()

    def _use_outbox(self, outbox: Outbox) -> None:
        if self._closed:
            outbox.close(lambda: None)
            return
        self._scheduler.outbox = outbox
        self._timer.set()

    def _keep(self, events: Sequence[PendingRequest]) -> None:
        assert self._outbox is not None
        self._outbox.keep_all(events)
        self._timer.set()

    def _is_awaited(self) -> bool:
        return bool(self._pending.waiting) and not self._closed

    def _is_owed(self) -> bool:
        return self._outbox is not None and self._outbox.is_waiting and not self._closed

    # -- what the links tell -------------------------------------------------------------------------------------------

    def link_up(self, link: Link) -> None:
        now = time.monotonic()
        link.health.recover(now)
        for path in link.paths.values():
            path.revive(now)
        LOG.debug("%s: connected", link.host.name)
        self._scheduler.retry_waiting(now)
        self.discoveries.link_up(link)
        self._timer.set()

    def link_idle(self, link: Link) -> None:
        self._connector.connect_more()

    def link_down(self, link: Link, reason: str, orphans: list[PendingRequest]) -> None:
        if self._closed:
            return
        now, take_back = time.monotonic(), self._scheduler.take_back
        LOG.debug("%s: %s", link.host.name, reason)
        link.health.fail(reason)
        self._scheduler.each(orphans, lambda request: take_back(request, link, reason, now, "connection-lost"))
        for request in self._pending.pinned_to(link):
            self._pending.finish(request)
            request.fail(NoBrokerAvailable(str(request.address), [(link.host.name, reason)], not_done(request)))
        self.discoveries.link_down(link, reason)
        self._connector.failed(link, now)
        self._timer.set()

    def link_failed_for(self, request: PendingRequest, error: Exception, handle: Callable[..., object]) -> None:
        self._scheduler.give_up(request, error, handle)

    def link_blocked(self, link: Link, reason: str | None) -> None:
        now = time.monotonic()
        if reason is None:
            link.health.recover(now)
            self._scheduler.retry_waiting(now)
            return
        why = f"blocked by the broker ({reason})"
        LOG.warning("%s: %s; leaving it", link.host.name, why)
        link.health.fail(why)
        take_back = self._scheduler.take_back
        self._scheduler.each(link.take_orphans(), lambda request: take_back(request, link, why, now, "blocked"))

    # -- what the watch tells ------------------------------------------------------------------------------------------

    def path_alive(self, path: Path) -> None:
        self._scheduler.retry_waiting(time.monotonic(), path.node)

    def queue_made_anew(self, path: Path, made_at: float) -> None:
        """Calls that were published before *made_at* went into a queue that is gone, or to a worker that may be."""
        gone = [
            request
            for request in path.outstanding.values()
            if request.resend and request.published_at is not None and request.published_at < made_at - _ROUNDED_S
        ]
        self._take_back(path, gone, "the node's queue of calls was made again", "queue-lost", is_nodes_fault=True)

    def answers_lost(self, path: Path, ids: Sequence[str]) -> None:
        """The node has answered these, and no answer came: sent again, they get the answer that it has kept."""
        self._take_back(path, [path.outstanding[id] for id in ids], "lost the answer", "answer-lost")

    def path_dead(self, path: Path, why: str) -> None:
        path.health.fail(why)
        path.clock.heard(time.monotonic())
        self._take_back(path, list(path.outstanding.values()), why, "path-dead", is_nodes_fault=True)

    def _take_back(
        self, path: Path, requests: Sequence[PendingRequest], why: str, reason: str, *, is_nodes_fault: bool = False
    ) -> None:
        now = time.monotonic()
        for request in requests:
            path.outstanding.pop(request.id, None)
        self._scheduler.each(
            requests,
            lambda request: self._scheduler.take_back(request, path.link, why, now, reason, is_nodes_fault),
        )

    # -- the end -------------------------------------------------------------------------------------------------------

    def _retire(self) -> None:
        if self._submitted or len(self._pending) or self._is_owed():
            self._loop.call_later(1.0, self._retire)
        elif not self._closed:
            self._close(nothing)

    def _close(self, on_closed: Callable[[], None]) -> None:
        self._take_submitted()  # they came before the end
        self._closed = True
        self._timer.stop()

        def end(request: PendingRequest) -> None:
            self._canceller.cancel(request)
            self._scheduler.end(request, closed(request))

        self._scheduler.each(self._pending.take_all(), end)
        self.discoveries.close()
        self._take_submitted()
        for link in self.links:
            link.close()
        until = time.monotonic() + 1.0
        if self._scheduler.outbox is None:
            self._await_closed(on_closed, until)
        else:
            self._scheduler.outbox.close(lambda: self._await_closed(on_closed, until))

    def _await_closed(self, on_closed: Callable[[], None], deadline: float) -> None:
        if all(link.connections.is_gone for link in self.links):
            on_closed()
            return
        if time.monotonic() >= deadline:
            for link in self.links:
                link.connections.abort("the Sender was closed")
            on_closed()
            return
        self._loop.call_later(0.01, lambda: self._await_closed(on_closed, deadline))


def _protocols(config: Configuration, keyring: Keyring) -> tuple[ProtocolV2, list[SenderProtocol], Pinger]:
    """The newest version, the others in use, and the pinger that finds out where each is spoken."""
    if not config.compat:
        return ProtocolV2(config, keyring), [], Pinger(config)
    from servicebus.client.compat_path import CompatPinger, TrackingProtocolV2
    from servicebus.protocol.v1 import ProtocolV1

    newest, old = TrackingProtocolV2(config, keyring), ProtocolV1(config)
    return newest, [old], CompatPinger(config, newest, old)
