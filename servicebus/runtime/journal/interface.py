"""The contract of a journal, whatever stores it: one worker's memory, files of one machine, or a Redis server."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from servicebus.errors import JournalUnavailable
from servicebus.transport.disk_space import advice
from servicebus.transport.loop import nothing

__all__ = [
    "Damaged",
    "IdRecord",
    "IdState",
    "IdStatus",
    "Journal",
    "JournalUnavailable",
    "Limits",
    "Lookup",
    "Release",
    "Start",
]


class Damaged(JournalUnavailable):
    """Raised when the stored data makes no sense. A retry does not help."""


class IdStatus(Enum):
    """What the journal knows of an id."""

    NEW = "the caller's: run it"
    RUNNING = "begun by a live worker, here or elsewhere, and not finished"
    FINISHED = "finished; its answer is returned if there was one and it is still stored"
    INTERRUPTED = "started by a worker that died: how far it came is unknown"
    FORGOTTEN = "the caller's, but must not be run: it may have been, and what was known of its time is gone"


class Release(Enum):
    """Why an id that was begun may come again."""

    NOT_RUN = "busy or stopping: as if this begin had not been"
    FAILED = "the service raised, and a later attempt is due: this one counts"
    DEAD_LETTERED = "dead-lettered: if it is sent back it starts from the first attempt"
    REFUSED = "not yet: it stays the caller's, but a later begin must not run it"


REFUSED = 1 << 20
"""Attempts of a refused id are counted from here: more than any real count."""


@dataclass(frozen=True)
class Limits:
    """How much is remembered at most."""

    max_entries: int = 250_000
    """Chunks of 4,096 ids (of one Sender), and unfinished ids."""
    max_answer_bytes: int = 64 * 1024 * 1024
    """Of all stored answers together. One that is larger than half of it is not stored."""
    reply_keep_s: float = 3600.0
    """How long an answer is kept."""


class Start(NamedTuple):
    """An id to begin."""

    id: str
    """As on the wire: ``<incarnation of 16 hex digits>-<count from 1>``."""
    expires_at: float
    """Unix time until which a token for it could be accepted: until then it is remembered."""
    rerun: bool = False
    """May be run again after its worker died: a message, or a call to an idempotent service."""
    sent_at: float = 0.0
    """Unix time at which it was signed; 0 if unknown, and then it is never FORGOTTEN."""


class Lookup(NamedTuple):
    """What is known of the id of a Start. Counts are 0 once it is finished."""

    status: IdStatus
    answer: bytes | None = None
    attempts: int = 0
    """How often it was begun, this time included; counted from REFUSED for one that was refused."""
    deaths: int = 0
    """How many of those ended with the death of their worker."""

    @property
    def is_refused(self) -> bool:
        return self.attempts >= REFUSED


class IdState(str, Enum):
    """How far an id has come, for who only looks."""

    QUEUED = "queued"
    """Begun, and not started: it waits for its service."""
    RUNNING = "running"
    RETRYING = "retrying"
    """It failed, and waits for its next attempt."""
    FINISHED = "finished"
    INTERRUPTED = "interrupted"
    """Started by a worker that died. A message, and a call to an idempotent service, is run again when it comes."""
    REFUSED = "refused"
    """Its dead letter may be stored or not."""

    __str__ = str.__str__


class IdRecord(NamedTuple):
    """What is known of an id. Counts are 0 once it is finished."""

    state: IdState
    attempts: int = 0
    """How often it was begun."""
    deaths: int = 0
    """How many of those ended with the death of their worker."""
    answer: bytes | None = None
    """If there was one and it is still stored."""


class Journal(ABC):
    """Belongs to one worker's I/O thread, and to the process that opened it: it does not survive a fork.

    Each method costs one transaction, or one round trip. Every method but ``snapshot`` and ``close`` may raise
    JournalUnavailable, and has changed nothing then. ``now`` is Unix time.
    """

    _now = 0.0
    """The latest time that was passed in."""

    @abstractmethod
    def begin_many(self, starts: Sequence[Start], now: float) -> list[Lookup]:
        """What is known of each id, in order. From here on the caller alone owns the NEW and FORGOTTEN ones."""

    @abstractmethod
    def finish_many(self, ends: Sequence[tuple[str, bytes | None]], now: float) -> None:
        """These ids were run; a later begin returns the answer. Ids that the caller has not begun are ignored."""

    @abstractmethod
    def release_many(self, ids: Sequence[str], why: Release) -> None:
        """These ids, begun by the caller, may come again. Others are ignored."""

    @abstractmethod
    def finished(self, ids: Sequence[str]) -> list[str]:
        """Which of *ids* were run, as far as is known now; begins and changes nothing."""

    @abstractmethod
    def look_up(self, ids: Sequence[str]) -> list[IdRecord | None]:
        """What is known of each of *ids* now, None for nothing; begins and changes nothing."""

    @abstractmethod
    def tick(self, now: float) -> None:
        """Housekeeping. Called once a second, also when idle: it shows other workers that this one lives."""

    @abstractmethod
    def snapshot(self) -> dict[str, Any]:
        """Sizes, and what had to be forgotten early, for the status socket. Callable from any thread."""

    @abstractmethod
    def close(self) -> None:
        """What is still begun was left by a dead worker from here on: nothing of it may be started. Idempotent."""

    def update(self, ends: Sequence[tuple[str, bytes | None]], starts: Sequence[Start], now: float) -> list[Lookup]:
        """``finish_many``, then ``begin_many``, at once where the store can. If it raises, both may be repeated."""
        if ends:
            self.finish_many(ends, now)
        return self.begin_many(starts, now) if starts else []

    def starter(self, id: str) -> Callable[[], None]:
        """What the thread that serves *id*, which is the caller's, has to call just before the user's code begins.

        If the worker dies before that, a journal may know that the id only waited: then it is NEW again. Callable from
        any thread, once; the starter itself never raises.
        """
        return nothing

    def begin(self, id: str, now: float, expires_at: float) -> tuple[IdStatus, bytes | None]:
        """``begin_many`` of one id that is not run again."""
        known = self.begin_many([Start(id, expires_at)], now)[0]
        return known.status, known.answer

    def finish(self, id: str, answer: bytes | None) -> None:
        """``finish_many`` of one id, at the latest time that was passed in."""
        self.finish_many([(id, answer)], self._now)

    def forget(self, id: str) -> None:
        """``release_many`` of one id that was not run."""
        self.release_many([id], Release.NOT_RUN)


NEVER = 2**32 - 1


def record_of(owner: object, attempts: int, deaths: int, *, is_alive: bool, has_started: bool) -> IdRecord:
    """Of an id that is begun and not finished; no *owner* while it waits for its next attempt."""
    if attempts >= REFUSED:
        return IdRecord(IdState.REFUSED, attempts - REFUSED, deaths)
    if not owner:
        return IdRecord(IdState.RETRYING, attempts, deaths)
    if not has_started:
        return IdRecord(IdState.QUEUED, attempts, deaths)
    return IdRecord(IdState.RUNNING if is_alive else IdState.INTERRUPTED, attempts, deaths + (not is_alive))


def seconds(when: float) -> int:
    """Unix time as it is stored."""
    return int(when) if 0.0 <= when <= NEVER else 0 if when < 0 else NEVER


def refused(path: Path, what: str) -> JournalUnavailable:
    """The error for a file system that does not take what the journal writes: *what* happened, and what to do."""
    to_do = advice(path, "name another path with the key journal")
    return JournalUnavailable(str(path), f"{what}; {to_do}" if to_do else what)
