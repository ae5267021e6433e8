"""The streams that a sender of the rig reads, each told to the history."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from servicebus.errors import RemoteError
from tests.chaos.load import Load
from tests.chaos.stream_services import RESUMABLE, STREAMS

if TYPE_CHECKING:
    from servicebus.sender import Sender

__all__ = ["READERS", "StreamLoad"]

READERS = 2
_TIMEOUTS_S = (5.0, 15.0)
_ITEMS = (20, 400)
_BURST_MS = (20, 200)
_PREFETCH = (1, 20, 2000)
_LEFT_SHARE = 0.1
"""Of the streams, whose reader takes no more before the end."""
_SLOW_SHARE = 0.1
"""Of the readers, which pause; not shortly before the deadline: they would be late by themselves."""
_SLOW_S = 0.05
_SLOW_EVERY = 10
_NEAR_S = 2.0


class _Seen:
    """The items that were read of the stream *op*."""

    def __init__(self, op: int):
        self.count = 0
        self.runs: list[list[int]] = []
        """The first and the last number of each run of items that follow one another: one, if all is well."""
        self.is_right = True
        self._op = op

    def add(self, item: Any) -> None:
        op, number = item
        self.count += 1
        self.is_right = self.is_right and op == self._op
        if self.runs and number == self.runs[-1][1] + 1:
            self.runs[-1][1] = number
        else:
            self.runs.append([number, number])


class StreamLoad(Load):
    def read(self, sender: Sender, pace: Iterable[int], rng: random.Random) -> None:
        """Read one stream after the other, at that *pace* if they are over by then."""
        for _ in pace:
            (service,) = rng.choices(list(STREAMS), list(STREAMS.values()))
            op, count = self.next_op(), rng.randrange(*_ITEMS)
            params: dict[str, Any] = {"op": op, "count": count, "ms": rng.randrange(*_BURST_MS)}
            if service == "spoilt":
                params["fails_at"] = rng.randrange(count)
            target = f"{rng.choice(self._nodes)}.reports.{service}"
            timeout_s = rng.uniform(*_TIMEOUTS_S)
            options: dict[str, Any] = {
                "timeout": timeout_s,
                "item_timeout": timeout_s,
                "prefetch": rng.choice(_PREFETCH),
            }
            left_at = rng.randrange(count) if rng.random() < _LEFT_SHARE else None
            slow_until = time.monotonic() + (timeout_s - _NEAR_S if rng.random() < _SLOW_SHARE else 0.0)
            deadline = time.monotonic() + timeout_s
            terms = {"count": count, "fails_at": params.get("fails_at")}
            self._history.invoked(op, "stream", target, deadline, idempotent=service in RESUMABLE, stream=terms)
            self._counts["streams"] += 1
            seen, error = _Seen(op), None
            try:
                outcome = self._read_all(sender.stream(target, params, **options), seen, left_at, slow_until)
            except Exception as raised:
                outcome, error = "fault" if isinstance(raised, RemoteError) else "error", raised
            self._history.streamed(op, outcome, seen.runs, seen.is_right, error, t=time.monotonic())
            if error is None:
                self._counts["streams read"] += 1
            else:
                self.failed(error)

    def _read_all(self, stream: Any, seen: _Seen, left_at: int | None, slow_until: float) -> str:
        """Read what comes; ``ok`` at its end, ``left`` if it was left before."""
        with stream:
            for item in stream:
                if seen.count == left_at:
                    return "left"
                seen.add(item)
                if seen.count % _SLOW_EVERY == 0 and time.monotonic() < slow_until:
                    time.sleep(_SLOW_S)
        return "ok"
