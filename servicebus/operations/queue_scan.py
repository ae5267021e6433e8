"""QueueScan: looks at each message of one queue once, from the oldest on; all but the taken ones stay in place.

Theory of operation. AMQP cannot look at a message without having it delivered. While it is delivered and not
acknowledged, no other client sees it. It goes back *to its place* when the channel closes, also when this process is
killed; so a scan over a queue that no other client changes leaves it as it was. The caller acks what it takes, and
calls ``keep()`` for the rest.

What is kept stays unacknowledged to the end, because it would come again at once if it were given back. The window of
a consumer that holds nothing but kept messages is exhausted, so it is cancelled and another one follows: that bounds
what waits in this process to one window, and costs the broker what an unacknowledged message costs it (about its size
in memory). Now and then a new channel follows too, because the broker looks for each ack among everything that its
channel holds.

A quorum queue counts how often it has delivered a message, and may have a delivery limit: 20 by default from RabbitMQ
4.0 on, and a policy can set one that no client sees. What would come back for the tenth time is therefore stored once
more, at the end of the queue, before it leaves its place. That holds for everything that was delivered to the scan,
also for what it did not look at.

A quorum queue also takes no more than 32 acks of a channel at a time; the channel keeps the rest back, and drops them
when it is closed (rabbit_fifo_client). So before a scan ends it waits until its queue has taken all of them, or what
was dropped, sent back or stored again would be there once more.

A scan looks at no more messages than were there when it began, or a dead letter that fails again at once would be seen
over and over. And RabbitMQ closes a channel that holds a message for longer than ``consumer_timeout`` (30 minutes by
default): every ten minutes a scan gives everything back and starts again with what it has not taken.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import TracebackType

from servicebus.errors import ConnectionLost
from servicebus.operations.consumption import Consumption
from servicebus.operations.sending import Sending
from servicebus.operations.session import Session
from servicebus.operations.session_channel import SessionChannel
from servicebus.transport.interface import Delivery
from servicebus.wire import headers

__all__ = ["IN_FLIGHT", "QueueScan"]

WINDOW = 200
IN_FLIGHT = WINDOW // 2
"""Publishes that wait for their confirm. Fewer than the window, or the broker would have nothing left to deliver."""
STORE_AGAIN_AT = 10
"""So often may a message come back to a quorum queue."""
KEPT_PER_CHANNEL = 1000
HOLD_S = 600.0
_SILENCE_S = 1.0
_LOOK_S = 0.02
_GIVE_BACK_S = 600.0
"""600,000 messages took a queue over 10 s, in which it answers nobody, on two cores with other work."""
_STALLED_S = 30.0
"""A broker that has messages and delivers none of them for so long does not work."""


class QueueScan:
    """One scan. Used by the session's thread.

    Args:
        before_renewal: called before the scan starts again: everything on its way must be settled, and what was only
            kept will be seen again.
    """

    def __init__(
        self,
        session: Session,
        queue: str,
        *,
        before_renewal: Callable[[], None],
        window: int = WINDOW,
        hold_s: float = HOLD_S,
    ):
        self.queue = queue
        self.exists = False
        self.total = 0
        """Messages that were there at the beginning."""
        self.left = 0
        """Messages that are there at its end; also those that came meanwhile."""
        self.renewals = 0
        self._session = session
        self._before_renewal = before_renewal
        self._window = window
        self._hold_s = hold_s
        self._channels: list[SessionChannel] = []
        self._consumption: Consumption | None = None
        self._again = Sending(session, queue, IN_FLIGHT)
        self._stored_again = 0
        self._seen = 0
        self._kept = 0
        self._taken_before = 0
        self._must_renew = False
        self._is_over = False
        facts = session.facts(queue)
        if facts is not None:
            self.exists = True
            self.total = self.left = facts.ready

    def __repr__(self) -> str:
        where = f"{self.queue} on {self._session.host.name}"
        return f"<QueueScan of {where}: {self._seen} of {self.total}, kept {self._kept}>"

    def __enter__(self) -> QueueScan:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(is_well=error is None)

    @property
    def channel(self) -> SessionChannel:
        """Where to publish and to ack, until the next message."""
        return self._channels[-1]

    @property
    def _taken(self) -> int:
        return self._taken_before + self._seen - self._kept

    def keep(self, delivery: Delivery) -> None:
        """The current message stays in the queue."""
        if self._stores_again(delivery):
            self._stored_again += 1
        else:
            self._kept += 1

    def _stores_again(self, delivery: Delivery) -> bool:
        """Whether *delivery* came back so often that it is stored once more, instead of coming back again."""
        found = delivery.headers
        times = max(headers.number(found, "x-delivery-count"), headers.number(found, "x-acquired-count"))
        if times < STORE_AGAIN_AT or delivery.flaw is not None:  # what cannot be read cannot be written
            return False
        self._again.send(self.channel, delivery, headers.kept_in_copies(found))
        return True

    def _keep_rest(self) -> None:
        """Give back what was delivered and not looked at."""
        consumption, self._consumption = self._consumption, None
        if consumption is not None:
            consumption.cancel()
            while (delivery := consumption.next(0)) is not None:
                self._stores_again(delivery)

    def _close(self, *, is_well: bool) -> None:
        """Give back what was not acked, the oldest first; if all is well, wait until every ack has arrived."""
        if is_well:
            self._keep_rest()
            self._again.wait()
            if self._taken or self._stored_again:
                self._wait_acked()
        channels, self._channels = self._channels, []
        for channel in channels:
            channel.close()
        if is_well and channels:
            self._wait_given_back()

    def _wait_acked(self) -> None:
        """A queue begins a consumption after all acks of the channel that it was sent before; the channel sends those
        that it kept back when it hears that.
        """
        for channel in self._channels:
            self._consumption = channel.consume(self.queue, prefetch=1)
            self._keep_rest()
            self._again.wait()

    def _wait_given_back(self) -> None:
        """The broker confirms the end of a channel before its messages are back; the next scan must find them all.

        Waited for only while the count changes: another client may be taking messages meanwhile.
        """
        expected = self.total - self._taken + self._stored_again
        self.left, changed_at = -1, time.monotonic()
        while self.left < expected and time.monotonic() - changed_at < _SILENCE_S:
            facts = self._session.facts(self.queue, busy_s=_GIVE_BACK_S)
            ready = 0 if facts is None else facts.ready
            if ready != self.left:
                self.left, changed_at = ready, time.monotonic()
            elif ready < expected:
                time.sleep(_LOOK_S)

    def __iter__(self) -> Iterator[Delivery]:
        left = self.total
        while left > 0:
            self._seen = self._kept = 0
            yield from self._scan_until(left)
            if self._seen >= left or not self._must_renew:
                return
            self._before_renewal()
            self._close(is_well=True)
            # What was taken is gone; what was kept comes again, in its old place.
            left -= self._seen - self._kept
            self._taken_before += self._seen - self._kept
            self.renewals += 1

    def _scan_until(self, left: int) -> Iterator[Delivery]:
        """Until *left* messages were seen, the queue is empty, or they have been held for too long."""
        self._must_renew = False
        renew_at = time.monotonic() + self._hold_s
        while self._seen < left:
            if self._kept >= KEPT_PER_CHANNEL * len(self._channels):
                self._channels.append(self._session.channel(confirms=True))
            self._consumption = self.channel.consume(self.queue, prefetch=self._window)
            yield from self._window_of(self._consumption, left, renew_at)
            if self._must_renew or self._is_over:
                return
            self._consumption.cancel()
            # For each that was stored again one more was delivered.
            while self._seen < left and (delivery := self._consumption.next(0)) is not None:
                self._seen += 1
                yield delivery
            self._keep_rest()

    def _window_of(self, consumption: Consumption, left: int, renew_at: float) -> Iterator[Delivery]:
        """What one consumer delivers, until its window is full of kept messages."""
        full_at = self._kept + self._window
        silent_since = time.monotonic()
        while self._seen < left and self._kept < full_at:
            delivery = consumption.next(_SILENCE_S)
            now = time.monotonic()
            if delivery is not None:
                self._seen += 1
                yield delivery
                silent_since = now = time.monotonic()
            elif self._nothing_comes(now - silent_since):
                self._is_over = True
                return
            if now > renew_at:
                self._must_renew = True
                return

    def _nothing_comes(self, silent_s: float) -> bool:
        """Another client may have taken what the scan has not seen yet."""
        if self.channel.declare(self.queue, passive=True).ready == 0:
            return silent_s > 2 * _SILENCE_S
        if silent_s > _STALLED_S:
            reason = f"queue {self.queue} has messages and delivers none for {silent_s:.0f} s"
            raise ConnectionLost(self._session.host.name, reason, sent=False)
        return False
