"""Copies of messages, for delay queues and dead letters: which queue, which headers. The body stays as it was sent."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from servicebus.configuration import Configuration
from servicebus.policy.retry_schedule import tier_for
from servicebus.runtime.job import Copy, PendingDelivery
from servicebus.wire import headers
from servicebus.wire.address import dead_queue, delay_queue
from servicebus.wire.signing import Keyring
from servicebus.wire.stamps import DeadLetterStamp, WaitStamp, write_dead_letter_stamp, write_wait

_DETAIL_CHARS = 1000
_TRACE_CHARS = 8000


class CopyMaker:
    """Makes the copies of one worker.

    Args:
        host_name: the broker, for dead letters.
    """

    def __init__(self, config: Configuration, host_name: str):
        self._node = config.node_name
        self._max_age_s = config.token_max_age
        self._host_name = host_name
        self._keyring = Keyring(config.secrets)

    def __repr__(self) -> str:
        return f"<CopyMaker {self._node}@{self._host_name}>"

    def address(self, original: PendingDelivery, copy: Copy) -> tuple[str, Mapping[str, Any]]:
        """The queue and the headers of *copy*, which is one of *original*."""
        now = time.time()
        return self._dead_letter(original, copy, now) if copy.reason else self._later_attempt(original, copy, now)

    def _dead_letter(self, original: PendingDelivery, copy: Copy, now: float) -> tuple[str, Mapping[str, Any]]:
        ticket = original.stamps.ticket
        stamp = DeadLetterStamp(
            int(now),
            _first(original, copy.attempts, now),
            copy.attempts,
            int(now + self._max_age_s) if copy.is_known_new else 0,
            ticket.id if ticket is not None else "",
        )
        reason = {
            headers.DEAD_LETTER: write_dead_letter_stamp(self._keyring, original.delivery.body, copy.reason, stamp),
            headers.REASON: copy.reason,
            headers.DETAIL: copy.detail[:_DETAIL_CHARS],
            headers.TRACE: copy.trace[-_TRACE_CHARS:],
            headers.HOST: self._host_name,
        }
        return dead_queue(self._node), {**headers.as_sent(original.delivery.headers), **reason}

    def _later_attempt(self, original: PendingDelivery, copy: Copy, now: float) -> tuple[str, Mapping[str, Any]]:
        ticket, attempts = original.stamps.ticket, copy.attempts
        stamp = WaitStamp(int((now + copy.delay_s) * 1000), attempts, _first(original, attempts, now))
        kept = headers.as_sent(original.delivery.headers)
        if ticket is not None:
            kept[headers.REQUEUED] = ticket.header
        kept[headers.WAIT] = write_wait(self._keyring, original.delivery.body, ticket, stamp)
        return delay_queue(self._node, tier_for(copy.delay_s)), kept


def _first(original: PendingDelivery, attempts: int, now: float) -> int:
    return (original.stamps.wait.first or int(now)) if attempts > 0 else 0
