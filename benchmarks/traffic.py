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

from benchmarks.agent import ENTER_CALL, ENTER_MESSAGE
from benchmarks.figures import Figure
from benchmarks.waiting import until
from servicebus.sender import Sender

LIMIT_S = 60.0
"""Longer than anything that is done to a broker or agent: what takes so long counts as failed."""
_WORK_S = (0.0, 0.0, 0.0, 0.05, 0.2)
"""How long an execution takes; some are always under way when something breaks."""


class Traffic:
    """One thread that calls and one that sends for each of *senders*; each pauses for *pause_s* after each answer."""

    def __init__(self, senders: Sequence[Sender], pause_s: float):
        self.answered: set[str] = set()
        self.confirmed: set[str] = set()
        self.errors: list[str] = []
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
                thread.join(LIMIT_S + 10.0)

    @property
    def hung(self) -> int:
        """Threads that have not come back from their last request; after ``running()``."""
        return sum(thread.is_alive() for thread in self._threads)

    def figures(self, ledger: Path) -> list[Figure]:
        """What went wrong, once everything that was confirmed has been executed, or should have been."""

        def entered() -> Counter[str]:
            return Counter(ledger.read_text().split())

        try:
            until(lambda: self.confirmed <= entered().keys(), "all confirmed messages in the ledger", 30.0)
        except TimeoutError as error:
            print(error, file=sys.stderr)
        found = entered()
        asked = self.answered | self.confirmed
        return [
            Figure("calls answered", unit="", samples=[len(self.answered)]),
            Figure("messages confirmed", unit="", samples=[len(self.confirmed)]),
            Figure("calls and messages failed", max_limit=0, unit="", samples=[len(self.errors)]),
            Figure("calls and messages hung", max_limit=0, unit="", samples=[self.hung]),
            Figure("answered or confirmed, never executed", max_limit=0, unit="", samples=[len(asked - found.keys())]),
            Figure("executed twice", max_limit=0, unit="", samples=[sum(count > 1 for count in found.values())]),
        ]

    def _run(self, work: object, sender: Sender) -> None:
        assert callable(work)
        while not self._stopped.wait(self._pause_s):
            try:
                work(sender, next(self._numbers), random.choice(_WORK_S))
            except Exception as error:  # any failure is one too many, whatever it is
                self.errors.append(repr(error))
                print(f"failed: {error!r}", file=sys.stderr)

    def _call(self, sender: Sender, number: int, seconds: float) -> None:
        name = f"call-{number}"
        if sender.call(ENTER_CALL, [name, seconds], timeout=LIMIT_S)[1] != name:
            raise ValueError(f"wrong result for {name}")
        self.answered.add(name)

    def _send(self, sender: Sender, number: int, seconds: float) -> None:
        name = f"message-{number}"
        sender.send(ENTER_MESSAGE, [name, seconds], timeout=LIMIT_S)
        self.confirmed.add(name)
