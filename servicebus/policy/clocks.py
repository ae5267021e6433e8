"""The clock by which a node judges the deadlines of calls, and how old what is signed may be."""

from __future__ import annotations

import time

from servicebus.errors import EnvelopeError

_TOLERANCE_MS = 100
"""A call from the future by less is taken for one of now: no two machines have clocks that are closer for certain."""


FASTER, SLOWER = 0.05, 0.01
"""It goes faster or slower than time by so much, until it agrees with the machine's clock: 30 s ahead take 10 minutes,
30 s back take 50. Slower, because calls that a network holds up may run late by what the node's clock is behind."""
_NOTICED_S = 0.02
_AGREES_S = 0.001
_LONGEST_LOOK_S = 5.0
"""What happened since the last look may have happened just now: more time than that does not count."""
_AT_ONCE_S = 0.001
_SLEPT_S = 0.1
_HELD_UP_S = 3600.0
"""No network holds a call up for longer."""


class SteadyClock:
    """Unix time that follows a step of the machine's clock slowly, or at once if it is longer than *longest_step_s*.

    If the clock was set back while a network held requests up, they would seem to have been on their way for so much
    shorter. But a clock that was wrong when the machine started must not stay wrong. While this one goes slower than
    time, ages by it are too short; ``stretch`` makes up for that.
    """

    def __init__(self, longest_step_s: float) -> None:
        self.stretch = 1.0
        """What a request's age by this clock is to be multiplied with, so that it is at least its true age."""
        self._longest_s = longest_step_s
        self._longest_ms = longest_step_s * 1000
        self._looked_at = time.monotonic()
        self._epoch_s = time.time() - self._looked_at
        self._slept_s = _boot_s() - self._looked_at
        self._is_apart = False
        self._slow_until = 0.0

    def __repr__(self) -> str:
        return f"<SteadyClock epoch={self._epoch_s:.3f} stretch={self.stretch:.3f}>"

    def now_ms(self, wall_ms: int) -> int:
        """Now, where the machine's clock says *wall_ms*. For any thread."""
        steady_s = time.monotonic()
        now_ms = int((steady_s + self._epoch_s) * 1000)
        if abs(wall_ms - now_ms) > self._longest_ms:
            self._epoch_s = wall_ms / 1000 - steady_s
            return wall_ms
        return now_ms

    def follow(self) -> None:
        """Go a little towards the machine's clock. To be called once a second or so, by one thread."""
        steady_s, wall_s, boot_s = time.monotonic(), time.time(), _boot_s()
        if time.monotonic() - steady_s > _AT_ONCE_S:
            return  # they were not read at one moment
        slept_s = boot_s - steady_s - self._slept_s
        if slept_s > _SLEPT_S:  # no step: the machine was suspended, and time went on
            self._slept_s += slept_s
            self._epoch_s += slept_s
        elapsed_s, self._looked_at = min(steady_s - self._looked_at, _LONGEST_LOOK_S), steady_s
        apart_s = wall_s - steady_s - self._epoch_s
        if self._is_apart and abs(apart_s) <= self._longest_s:
            self._move(max(-SLOWER * elapsed_s, min(apart_s, FASTER * elapsed_s)), steady_s)
        # A step that is seen for the first time may be as young as this look: it is followed from here on.
        self._is_apart = abs(apart_s) > (_AGREES_S if self._is_apart else _NOTICED_S)
        if steady_s >= self._slow_until:
            self.stretch = 1.0

    def _move(self, by_s: float, steady_s: float) -> None:
        if by_s < 0:
            self._slow_until = steady_s + _HELD_UP_S
            self.stretch = 1 / (1 - SLOWER)
        self._epoch_s += by_s


def _boot_s() -> float:
    """Seconds since the machine started, also those in which it was suspended: the monotonic clock leaves them out."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


def remaining_s(sent_ms: int, ttl_ms: int, now_ms: int, stretch: float = 1.0) -> float:
    """For how long a call is good; 0 or below for one that is too late, or of which that cannot be known.

    That is one from the future. How much of the difference is its Sender's clock, and how much its way took, only the
    Sender can find out: it receives the time of the node, and dates its next attempt by it. To take the difference for
    the clocks' alone would let a call run late by as long as its way took.
    """
    ahead_ms = sent_ms - now_ms
    if ahead_ms > _TOLERANCE_MS:
        return 0.0
    return (ttl_ms + ahead_ms * stretch if ahead_ms < 0 else ttl_ms) / 1000


def check_fresh(sent_ms: int, good_s: float, now_ms: int, clock_skew_s: float) -> None:
    """Accept the age of what was sent then and is *good_s* seconds good; the clocks may differ by *clock_skew_s*.

    Raises:
        EnvelopeError: ``stale``; it says how far the clocks are apart.
    """
    skew_ms = clock_skew_s * 1000
    ahead_ms = sent_ms - now_ms
    if ahead_ms > skew_ms:
        raise EnvelopeError(
            "stale", f"sent {ahead_ms / 1000:.3f} s in the future: the clocks are {ahead_ms / 1000:.3f} s apart"
        )
    late_ms = -ahead_ms - good_s * 1000 - skew_ms
    if late_ms > 0:
        raise EnvelopeError(
            "stale",
            f"{late_ms / 1000:.3f} s too old (sent {-ahead_ms / 1000:.3f} s ago, good for {good_s:g} s "
            f"and {clock_skew_s:g} s of clock skew)",
        )
