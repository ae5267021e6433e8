"""Why the broker has cancelled a consumer: it does not say, so it is asked what there is of the queue."""

from __future__ import annotations

from collections.abc import Callable

from servicebus.errors import ConnectionLost, TransportError
from servicebus.transport.interface import BrokerChannel, BrokerConnection, Script
from servicebus.transport.steps import declare_queue

__all__ = ["ask_why_cancelled"]

_ANSWER_S = 1.0


def ask_why_cancelled(
    connection: BrokerConnection, queue: str, is_holding: bool, report: Callable[[TransportError], None]
) -> None:
    """Call *report* with the reason, once, within a second.

    Args:
        is_holding: deliveries of the consumer's channel are not settled yet. From RabbitMQ 4.3 on the consumer of a
            quorum queue is cancelled when a delivery was not settled within ``consumer_timeout``.
    """
    is_reported = False

    def report_once(what: str) -> None:
        nonlocal is_reported
        if not is_reported:
            is_reported = True
            reason = f"the broker cancelled the consumer of queue {queue}{what}"
            report(ConnectionLost(connection.host.place, reason, sent=True))

    def opened(channel: BrokerChannel) -> None:
        channel.run(_look(queue), lambda: found(channel))

    def found(channel: BrokerChannel) -> None:
        channel.close()
        causes = "which is still there: "
        if is_holding:
            causes += "a service took longer than the broker's consumer_timeout, or "
        report_once(f", {causes}its process was started again")

    def closed(error: TransportError) -> None:
        report_once(", which was deleted" if error.reply_code == 404 else "")

    connection.open_channel(opened, closed)
    connection.loop.call_later(_ANSWER_S, lambda: report_once(", which is out of reach"))


def _look(queue: str) -> Script:
    yield declare_queue(queue, passive=True)
