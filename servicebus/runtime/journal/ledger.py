"""Ledger: the state that the rows of the shared log add up to. Pure: the same rows give every worker the same state.

Finished ids are bits. A Sender counts from 1, so 4,096 ids in a row share one chunk of 512 bytes, one number in memory
and one row on disk: ten million ids of one Sender are 2,442 chunks. A chunk lives as long as the longest-lived of its
ids. Ids that are begun and not finished are few, and have an entry each. An entry is not forgotten while a worker holds
it; what is known of the tokens of an id that is let go of (expiry, time of signing) stays in its chunk.

Chunks leave by the clock, and if there are too many those whose ids were signed first. From then on an id that was
signed as early and is not known counts as *forgotten*: it may have been run. All of this is decided once, by the worker
that compacts, and written into the log, so that no two workers ever disagree on what is known.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from servicebus.runtime.journal.answers import AnswerIndex
from servicebus.runtime.journal.interface import REFUSED, Release
from servicebus.runtime.journal.records import Compaction, Estate, Numbered

__all__ = ["CHUNK_IDS", "COMPACT_IDS", "GRACE_S", "NOBODY", "Entry", "Ledger", "Limits", "State"]

CHUNK_BITS = 12
CHUNK_IDS = 1 << CHUNK_BITS
_BIT_MASK = CHUNK_IDS - 1

# A chunk is one number: when it expires in the lowest 32 bits, above them when the last of its ids was signed, above
# them one bit for each id.
_TIME_BITS = 32
_TIME_MASK = (1 << _TIME_BITS) - 1
_IDS_AT = 2 * _TIME_BITS
# The order in which chunks leave when there are too many: when signed, then when expired, but for its lowest bit.
_ORDER_MASK = (1 << 63) - 1
_SIGNED_AT = 31

_BUCKET_BITS = 4
"""Chunks are looked at by expiry, 16 seconds at once."""

GRACE_S = 3600
"""How much longer than asked for an id is remembered: a clock that is set forward by mistake is set back again."""
_ROOM_SHARE = 64
"""When there are too many chunks, so much of the limit (one part in ...) is made free: looking for what to forget takes
tens of milliseconds, and must not be needed again soon."""

COMPACT_IDS = 4096
_COMPACT_EVERY_S = 10

NOBODY = 0
_NOTHING = (-1, 0, 0, 0, 0)


@dataclass(frozen=True)
class Limits:
    """How much is remembered at most."""

    max_entries: int = 250_000
    """Chunks of 4,096 ids (of one Sender), and unfinished ids."""
    max_answer_bytes: int = 64 * 1024 * 1024
    """Of all stored answers together. One that is larger than half of it is not stored."""
    reply_keep_s: float = 3600.0
    """How long an answer is given again."""


Entry = tuple[int, int, int, int, int]
"""An id that was begun and is not finished: its owner (NOBODY while it waits for its next attempt), its attempts, how
many of them ended with a death, its expiry, when it was signed. A plain tuple: one with names takes a third of a
microsecond to make."""


class State(NamedTuple):
    """What a ledger is to begin with, to know what another one knew. Nobody changes it."""

    owner: int = 0
    """The highest number that was ever given to a worker."""
    forgotten: int = 0
    forgotten_answers: int = 0
    forgotten_until: int = 0
    compacted_at: int = 0
    keep_from: int = 1
    """Answers in rows before this one are not kept."""
    chunks: dict[int, int] = {}  # noqa: RUF012 - not changed
    entries: dict[int, Entry] = {}  # noqa: RUF012


class Ledger:
    """Belongs to one thread. Methods named after rows apply one; times are whole Unix seconds."""

    def __init__(self, limits: Limits):
        self.applied = 0
        """The last row that this state knows."""
        self.owner = 0
        """The highest number that was ever given to a worker."""
        self.compacted_at = 0
        self.pending = 0
        """Ids that rows since the last compaction told of."""
        self.forgotten = 0
        """Ids that had to be forgotten before they expired."""
        self.forgotten_until = 0
        """They were signed until then: an unknown id that was too may be one of them."""
        self.forgotten_answers = 0
        self.keep_from = 1
        self.entries: dict[int, Entry] = {}
        self.answers = AnswerIndex(limits.max_answer_bytes, limits.reply_keep_s)
        self._max_entries = limits.max_entries
        self._chunks: dict[int, int] = {}
        self._due: dict[int, list[int]] = {}
        self._due_order: list[int] = []

    def __repr__(self) -> str:
        return f"<Ledger applied={self.applied} entries={len(self.entries)} chunks={len(self._chunks)}>"

    @property
    def chunk_count(self) -> int:
        return len(self._chunks)

    def count_finished(self) -> int:
        """How many finished ids are remembered; takes time in proportion to the chunks."""
        return sum((value >> _IDS_AT).bit_count() for value in self._chunks.values())

    # -- asking ------------------------------------------------------------------------------------------------------

    def is_finished(self, number: int) -> bool:
        value = self._chunks.get(number >> CHUNK_BITS)
        return value is not None and value >> (_IDS_AT + (number & _BIT_MASK)) & 1 == 1

    def unknown(self, asked: Sequence[tuple[str, int, int, int, bool]]) -> list[Numbered]:
        """Number, expiry and time of signing of those that were never begun, as far as is remembered."""
        entries, chunks = self.entries, self._chunks
        return [
            (number, until, sent)
            for _, number, until, sent, _ in asked
            if number not in entries and (number >> CHUNK_BITS not in chunks or not self.is_finished(number))
        ]

    def outlives(self, number: int, expires: int, sent: int) -> bool:
        """Will what is known of this id be remembered until *expires*, without being told so?"""
        entry = self.entries.get(number)
        if entry is not None:
            return entry[3] >= expires and entry[4] >= sent
        value = self._chunks.get(number >> CHUNK_BITS, 0)
        return value & _TIME_MASK >= expires and value >> _TIME_BITS & _TIME_MASK >= sent

    # -- rows ----------------------------------------------------------------------------------------------------------

    def begin(self, owner: int, starts: Sequence[Numbered]) -> None:
        """*owner* has what nobody has begun, and what waits for its next attempt; of the rest the expiry is noted."""
        self.pending += len(starts)
        entries = self.entries
        for number, expires, sent in starts:
            entry = entries.get(number)
            if entry is not None:
                holder, attempts, deaths, until, since = entry
                if holder == NOBODY:
                    holder, attempts = owner, attempts + 1
                entries[number] = (holder, attempts, deaths, max(expires, until), max(sent, since))
            elif self.is_finished(number):
                self._prolong(number >> CHUNK_BITS, expires, sent)
            else:
                entries[number] = (owner, 1, 0, expires, sent)

    def take_over(self, owner: int, starts: Sequence[Estate]) -> None:
        """*owner* gets what a dead worker left behind, unless somebody else has asked before."""
        self.pending += len(starts)
        for number, dead, expires, sent in starts:
            holder, attempts, deaths, until, since = self.entries.get(number, _NOTHING)
            if holder == dead:
                self.entries[number] = (owner, attempts + 1, deaths + 1, max(expires, until), max(sent, since))

    def finish(self, owner: int, numbers: Sequence[int]) -> None:
        self.pending += len(numbers)
        entries, chunks = self.entries, self._chunks
        for number in numbers:
            entry = entries.get(number)
            if entry is None or entry[0] != owner:
                continue
            del entries[number]
            key = number >> CHUNK_BITS
            value = chunks.get(key, 0)
            if value & _TIME_MASK < entry[3] or value >> _TIME_BITS & _TIME_MASK < entry[4]:
                value = self._prolong(key, entry[3], entry[4])
            chunks[key] = value | 1 << (_IDS_AT + (number & _BIT_MASK))

    def release(self, owner: int, why: Release, numbers: Sequence[int]) -> None:
        self.pending += len(numbers)
        for number in numbers:
            holder, attempts, deaths, expires, sent = self.entries.get(number, _NOTHING)
            if holder != owner:
                continue
            attempts -= why is Release.NOT_RUN
            if why is Release.BURIED or not attempts:
                del self.entries[number]
                # Another worker may hold a copy that is good for longer than the next one to be run.
                self._prolong(number >> CHUNK_BITS, expires, sent)
                continue
            if why is Release.REFUSED:
                self.entries[number] = (owner, attempts + REFUSED, deaths, expires, sent)
            else:
                self.entries[number] = (NOBODY, attempts, deaths, expires, sent)

    def own(self, number: int) -> None:
        """A worker has got that number."""
        self.owner = max(self.owner, number)

    def compact(self, compaction: Compaction) -> None:
        """Forget what the row says. Two workers may have planned at once: each row does what the other has left."""
        self._forget(compaction)
        if compaction.keep_from > self.keep_from:
            self.keep_from = compaction.keep_from
            self.forgotten_answers += compaction.forgotten_answers
            self.answers.drop_before(self.keep_from)
        self.compacted_at = compaction.at
        self.pending = 0

    def plan(self, now: int) -> Compaction:
        """What a compaction at *now* should do."""
        keep_from, early = self.answers.overdue(now)
        before = self._room_from()
        until = max(self.forgotten_until, before >> _SIGNED_AT)
        return Compaction(now, max(0, now - GRACE_S), before, until, keep_from, early)

    def is_compaction_due(self, now: float) -> bool:
        # Further away in either direction: clocks are set back as well.
        return bool(self.pending) and (self.pending >= COMPACT_IDS or abs(now - self.compacted_at) >= _COMPACT_EVERY_S)

    def sizes(self, large_answers: int) -> dict[str, int]:
        """For the status. Args: large_answers: how many were not stored for their size."""
        return {
            "chunks": len(self._chunks),
            "unfinished": len(self.entries),
            "answers": self.answers.count,
            "answer_bytes": self.answers.size,
            "forgotten_early": self.forgotten,
            "forgotten_until": self.forgotten_until,
            "answers_forgotten_early": self.forgotten_answers + large_answers,
        }

    # -- as a snapshot has it -----------------------------------------------------------------------------------------

    def state(self) -> State:
        """As it is now, for another thread: a copy, which takes milliseconds, of what nobody changes."""
        return State(
            self.owner,
            self.forgotten,
            self.forgotten_answers,
            self.forgotten_until,
            self.compacted_at,
            self.keep_from,
            dict(self._chunks),
            dict(self.entries),
        )

    def restore(self, seq: int, state: State) -> None:
        """Begin with what row *seq* and those before it told; what *state* has is the ledger's from here on."""
        self.applied = seq
        self.owner, self.forgotten, self.forgotten_answers, self.forgotten_until = state[:4]
        self.compacted_at, self.keep_from, self._chunks, self.entries = state[4:]
        for key, value in self._chunks.items():
            self._note_due(key, value & _TIME_MASK)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _prolong(self, key: int, expires: int, sent: int) -> int:
        """Have the chunk remembered until *expires*, and know that one of its ids was signed at *sent*."""
        value = self._chunks.get(key)
        if value is None:
            self._note_due(key, expires)
            value = 0
        later = max(expires - (value & _TIME_MASK), 0)
        newer = max(sent - (value >> _TIME_BITS & _TIME_MASK), 0)
        value = self._chunks[key] = value + (newer << _TIME_BITS) + later
        return value

    def _note_due(self, key: int, expires: int) -> None:
        bucket = expires >> _BUCKET_BITS
        keys = self._due.get(bucket)
        if keys is None:
            keys = self._due[bucket] = []
            heapq.heappush(self._due_order, bucket)
        keys.append(key)

    def _forget(self, compaction: Compaction) -> None:
        expired = compaction.expired_before
        for number, entry in list(self.entries.items()):
            # What is held is run, however long that takes.
            if entry[0] == NOBODY and entry[3] < expired:
                del self.entries[number]
        while self._due_order and self._due_order[0] < expired >> _BUCKET_BITS:
            self._drop(self._settle_bucket(heapq.heappop(self._due_order)))
        before = compaction.forget_before
        self.forgotten_until = max(self.forgotten_until, compaction.forgotten_until)
        if before:
            early = [key for key, value in self._chunks.items() if value >> 1 & _ORDER_MASK < before]
            self.forgotten += sum((self._chunks[key] >> _IDS_AT).bit_count() for key in early)
            self._drop(early)

    def _drop(self, keys: Iterable[int]) -> None:
        for key in keys:
            del self._chunks[key]

    def _settle_bucket(self, bucket: int) -> set[int]:
        """The chunks that do expire in *bucket*, which is taken away; the others have been prolonged since."""
        due = set()
        for key in self._due.pop(bucket):
            value = self._chunks.get(key)
            if value is None:
                continue  # forgotten early
            expires = value & _TIME_MASK
            if expires >> _BUCKET_BITS == bucket:
                due.add(key)
            else:
                self._note_due(key, expires)
        return due

    def _room_from(self) -> int:
        """Before which place in their order chunks have to go, so that the others are few enough; 0 if they are."""
        excess = len(self._chunks) + len(self.entries) - self._max_entries
        if excess <= 0 or not self._chunks:
            return 0
        order = sorted(value >> 1 & _ORDER_MASK for value in self._chunks.values())
        return order[min(excess + self._max_entries // _ROOM_SHARE, len(order)) - 1] + 1
