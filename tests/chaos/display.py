"""What a run shows while it goes on: a line that stays in its place on a terminal, one every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable

__all__ = ["Display"]

_EVERY_S = 10.0


class Display:
    """For the rig's main thread, but for ``say()``, which any thread may call."""

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._is_terminal = sys.stderr.isatty()
        self._began = time.monotonic()
        self._shown_at = 0.0
        self._before: tuple[float, int] = (self._began, 0)
        self._rate = 0.0

    def begin(self) -> None:
        """The load begins now."""
        self._began = time.monotonic()
        self._before = (self._began, 0)

    def say(self, text: str) -> None:
        """A line that stays."""
        end = "\x1b[K\n" if self._is_terminal else "\n"
        start = "\r" if self._is_terminal else ""
        sys.stderr.write(f"{start}{self._clock()} {text}{end}")
        sys.stderr.flush()

    def show(self, counts: Counter[str], faults: Iterable[str]) -> None:
        """How far it is; to be called about once a second."""
        now = time.monotonic()
        if now - self._shown_at < (0.5 if self._is_terminal else _EVERY_S):
            return
        self._shown_at = now
        text = self._progress(counts, faults, now)
        if self._is_terminal:
            sys.stderr.write(f"\r{text[:150]}\x1b[K")
        else:
            sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def _progress(self, counts: Counter[str], faults: Iterable[str], now: float) -> str:
        done = counts["calls"] + counts["messages"] + counts["events"]
        before_at, before = self._before
        if now - before_at > 2.0:
            self._rate = (done - before) / (now - before_at)
            self._before = (now, done)
        failed = sum(count for name, count in counts.items() if name.startswith("error "))
        broken = ", ".join(faults) or "all is well"
        calls = f"{counts['calls']:,} calls ({counts['answered']:,} answered)"
        messages = f"{counts['messages']:,} messages ({counts['confirmed']:,} confirmed)"
        flows = ", ".join(f"{counts[name]:,} {name}" for name in ("events", "streams", "plain"))
        return f"{self._clock()} {calls}, {messages}, {flows}, {failed:,} errors, {self._rate:.0f}/s | {broken}"

    def _clock(self) -> str:
        gone = max(0.0, time.monotonic() - self._began)
        return f"{gone // 60:02.0f}:{gone % 60:02.0f}/{self._seconds // 60:02.0f}:{self._seconds % 60:02.0f}"
