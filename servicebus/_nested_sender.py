"""NestedSender: the Sender that services get from their agent."""

from __future__ import annotations

from servicebus.errors import CallError, CallTimeout
from servicebus.middleware import MiddlewareSender
from servicebus.services import current_request
from servicebus.wire.address import Address

__all__ = ["NestedSender"]


class NestedSender(MiddlewareSender):
    """What ``request.get_sender()`` returns: one Sender for all services of a worker.

    A call that a service makes while it serves a call ends with that at the latest: its result would be of no use.
    """

    def close(self) -> None:
        """Nothing: other services use it too. It ends with the worker."""

    def _parse(self, target: str, timeout: float | None) -> tuple[Address, float]:
        address, timeout_s = super()._parse(target, timeout)
        request = current_request()
        remaining_s = None if request is None else request.remaining
        if remaining_s is None:
            return address, timeout_s
        if remaining_s <= 0:
            why = CallError(str(address), "not sent: the deadline of the request that is being served has passed")
            raise CallTimeout(str(address), 0.0) from why
        return address, min(timeout_s, remaining_s)
