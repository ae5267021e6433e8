"""The streams of the rig's agents. Item number *n* of the stream *op* is ``[op, n]``: no other stream has it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

from servicebus.services import Request, RpcService
from servicebus.typed import Services
from tests.chaos.history import History

__all__ = ["BURST", "RESUMABLE", "STREAMS", "SpoiltStream", "add_streams"]

STREAMS = {"rows": 0.3, "lines": 0.4, "ticks": 0.25, "spoilt": 0.05}
"""How often each is asked for, of 1."""
RESUMABLE = frozenset({"lines", "ticks"})
BURST = 20
"""So many items come together; before each of these the generator sleeps for ``ms``."""
_THREADS = 8


class SpoiltStream(Exception):
    """What a stream raises on purpose."""


@contextmanager
def _told(history: History, request: Request, op: int) -> Iterator[None]:
    """Tell the history of one run of a generator: that it began, from which item, and how it was left."""
    id = request.get_event().id
    history.started(op, id, position=request.position)
    how = "closed"
    try:
        yield
        how = "done"
    except Exception:
        how = "failed"
        raise
    finally:
        history.finished(op, id, verdict=how)


class Rows(RpcService):
    """A stream of ``count`` items; with ``fails_at`` it raises in the place of that item."""

    def __init__(self, history: History):
        self._history = history

    def handle(self, request: Request) -> Any:
        params = request.params
        op, fails_at = params["op"], params.get("fails_at")
        with _told(self._history, request, op):
            for number in range(request.position, params["count"]):
                if number == fails_at:
                    raise SpoiltStream(f"op {op} fails at item {number}")
                if number % BURST == 0:
                    time.sleep(params["ms"] / 1000)
                yield [op, number]


def add_streams(bus: Any, history: History) -> None:
    """Register all of them."""
    bus.add_rpc_service("reports", "rows", Rows(history), threads=_THREADS)
    bus.add_rpc_service("reports", "spoilt", Rows(history), threads=2)
    bus.add_rpc_service("reports", "lines", Rows(history), threads=_THREADS, resumable=True)
    bus.include(_tasks(history))


def _tasks(history: History) -> Services:
    reports = Services("reports")

    @reports.rpc(resumable=True)
    async def ticks(op: int, count: int, ms: int, request: Request) -> AsyncIterator[list[int]]:
        with _told(history, request, op):
            for number in range(request.position, count):
                if number % BURST == 0:
                    await asyncio.sleep(ms / 1000)
                yield [op, number]

    return reports
