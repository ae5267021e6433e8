"""ConfirmedChannel: publishes, and reports of each publish whether the broker has it or has refused it.

Theory of operation. A broker answers a message that is larger than its max_message_size by closing the channel, and
does not say which one it was. The channel is in confirm mode, so it can only be one that was not confirmed: the one
whose size the broker names, or else the largest. That one is refused, the channel is opened again, and the others are
published once more. Those that the broker had taken before stand there twice then, as after any lost confirm. A
publish to an exchange that is not there, or to which this user may not write, is found in the same way: confirms come
in order, so it is the oldest to that exchange.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from servicebus.errors import MessageTooLarge, TransportError
from servicebus.policy.size_limit import SizeLimit
from servicebus.transport.confirms import Unconfirmed
from servicebus.transport.failurelog import FailureLog
from servicebus.transport.failures import ACCESS_REFUSED, NOT_FOUND
from servicebus.transport.headerfit import fitted
from servicebus.transport.interface import BrokerChannel, BrokerConnection, Returned, Script
from servicebus.transport.steps import set_prefetch

__all__ = ["NACK", "UNROUTABLE", "ConfirmedChannel", "Publish", "learn_from"]

_PRECONDITION_FAILED = 406
_DENIALS = (ACCESS_REFUSED, NOT_FOUND)
UNROUTABLE = "no queue is bound there for its routing key"
NACK = (
    "the broker refuses to store a message there (nack): is the queue full (max-length, reject-publish)? "
    "Empty it, or raise its limit"
)


@dataclass(slots=True)
class Publish:
    """A message on its way to a queue, or to an exchange by a routing key."""

    queue: str
    """Or the routing key."""
    body: bytes
    on_answered: Callable[[str], None]
    """Told why the broker refused it, or "": it has it."""
    properties: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of ``BrokerChannel.publish()``."""
    exchange: str = ""
    is_returned: bool = False


