"""What a journal is asked and told, whoever keeps it: one worker's memory, one machine's disk, or a server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, NamedTuple, Protocol

from servicebus.errors import JournalUnavailable
from servicebus.transport.loop import nothing

__all__ = [
    "NEVER",
    "REFUSED",
    "Damaged",
    "Journal",
    "JournalUnavailable",
    "Known",
    "OneByOne",
    "Release",
    "Standing",
    "Start",
    "seconds",
]


class Damaged(JournalUnavailable):
    """Raised when what is stored makes no sense: asking again does not help."""


class Standing(Enum):
    """What is known of an id."""

    NEW = "the asker's: run it"
    RUNNING = "started by a worker that lives, here or elsewhere, and not finished"
    FINISHED = "finished; its answer is given if there was one and it is still stored"
    INTERRUPTED = "started by a worker that died: nobody knows how far it came"
    FORGOTTEN = "the asker's, but it must not be run: it may have been, and what was known of its time had to go"


class Release(Enum):
    """Why an id that was begun may come again."""

    NOT_RUN = "busy or stopping: as if this begin had not been"
    FAILED = "the service raised, and a later attempt is due: this one counts"
    BURIED = "it went to the dead letters: whoever takes it out again starts from the first attempt"
    REFUSED = "not yet: it stays the caller's, but whoever begins it later must not run it"


NEVER = 2**32 - 1
"""As Unix time."""
REFUSED = 1 << 20
"""More than any count of attempts: that of a refused id begins here."""


class Start(NamedTuple):
    """An id that wants to be run."""

    id: str
    """As on the wire: ``<incarnation of 16 hex digits>-<count from 1>``."""
    expires_at: float
    """Unix time until which a token for it could be accepted: until then it is remembered."""
    rerun: bool = False
    """It may be run again after a worker died with it: a message, or a call to an idempotent service."""
    sent_at: float = 0.0
    """Unix time at which it was signed; 0 if it does not say, and then it is never FORGOTTEN."""


class Known(NamedTuple):
    """The answer to a Start. Counts are 0 where they have no meaning any more."""

    standing: Standing
    answer: bytes | None = None
    attempts: int = 0
    """How often it was begun, this time included; counted from REFUSED for one that was refused."""
    deaths: int = 0
    """How many of those ended with the death of their worker."""

    @property
    def is_refused(self) -> bool:
        return self.attempts >= REFUSED


class Journal(Protocol):
    """Belongs to one worker's I/O thread, and to the process that opened it: it does not survive a fork.

    Each method costs one transaction, or one round trip, however many ids it is given. Every method but ``snapshot``
    and ``close`` may raise JournalUnavailable, and has changed nothing then.
    """

    def begin_many(self, starts: Sequence[Start], now: float) -> list[Known]:
        """What is known of each id, in order. NEW and FORGOTTEN ones are the caller's from here on, and no one else's.

        Args:
            now: Unix time, seconds.
        """

    def finish_many(self, ends: Sequence[tuple[str, bytes | None]], now: float) -> None:
        """These ids were run; each answer is given again to whoever begins the same id, for as long as it is kept.

        Ids that the caller has not begun are passed over.
        """

    def turn(self, ends: Sequence[tuple[str, bytes | None]], starts: Sequence[Start], now: float) -> list[Known]:
        """``finish_many`` and then ``begin_many``, for the price of one where the store can.

        If it raises, the first may have happened: both may be said again.
        """

    def release_many(self, ids: Sequence[str], why: Release) -> None:
        """These ids, begun by the caller, may come again. Others are passed over."""

    def starter(self, id: str) -> Callable[[], None]:
        """What the thread that serves *id*, which is the caller's, has to call just before the user's code begins.

        Of an id that was begun and whose starter was not called, a journal may know after the worker's death that it
        only waited: then it is NEW to the next who asks, as if this begin had not been. For any thread, once; the
        starter itself never raises.
        """

    def tick(self, now: float) -> None:
        """Housekeeping. Once a second, also when nothing is to be done: it tells others that we live."""

    def snapshot(self) -> dict[str, Any]:
        """Sizes, and what had to be forgotten early, for the status socket. Callable from any thread."""

    def close(self) -> None:
        """What is still begun was left by a dead worker from here on: nothing of it may be started now. Idempotent."""

    def begin(self, id: str, now: float, expires_at: float) -> tuple[Standing, bytes | None]:
        """``begin_many`` of one id that is not run again."""

    def finish(self, id: str, answer: bytes | None) -> None:
        """``finish_many`` of one id, at the time last heard of."""

    def forget(self, id: str) -> None:
        """``release_many`` of one id that was not run."""


class OneByOne:
    """The three short forms, in terms of the long ones; and what is begun counts as started."""

    _now = 0.0
    """The time last heard of."""

    # The long ones are the journal's own.

    def begin_many(self, starts: Sequence[Start], now: float) -> list[Known]:
        raise NotImplementedError

    def finish_many(self, ends: Sequence[tuple[str, bytes | None]], now: float) -> None:
        raise NotImplementedError

    def release_many(self, ids: Sequence[str], why: Release) -> None:
        raise NotImplementedError

    def turn(self, ends: Sequence[tuple[str, bytes | None]], starts: Sequence[Start], now: float) -> list[Known]:
        if ends:
            self.finish_many(ends, now)
        return self.begin_many(starts, now) if starts else []

    def starter(self, id: str) -> Callable[[], None]:
        return nothing

    def begin(self, id: str, now: float, expires_at: float) -> tuple[Standing, bytes | None]:
        known = self.begin_many([Start(id, expires_at)], now)[0]
        return known.standing, known.answer

    def finish(self, id: str, answer: bytes | None) -> None:
        self.finish_many([(id, answer)], self._now)

    def forget(self, id: str) -> None:
        self.release_many([id], Release.NOT_RUN)


def seconds(when: float) -> int:
    """Unix time as it is remembered."""
    return int(when) if 0.0 <= when <= NEVER else 0 if when < 0 else NEVER
