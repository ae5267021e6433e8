"""The load: threads that call and send through one Sender, and write down what became of it."""

from __future__ import annotations

import itertools
import random
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from examples.demo.bus import NODE
from servicebus.errors import ServiceBusError
from servicebus.sender import Sender

CALLERS = 4
CALL_PAUSE_S = 0.005
FACTS_PAUSE_S = 0.1
NOTE_PAUSE_S = 0.01
CALL_TIMEOUT_S = 20.0


@dataclass
class Record:
    """What happened. Each list is only appended to, which threads may do at the same time."""

    calls: list[tuple[float, float]] = field(default_factory=list)
    """When each answer came, on the monotonic clock, and how long it took, in seconds."""
    errors: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    """The numbers of the notes that a broker has confirmed."""
    unsent: list[str] = field(default_factory=list)

    def longest_gap_s(self, start: float, end: float) -> float:
        """The longest time without an answer between two moments of the monotonic clock."""
        moments = sorted(finished for finished, _ in list(self.calls) if start <= finished <= end)
        edges = [start, *moments, end]
        return max(later - earlier for earlier, later in itertools.pairwise(edges))

    def latency_s(self, share: float) -> float:
        """The time within which *share* of the calls (0.5: the median) was answered."""
        ordered = sorted(took for _, took in list(self.calls))
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


class Traffic:
    """Calls to ``math.add`` and ``machine.facts`` and messages to ``audit.note``, until `stop`. A context manager."""

    def __init__(self, sender: Sender):
        self.record = Record()
        self._sender = sender
        self._stopping = threading.Event()
        loops = [(self._add, CALL_PAUSE_S)] * CALLERS + [(self._facts, FACTS_PAUSE_S), (self._note, NOTE_PAUSE_S)]
        self._threads = [threading.Thread(target=self._repeat, args=loop) for loop in loops]
        self._number = 0

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """No new requests; returns when those under way have ended."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _repeat(self, step: Callable[[], None], pause_s: float) -> None:
        while not self._stopping.wait(pause_s):
            step()

    def _add(self) -> None:
        numbers = [random.randrange(1_000_000) for _ in range(3)]
        self._call("math.add", numbers, lambda result: result == sum(numbers))

    def _facts(self) -> None:
        name = socket.gethostname()
        self._call("machine.facts", None, lambda result: result["hostname"] == name and result["pid"] > 0)

    def _call(self, service: str, params: object, is_right: Callable[..., bool]) -> None:
        started = time.monotonic()
        try:
            _, result = self._sender.call(f"{NODE}.{service}", params, timeout=CALL_TIMEOUT_S)
        except ServiceBusError as error:
            self.record.errors.append(f"{type(error).__name__}: {error}")
            return
        finished = time.monotonic()
        self.record.calls.append((finished, finished - started))
        if not is_right(result):
            self.record.wrong.append(f"{service} {params!r}: {result!r}")

    def _note(self) -> None:
        self._number += 1
        note = {"number": self._number, "text": f"sent at {time.time():.3f}"}
        try:
            self._sender.send(f"{NODE}.audit.note", note)
        except ServiceBusError as error:
            self.record.unsent.append(f"{type(error).__name__}: {error}")
        else:
            self.record.sent.append(self._number)
