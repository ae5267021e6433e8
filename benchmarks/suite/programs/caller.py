"""Calls and sends as it is told, a line of JSON each; imports nothing but servicebus, of any revision.

Its order is JSON in the first argument, ``{"config": {...}, "node": "NODE"}``; a line ``["in flight", 1.5]`` on stdin
is answered by ``{"count": ..., "seconds": ...}`` on stdout.
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from servicebus.configuration import Configuration
from servicebus.sender import Sender

WIDTH = 64
WINDOW = 500
LIMIT_S = 60.0


class Caller:
    def __init__(self, sender: Sender, node: str):
        self._sender = sender
        self._add = f"{node}.math.add"
        self._message = f"{node}.audit.count"
        self._handled = f"{node}.audit.handled"
        self.phases: dict[str, Callable[[float], int]] = {
            "sequential": self._one_by_one,
            "64 in flight": self._in_flight,
            "messages": self._messages,
        }

    def _one_by_one(self, seconds: float) -> int:
        end, count = time.perf_counter() + seconds, 0
        while time.perf_counter() < end:
            _check(self._sender.call(self._add, [1, 2], LIMIT_S)[1], 3)
            count += 1
        return count

    def _in_flight(self, seconds: float) -> int:
        end, count = time.perf_counter() + seconds, 0
        pending = deque(self._begin() for _ in range(WIDTH))
        while pending:
            _check(pending.popleft().result(LIMIT_S)[1], 3)
            count += 1
            if time.perf_counter() < end:
                pending.append(self._begin())
        return count

    def _begin(self) -> Any:
        return self._sender.call_async(self._add, [1, 2], LIMIT_S)

    def _messages(self, seconds: float) -> int:
        """Confirmed, and handled: all of them, before it is over."""
        end, count = time.perf_counter() + seconds, 0
        before = self._sender.call(self._handled, None, LIMIT_S)[1]
        pending: deque[Any] = deque()
        while time.perf_counter() < end:
            pending.append(self._sender.send_async(self._message, {"n": count}, LIMIT_S))
            count += 1
            if len(pending) >= WINDOW:
                pending.popleft().result(LIMIT_S)
        while pending:
            pending.popleft().result(LIMIT_S)
        deadline = time.perf_counter() + LIMIT_S
        while (handled := self._sender.call(self._handled, None, LIMIT_S)[1] - before) < count:
            if time.perf_counter() > deadline:
                raise SystemExit(f"{count} messages were confirmed, and {handled} handled")
            time.sleep(0.002)
        return count


def _check(answer: Any, right: Any) -> None:
    if answer != right:
        raise SystemExit(f"wrong answer: {answer!r}")


def main() -> None:
    order = json.loads(sys.argv[1])
    with Sender(Configuration(order["config"])) as sender:
        caller = Caller(sender, order["node"])
        for line in sys.stdin:
            phase, seconds = json.loads(line)
            started = time.perf_counter()
            count = caller.phases[phase](seconds)
            print(json.dumps({"count": count, "seconds": time.perf_counter() - started}), flush=True)


if __name__ == "__main__":
    main()