class ConfirmedChannel:
    """Belongs to the I/O thread, and to one connection.

    Args:
        limit: the broker's; what is learnt here is told there.
        on_returned: told of what no queue takes; None: that publish is refused as unroutable.
        has_exchanges: what is published may name any exchange; one that the broker denies costs that publish alone.
        on_broken: told when the channel is lost for another reason; then nothing more is answered.
    """

    def __init__(
        self,
        connection: BrokerConnection,
        host_name: str,
        limit: SizeLimit,
        failures: FailureLog,
        on_returned: Callable[[Returned], None] | None,
        on_broken: Callable[[TransportError], None],
        *,
        has_exchanges: bool = False,
    ):
        self._connection = connection
        self._host_name = host_name
        self._limit = limit
        self._failures = failures
        self._on_returned = on_returned or self._mark_returned
        self._has_exchanges = has_exchanges
        self._on_broken = on_broken
        self._channel: BrokerChannel | None = None
        self._unconfirmed: Unconfirmed[Publish] = Unconfirmed()
        self._waiting: list[Publish] = []
        self._has_nacked = False
        """This channel, since it was opened."""
        self._is_renewed = self._is_over = False
        """It is being closed, for another one to take its place; or for good."""

    def __repr__(self) -> str:
        return f"<ConfirmedChannel {self._host_name} {len(self)} unconfirmed>"

    def __len__(self) -> int:
        """How many are not answered."""
        return len(self._unconfirmed) + len(self._waiting)

    def open(self, on_ready: Callable[[], None]) -> None:
        def opened(channel: BrokerChannel) -> None:
            if self._is_over:
                channel.close()
                return
            self._channel, self._has_nacked = channel, False
            waiting, self._waiting = self._waiting, []
            for publish in waiting:
                self.publish(publish)
            on_ready()

        self._connection.open_channel(opened, self._closed, on_returned=self._on_returned, on_confirmed=self._confirmed)

    def publish(self, publish: Publish) -> None:
        """Publish it, now or when the channel is open again; what is known to be too large is refused at once."""
        size = len(publish.body)
        limit = self._limit.refuses(size, time.monotonic())
        channel = self._channel
        if limit is not None:
            self._answer(publish, self._too_large(size, limit))
        elif self._has_nacked or channel is None or not channel.is_open:
            self._waiting.append(publish)
            self._renew_if_due()
        else:
            about = _fitted(publish.properties, channel.frame_max)
            number = channel.publish(publish.exchange, publish.queue, publish.body, **about)
            self._unconfirmed.add(number, publish)

    def ask(self) -> None:
        """Have the broker say something, if it lives."""
        if self._channel is not None and self._channel.is_open:
            self._channel.run(_question())

    def forget(self) -> None:
        """What is not answered will not be."""
        self._unconfirmed.clear()
        self._waiting.clear()

    def close(self) -> None:
        """It is not needed any more; what is not answered will not be."""
        self.forget()
        channel, self._channel, self._is_over = self._channel, None, True
        if channel is not None:
            channel.close()

    def _renew_if_due(self) -> None:
        """Ask the queue that has refused over a new channel, as soon as this one has answered all else.

        A quorum queue refuses on behalf of each channel that it has told of its limit, and does not tell it when the
        limit is taken away (rabbitmq-server, issue 12206).
        """
        channel = self._channel
        if self._has_nacked and self._waiting and not self._unconfirmed and channel is not None and channel.is_open:
            self._channel, self._is_renewed = None, True
            channel.close()

    def _confirmed(self, number: int, multiple: bool, is_ack: bool) -> None:
        self._has_nacked |= not is_ack
        for publish in self._unconfirmed.settled(number, multiple):
            self._answer(publish, NACK if not is_ack else UNROUTABLE if publish.is_returned else "")
        self._renew_if_due()

    def _mark_returned(self, returned: Returned) -> None:
        """Its confirm follows. Of two that are the same in all of this, either may be the one."""
        wanted = returned.exchange, returned.routing_key, returned.body
        for publish in self._unconfirmed:
            if not publish.is_returned and (publish.exchange, publish.queue, publish.body) == wanted:
                publish.is_returned = True
                return

    def _answer(self, publish: Publish, refused: str) -> None:
        try:
            publish.on_answered(refused)
        except Exception as error:
            self._failures.report("the answer to a publish", error)

    def _closed(self, error: TransportError) -> None:
        self._channel = None
        if self._is_over:
            return
        if self._is_renewed and self._connection.is_open:
            self._is_renewed = False
            self.open(lambda: None)
            return
        pending = [*self._unconfirmed.clear(), *self._waiting]
        for publish in pending:
            publish.is_returned = False
        if error.reply_code in _DENIALS and self._has_exchanges and pending and self._connection.is_open:
            text = str(getattr(error, "reason", error))
            denied = next((each for each in pending if f"'{each.exchange}'" in text), pending[0])
            self._publish_again(pending, denied, text)
            return
        if error.reply_code != _PRECONDITION_FAILED or not pending:
            self._waiting.clear()
            self._on_broken(error)
            return
        size = error.size if isinstance(error, MessageTooLarge) else -1
        refused = next((each for each in pending if len(each.body) == size), None)
        if refused is None:
            refused = max(pending, key=lambda each: len(each.body))
        limit = error.limit if isinstance(error, MessageTooLarge) else len(refused.body) - 1
        self._limit.learn(limit, time.monotonic())
        self._publish_again(pending, refused, self._too_large(len(refused.body), limit))

    def _publish_again(self, pending: list[Publish], refused: Publish, why: str) -> None:
        self._waiting = [each for each in pending if each is not refused]
        self.open(lambda: None)
        self._answer(refused, why)

    def _too_large(self, size: int, limit: int) -> str:
        return f"it is {size} bytes, and broker {self._host_name} takes {limit}: raise its max_message_size"


def learn_from(limit: SizeLimit, error: TransportError) -> None:
    """A channel without confirms was closed because of *error*: of a message that is too large, perhaps.

    Which one that was is not known; larger ones are published on a ConfirmedChannel from now on.
    """
    if error.reply_code == _PRECONDITION_FAILED:
        limit.learn(error.limit if isinstance(error, MessageTooLarge) else None, time.monotonic())


def _question() -> Script:
    yield set_prefetch(0)


def _fitted(properties: Mapping[str, Any], frame_max: int) -> Mapping[str, Any]:
    given = properties.get("headers")
    return properties if given is None else {**properties, "headers": fitted(given, frame_max)}
