"""What a client is ordered to do, one phase after another, until it is told to quit."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from common.clients import AsyncClient, Client
from common.counter import Handled
from common.flight import Stuck, check
from common.load import params
from common.protocol import begin, hear, say
from common.surroundings import NODES, WIDTH

_WARM_WINDOW = WIDTH
_MOST_AT_ONCE = 1 << 15
_MOST_MESSAGES = 200_000
_HANDLED_WITHIN_S = 60.0
_ANSWERED_WITHIN_S = 45.0


class Phases:
    """One client's phases. ``do`` returns the result of what a client's method returned: a value, or a coroutine."""

    def __init__(self, client: Client | AsyncClient, do: Callable[[Any], Any]):
        self._client: Any = client
        self._do = do
        self._counter = Handled()

    def run(self) -> None:
        """Until told to quit."""
        say("imported")
        while (order := hear())["phase"] != "quit":
            self._client.params = params(order.get("bytes"))
            say("end", **(getattr(self, order["phase"])(order) or {}))
        self._do(self._client.close())

    def connect(self, _order: dict[str, Any]) -> None:
        self._do(self._client.connect())

    def first(self, _order: dict[str, Any]) -> None:
        """Connect, and a first answer."""
        self._do(self._client.connect())
        check(self._do(self._client.call()))

    def seq(self, order: dict[str, Any]) -> dict[str, Any]:
        """One caller, one call after another."""
        self._do(self._client.sequential(order["warm"]))
        started = begin()
        spent = sorted(self._do(self._client.sequential(order["seconds"])))
        took_s = time.perf_counter() - started
        return {"count": len(spent), "seconds": took_s,
                "p50_ms": _percentile_ms(spent, 0.5), "p99_ms": _percentile_ms(spent, 0.99)}  # fmt: skip

    def futures(self, order: dict[str, Any]) -> dict[str, Any]:
        return self._in_flight("futures", order)

    def threads(self, order: dict[str, Any]) -> dict[str, Any]:
        return self._in_flight("threads", order)

    def tasks(self, order: dict[str, Any]) -> dict[str, Any]:
        return self._in_flight("tasks", order)

    def pub(self, order: dict[str, Any]) -> dict[str, Any]:
        """Messages one by one, each confirmed before the next where the peer confirms."""
        many = self._one_by_one_async if isinstance(self._client, AsyncClient) else self._one_by_one
        started = begin()
        count = self._do(many(started + order["seconds"]))
        self._do(self._client.drain())
        return {"count": count, "seconds": time.perf_counter() - started}

    def pubw(self, order: dict[str, Any]) -> dict[str, Any]:
        """Messages with many unconfirmed at a time."""
        publish = self._client.publish_window
        self._do(publish(_WARM_WINDOW))
        count, step = 0, WIDTH * 8
        started = begin()
        while time.perf_counter() < started + order["seconds"]:
            step_started = time.perf_counter()
            self._do(publish(step))
            count += step
            is_quick = time.perf_counter() - step_started < 0.2
            step = max(WIDTH, min(step * 2 if is_quick else step // 2, _MOST_AT_ONCE))
        self._do(self._client.drain())
        return {"count": count, "seconds": time.perf_counter() - started}

    def e2e(self, order: dict[str, Any]) -> dict[str, Any]:
        """Messages until the handler has run for each: as many as take the time that is wanted."""
        count = 32
        while (took_s := self._through(count)[1]) < order["seconds"] / 8 and count < _MOST_MESSAGES:
            count = min(_MOST_MESSAGES, max(count * 2, int(count * order["seconds"] / 6 / max(took_s, 0.001))))
        took_s = min(took_s, self._through(count)[1])  # the first may have been an accident
        count = max(1, int(count * order["seconds"] / took_s))
        begin()
        sent_s, took_s = self._through(count)
        return {"count": count, "seconds": took_s, "sent_seconds": sent_s}

    def next_call(self, _order: dict[str, Any]) -> dict[str, Any]:
        """A broker breaks as the clock starts: how long until a call is answered right, and what failed before."""
        check(self._do(self._client.call()))
        started = begin()
        failed: list[str] = []
        while True:
            try:
                check(self._do(self._client.call()))
                break
            except (Exception, SystemExit) as error:
                failed.append(repr(error)[:200])
                if time.perf_counter() - started > _ANSWERED_WITHIN_S:
                    raise SystemExit(f"no answer within {_ANSWERED_WITHIN_S:g} s, last: {error!r}") from error
                time.sleep(0.01)
        return {"count": 1, "seconds": time.perf_counter() - started, "failed": len(failed), "errors": failed[:3]}

    def _in_flight(self, idiom: str, order: dict[str, Any]) -> dict[str, Any]:
        self._do(self._client.prepare(idiom, WIDTH))
        stuck = 0
        started = begin()
        try:
            count = self._do(getattr(self._client, idiom)(order["seconds"], WIDTH))
        except Stuck as error:
            count, stuck = error.args
        return {"count": count, "seconds": time.perf_counter() - started, "stuck": stuck}

    def _one_by_one(self, deadline: float) -> int:
        count = 0
        while time.perf_counter() < deadline:
            self._client.publish()
            count += 1
        return count

    async def _one_by_one_async(self, deadline: float) -> int:
        count = 0
        while time.perf_counter() < deadline:
            await self._client.publish()
            count += 1
        return count

    def _through(self, count: int) -> tuple[float, float]:
        """Seconds until *count* messages were sent, and until all of them were handled by every node."""
        wanted = self._counter.total() + count * NODES
        started = time.perf_counter()
        self._do(self._client.publish_window(count))
        self._do(self._client.drain())
        sent_s = time.perf_counter() - started
        while self._counter.total() < wanted:
            time.sleep(0.002)
            if time.perf_counter() - started > _HANDLED_WITHIN_S + sent_s:
                missing = wanted - self._counter.total()
                raise SystemExit(f"{missing} of {count * NODES} messages not handled after {_HANDLED_WITHIN_S:g} s")
        return sent_s, time.perf_counter() - started


def _percentile_ms(ranked_ns: list[int], share: float) -> float:
    return ranked_ns[min(len(ranked_ns) - 1, int(len(ranked_ns) * share))] / 1e6
