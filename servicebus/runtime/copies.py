"""Copies of messages, for delay queues and dead letters: which queue, which headers. The body stays as it was sent."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from servicebus.configuration import Configuration
from servicebus.policy.retry_schedule import tier_for
from servicebus.runtime.job import Burial, Claim, Postponement, Settlement
from servicebus.wire import headers
from servicebus.wire.address import dead_queue, delay_queue
from servicebus.wire.signing import Keyring
from servicebus.wire.stamps import DeadLetterStamp, WaitStamp, write_dead_letter_stamp, write_wait

_DETAIL_CHARS = 1000
_TRACE_CHARS = 8000


class Copy(NamedTuple):
    queue: str
    headers: dict[str, Any]


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

    def copy(self, claim: Claim, settlement: Settlement) -> Copy:
        """The copy that *settlement* asks for, of the delivery of *claim*."""
        now = time.time()
        if settlement.burial is not None:
            return self._dead_letter(claim, settlement.burial, now)
        assert settlement.postponement is not None
        return self._delayed(claim, settlement.postponement, now)

    def _dead_letter(self, claim: Claim, burial: Burial, now: float) -> Copy:
        ticket = claim.stamps.ticket
        stamp = DeadLetterStamp(
            int(now),
            _first(claim, burial.attempts, now),
            burial.attempts,
            int(now + self._max_age_s) if burial.is_known_new else 0,
            ticket.id if ticket is not None else "",
        )
        reason = {
            headers.DEAD_LETTER: write_dead_letter_stamp(self._keyring, claim.delivery.body, burial.reason, stamp),
            headers.REASON: burial.reason,
            headers.DETAIL: burial.detail[:_DETAIL_CHARS],
            headers.TRACE: burial.trace[-_TRACE_CHARS:],
            headers.HOST: self._host_name,
        }
        return Copy(dead_queue(self._node), {**headers.as_sent(claim.delivery.headers), **reason})

    def _delayed(self, claim: Claim, postponement: Postponement, now: float) -> Copy:
        ticket, attempts = claim.stamps.ticket, postponement.attempts
        stamp = WaitStamp(int((now + postponement.delay_s) * 1000), attempts, _first(claim, attempts, now))
        kept = headers.as_sent(claim.delivery.headers)
        if ticket is not None:
            kept[headers.REQUEUED] = ticket.header
        kept[headers.WAIT] = write_wait(self._keyring, claim.delivery.body, ticket, stamp)
        return Copy(delay_queue(self._node, tier_for(postponement.delay_s)), kept)


def _first(claim: Claim, attempts: int, now: float) -> int:
    return (claim.stamps.wait.first or int(now)) if attempts > 0 else 0
