"""ReturnProbe: whether an exchange returns what no queue takes.

An exchange with an alternate exchange does not: what is published for a node that is away goes there instead, and is
confirmed. No AMQP method reports that; so a message is published that no queue takes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from servicebus.errors import ConnectFailed
from servicebus.transport.interface import BrokerChannel, Returned

__all__ = ["ReturnProbe"]


class ReturnProbe:
    """Of one exchange and one channel. A return comes before the answer to whatever is asked behind it."""

    def __init__(self, place: str, exchange: str):
        self.came_back = False
        self._place = place
        self._exchange = exchange
        self._key = f"servicebus.unroutable.{os.urandom(8).hex()}"

    def publish(self, channel: BrokerChannel, on_done: Callable[[Any], None]) -> None:
        """The step of a script that publishes it; does not wait."""
        channel.publish(self._exchange, self._key, b"", expiration_ms=1000, mandatory=True)
        on_done(None)

    def returned(self, returned: Returned) -> bool:
        """Whether *returned* is the probe."""
        is_mine = returned.routing_key == self._key
        self.came_back = self.came_back or is_mine
        return is_mine

    def failure(self) -> ConnectFailed:
        reason = (
            f"exchange {self._exchange} does not return what no queue takes, so messages to a node that is away would"
            " be confirmed and lost; remove its alternate exchange (argument or policy alternate-exchange)"
        )
        return ConnectFailed(self._place, reason, kind="topology")

    def no_exchange(self) -> ConnectFailed:
        reason = (
            f"there is no exchange {self._exchange}, and this user may not declare it; start an agent there, or grant"
            " the right to configure it (rabbitmqctl set_permissions)"
        )
        return ConnectFailed(self._place, reason, kind="topology")
