"""Traffic: threads that call and send at a steady pace, and a book of what was asked against the agents' ledger."""

from __future__ import annotations

import itertools
import random
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from benchmarks.agent import NODE
from benchmarks.figures import Figure
from benchmarks.waiting import until

LIMIT_S = 60.0
"""Longer than anything that is done to a broker or agent: what takes so long counts as failed."""
_WORK_S = (0.0, 0.0, 0.0, 0.05, 0.2)
"""How long an execution takes; some are always under way when something breaks."""


class TrafficSender(Protocol):
    """A Sender, or what stands for several of them."""

    def call(self, target: str, params: Any, timeout: float) -> tuple[int, Any]: ...

    def send(self, target: str, params: Any, timeout: float) -> object: ...


class Traffic:
    """One thread that calls and one that sends for each of *senders*; each pauses for *pause_s* after each answer.

    They ask *nodes* in turn. What takes longer than *limit_s* has failed.
    """

    def __init__(
        self,
        senders: Sequence[TrafficSender],
        pause_s: float,
        nodes: Sequence[str] = (NODE,),
        limit_s: float = LIMIT_S,
    ):
        self.answered: set[str] = set()
        self.confirmed: set[str] = set()
        self.errors: list[str] = []
        self._nodes, self._limit_s = nodes, limit_s
        self._numbers = itertools.count(1)
        self._pause_s = pause_s
        self._stopped = threading.Event()
        works = [work for sender in senders for work in ((self._call, sender), (self._send, sender))]
        self._threads = [threading.Thread(target=self._run, args=work, daemon=True) for work in works]

    @contextmanager
    def running(self) -> Iterator[Traffic]:
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stopped.set()
            for thread in self._threads:
                thread.join(self._limit_s + 10.0)

    @property
    def hung(self) -> int:
        """Threads that have not come back from their last request; after ``running()``."""
        return sum(thread.is_alive() for thread in self._threads)

    @property
    def ended(self) -> int:
        """Requests that have ended so far, however they did."""
        return len(self.answered) + len(self.confirmed) + len(self.errors)

    def wait_for_more(self, count: int) -> None:
        """Return when so many more requests have ended. Raises TimeoutError."""
        before = self.ended
        until(lambda: self.ended >= before + count, f"{count} more requests", self._limit_s + 10.0)

    def wait_executed(self, ledger: Path) -> None:
        """Return when each message that is confirmed by now has been executed. Raises TimeoutError."""
        confirmed = self.confirmed.copy()
        until(lambda: confirmed <= _entered(ledger).keys(), "all confirmed messages in the ledger", 30.0)

    def figures(self, ledger: Path) -> list[Figure]:
        """What went wrong, once everything that was confirmed has been executed, or should have been."""
        try:
            self.wait_executed(ledger)
        except TimeoutError as error:
            print(error, file=sys.stderr)
        found = _entered(ledger)
        asked = self.answered | self.confirmed
        return [
            Figure("calls answered", unit="", samples=[len(self.answered)]),
            Figure("messages confirmed", unit="", samples=[len(self.confirmed)]),
            Figure("calls and messages failed", max_limit=0, unit="", samples=[len(self.errors)]),
            Figure("calls and messages hung", max_limit=0, unit="", samples=[self.hung]),
            Figure("answered or confirmed, never executed", max_limit=0, unit="", samples=[len(asked - found.keys())]),
            Figure("executed twice", max_limit=0, unit="", samples=[sum(count > 1 for count in found.values())]),
        ]

    def _run(self, work: object, sender: TrafficSender) -> None:
        assert callable(work)
        while not self._stopped.wait(self._pause_s):
            try:
                work(sender, next(self._numbers), random.choice(_WORK_S))
            except Exception as error:  # any failure is one too many, whatever it is
                self.errors.append(repr(error))
                print(f"failed: {error!r}", file=sys.stderr)

    def _node_of(self, number: int) -> str:
        return self._nodes[number % len(self._nodes)]

    def _call(self, sender: TrafficSender, number: int, seconds: float) -> None:
        name = f"call-{number}"
        if sender.call(f"{self._node_of(number)}.ledger.call", [name, seconds], timeout=self._limit_s)[1] != name:
            raise ValueError(f"wrong result for {name}")
        self.answered.add(name)

    def _send(self, sender: TrafficSender, number: int, seconds: float) -> None:
        name = f"message-{number}"
        sender.send(f"{self._node_of(number)}.ledger.message", [name, seconds], timeout=self._limit_s)
        self.confirmed.add(name)


def _entered(ledger: Path) -> Counter[str]:
    """How often each name stands there."""
    return Counter(ledger.read_text().split())
