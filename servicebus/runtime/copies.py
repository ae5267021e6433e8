"""Copies of messages, for delay queues and dead letters: which queue, which headers. The body stays as it was sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from servicebus.policy.ladder import rung_for
from servicebus.runtime.job import Burial, Postponement
from servicebus.wire import headers
from servicebus.wire.address import dead_queue, delay_queue

_DETAIL_CHARS = 1000
_TRACE_CHARS = 8000


class Copy(NamedTuple):
    queue: str
    headers: dict[str, Any]


def dead_letter(node: str, given: Mapping[str, Any] | None, burial: Burial, host_name: str, now: float) -> Copy:
    """*now* is Unix time; *given* are the headers that the message came with."""
    reason = {
        headers.REASON: burial.reason,
        headers.DETAIL: burial.detail[:_DETAIL_CHARS],
        headers.TRACE: burial.trace[-_TRACE_CHARS:],
        headers.HOST: host_name,
        headers.TIME: int(now),
    }
    return Copy(dead_queue(node), {**_history(given, burial.attempts, now), **reason})


def delayed(node: str, given: Mapping[str, Any] | None, postponement: Postponement, now: float) -> Copy:
    """*now* is Unix time; *given* are the headers that the message came with."""
    due = {headers.DUE: int((now + postponement.delay_s) * 1000)}
    return Copy(
        delay_queue(node, rung_for(postponement.delay_s)), {**_history(given, postponement.attempts, now), **due}
    )


def _history(given: Mapping[str, Any] | None, attempts: int, now: float) -> dict[str, Any]:
    kept = headers.as_sent(given)
    requeued = (given or {}).get(headers.REQUEUED)
    if requeued is not None:
        kept[headers.REQUEUED] = requeued
    if attempts > 0:
        kept[headers.ATTEMPTS] = attempts
        kept[headers.FIRST] = headers.number(given, headers.FIRST) or int(now)
    return kept
